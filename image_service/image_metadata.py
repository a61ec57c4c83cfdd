"""Pictures without what else is in their files: place, camera, names, thumbnails, further pictures. Pure.

What says how the pixels are to be shown stays: the compressed pixels as they are, byte for byte, colour profiles,
gamma, transparency, resolution. All the rest goes, what nobody has heard of yet too. Orientation goes as well: it is
for pictures that are upright without it (`image_service.images.examine` turns the others).

Formats: JPEG, ITU-T T.81 annex B (markers), T.871 (JFIF), T.872 (APP14 Adobe) and ICC.1 annex B.4 (APP2 ICC_PROFILE);
PNG, https://www.w3.org/TR/png-3/#11Chunks; WebP, RFC 9649.
"""

import re
import struct
from collections.abc import Iterator
from typing import Final

_EOI, _SOS = 0xD9, 0xDA
_APP0, _APP2, _APP14 = 0xE0, 0xE2, 0xEE
_SCAN: Final = bytes((0xFF, _SOS))
#: Frames, scans, and the tables that they are decoded by.
_CODING: Final = frozenset({*range(0xC0, 0xD0), *range(_SOS, _APP0)})
#: Stands alone, without a length.
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
#: In compressed pixels: a marker that is no stuffed byte, no restart and no filling.
_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JFIF_BYTES: Final = 14

_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT: Final = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"mDCV", b"cLLI"}
    | {b"sBIT", b"pHYs", b"bKGD"}
)

_WEBP_KEPT: Final = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ICCP"})
#: In the flags of VP8X: there is EXIF, there is XMP.
_WEBP_FLAGS: Final = 0x08 | 0x04


def without_metadata(content: bytes, media_type: str) -> bytes:
    """The same picture, with the same pixels. Idempotent; what has nothing to lose is given back as it is.

    Raises ValueError where the file is not built as its format has it, though a patient reader may make out its pixels.
    """
    pieces = {"image/jpeg": _jpeg, "image/png": _png, "image/webp": _webp}[media_type](content)
    try:
        kept = b"".join(pieces)
    except (struct.error, IndexError) as error:
        raise ValueError("the file ends too early") from error
    return content if kept == content else kept


def jpeg_scans(content: bytes, most: int) -> int:
    """How often its pixels are gone over to decode it; not counted further than one above ``most``. Of a file that is
    not built as its format has it: no fewer than a patient reader would find."""
    scans = 0
    try:
        for piece in _jpeg(content):
            scans += piece.startswith(_SCAN)
            if scans > most:
                break
    except (ValueError, struct.error, IndexError):
        return content.count(_SCAN)
    return scans


def _jpeg(content: bytes) -> Iterator[bytes]:
    if content[:2] != b"\xff\xd8":
        raise ValueError("no JPEG")
    yield content[:2]
    at = 2
    while True:
        if content[at] != 0xFF:
            raise ValueError("no marker where one is due")
        while content[at] == 0xFF:  # filling before a marker
            at += 1
        marker = content[at]
        at += 1
        if marker == _EOI:
            yield b"\xff\xd9"
            return  # what follows is no part of the picture
        if marker in _ALONE:
            continue
        (length,) = struct.unpack_from(">H", content, at)
        segment = content[at : at + length]
        if length < 2 or len(segment) < length:
            raise ValueError("a segment is cut off")
        at += length
        kept = _jpeg_kept(marker, segment[2:])
        if kept is not None:
            yield bytes((0xFF, marker)) + struct.pack(">H", len(kept) + 2) + kept
        if marker == _SOS:
            following = _MARKER.search(content, at)
            if following is None:
                raise ValueError("the pixels are cut off")
            yield content[at : following.start()]
            at = following.start()


def _jpeg_kept(marker: int, body: bytes) -> bytes | None:
    """What stays of a segment; None: nothing."""
    if marker == _APP0 and body.startswith(b"JFIF\0") and len(body) >= _JFIF_BYTES:
        return body[: _JFIF_BYTES - 2] + b"\0\0"  # without its thumbnail
    if marker == _APP2 and body.startswith(b"ICC_PROFILE\0"):
        return body
    if marker == _APP14 and body.startswith(b"Adobe"):  # it says how colours are coded
        return body
    return body if marker in _CODING else None


def _png(content: bytes) -> Iterator[bytes]:
    if not content.startswith(_PNG_SIGNATURE):
        raise ValueError("no PNG")
    yield _PNG_SIGNATURE
    at, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, at)
        chunk = content[at : at + length + 12]
        if len(chunk) < length + 12:
            raise ValueError("a chunk is cut off")
        at += len(chunk)
        if kind in _PNG_KEPT:
            yield chunk


def _webp(content: bytes) -> Iterator[bytes]:
    riff, size, form = struct.unpack_from("<4sI4s", content)
    if (riff, form) != (b"RIFF", b"WEBP") or size + 8 > len(content):
        raise ValueError("no WebP, or cut off")
    kept, at, end = [], 12, size + 8
    while at < end:
        kind, length = struct.unpack_from("<4sI", content, at)
        chunk = content[at : at + 8 + length]
        if len(chunk) < length + 8 or at + len(chunk) > end:
            raise ValueError("a chunk is cut off")
        at += len(chunk) + length % 2
        if kind == b"ANMF":
            raise ValueError("an animation")
        if kind == b"VP8X" and length:
            chunk = chunk[:8] + bytes((chunk[8] & ~_WEBP_FLAGS,)) + chunk[9:]
        if kind in _WEBP_KEPT:
            kept.append(chunk + b"\0" * (length % 2))
    body = b"".join(kept)
    yield struct.pack("<4sI4s", b"RIFF", len(body) + 4, b"WEBP") + body
