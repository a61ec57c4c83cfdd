"""What a provider delivered, checked by its content: an image that decodes, a whole GLB, a whole MP4.

Blocks: for worker threads. What cannot be used raises BadResultError; it was paid for all the same.
"""

import base64
import binascii
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image

from image_service.artifacts import GLB, MP4, Artifact, Content
from image_service.images import BadImageError, Bounds, SourceImage, encode, examine, pixels_of

GLB_HEADER: Final = struct.Struct("<4sII")
BOXES_MAX: Final = 10_000
#: How far a result's proportions may be from those that were asked for, to be cropped to them: providers that know
#: proportions only make 1536 x 640 of 21:9, and are asked for what is close to it.
PROPORTIONS_OFF_MAX: Final = 0.08


class BadResultError(Exception):
    """What came is not what it should be; the message says why, without naming the provider."""


def image_from(source: bytes | Path, bounds: Bounds) -> Artifact:
    """An image as it came, found sound."""
    found = _examined(source, bounds)
    return Artifact(found.content, found.media_type, found.width, found.height)


def image_of_size(source: bytes | Path, bounds: Bounds, width: int, height: int) -> Artifact:
    """An image of exactly this size: models that round sizes to their own steps, or know proportions only, give one
    that is close, which is scaled to cover the size, and cropped around its middle."""
    found = _examined(source, bounds)
    if (found.width, found.height) == (width, height):
        return Artifact(found.content, found.media_type, width, height)
    if not can_be_cropped(found.width, found.height, width, height):
        raise BadResultError(f"the image has {found.width} x {found.height} pixels instead of {width} x {height}")
    pixels = pixels_of(found)
    scale = max(width / found.width, height / found.height)
    left, top = (found.width - width / scale) / 2, (found.height - height / scale) / 2
    box = (left, top, found.width - left, found.height - top)
    fitted = pixels.resize((width, height), Image.Resampling.LANCZOS, box=box)
    fitted.info = dict(pixels.info)
    return encode(fitted, found.media_type)


def can_be_cropped(width: int, height: int, wanted_width: int, wanted_height: int) -> bool:
    """Whether an image of this size is close enough to the proportions that are wanted."""
    return abs(width * wanted_height / (height * wanted_width) - 1) <= PROPORTIONS_OFF_MAX


def glb_from(source: bytes | Path) -> Artifact:
    """A binary glTF 2.0 (Khronos glTF 2.0 specification, section 4.4): its header says how long it is."""
    content = Content(source)
    with content.open() as file:
        header = file.read(GLB_HEADER.size)
    if len(header) < GLB_HEADER.size:
        raise BadResultError("the 3D model is empty or cut off")
    magic, version, length = GLB_HEADER.unpack(header)
    if magic != b"glTF" or version != 2:
        raise BadResultError("the 3D model is no GLB")
    if length != content.size_bytes:
        raise BadResultError(f"the 3D model has {content.size_bytes} bytes of {length}")
    return Artifact(content, GLB)


def mp4_from(source: bytes | Path) -> Artifact:
    """An MP4 (ISO 14496-12): boxes from end to end, ftyp and moov among them."""
    content = Content(source)
    duration_ms = None
    with content.open() as file:
        kinds = set()
        for kind, body_at, size in _boxes(file, 0, content.size_bytes):
            kinds.add(kind)
            if kind == b"moov":
                duration_ms = _duration_ms(file, body_at, size)
    if b"ftyp" not in kinds:
        raise BadResultError("the clip is no MP4")
    if b"moov" not in kinds:
        raise BadResultError("the clip is cut off")
    return Artifact(content, MP4, duration_ms=duration_ms)


def decoded(text: str) -> bytes:
    """Base64, as it is or as a data: URL."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadResultError("the result is no base64") from error


def _examined(source: bytes | Path, bounds: Bounds) -> SourceImage:
    try:
        return examine(Content(source), bounds)
    except BadImageError as error:
        raise BadResultError(str(error)) from error


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, where its body begins, and the body's size, of every box there. Raises BadResultError."""
    at = start
    for _ in range(BOXES_MAX):
        if at == end:
            return
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            break
        size, kind = struct.unpack(">I4s", head)
        header_size = 8
        if size == 1:
            large = file.read(8)
            size, header_size = (struct.unpack(">Q", large)[0] if len(large) == 8 else 0), 16
        elif size == 0:  # to the end of the file
            size = end - at
        if size < header_size or at + size > end:
            break
        yield kind, at + header_size, size - header_size
        at += size
    raise BadResultError("the clip is no MP4, or cut off")


def _duration_ms(file: BinaryIO, at: int, size: int) -> int | None:
    for kind, body_at, body_size in _boxes(file, at, at + size):
        if kind != b"mvhd" or body_size < 20:
            continue
        file.seek(body_at)
        body = file.read(32)
        layout = struct.Struct(">II") if body[0] == 0 else struct.Struct(">IQ")
        place = 12 if body[0] == 0 else 20
        if len(body) >= place + layout.size:
            scale, duration = layout.unpack_from(body, place)
            return round(duration * 1000 / scale) if scale else None
    return None
