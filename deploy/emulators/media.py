"""What the emulators give back: real files, the same ones for the same request.

A picture without a source is a gradient in colours drawn from its seed; one with a source is the source, at the size of
the result, tinted by that gradient. So a person sees what was done, and nobody takes it for what a model would make.
"""

import base64
import binascii
import hashlib
import io
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from PIL import Image, ImageChops, ImageEnhance, ImageOps, UnidentifiedImageError

from deploy.emulators import glb, mp4

CACHED_MAX: Final = 16
PREVIEW_EDGE: Final = 512
FRAMES_A_SECOND: Final = 2
TINT: Final = 0.25
_MODES: Final = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
_DATA: Final = re.compile(r"data:image/[a-z+.-]+;base64,")
_PLACEHOLDER_EDGE: Final = 64
_SUFFIXES: Final = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp"}


class Form(StrEnum):
    IMAGE = "image"
    CLIP = "clip"
    MODEL = "model"


class NotAnImageError(ValueError):
    """Bytes that a provider would refuse as an image. The text says why."""


@dataclass(frozen=True)
class Upload:
    """An image that was sent."""

    content: bytes
    media_type: str
    width: int
    height: int
    has_alpha: bool
    #: A small JPEG of it: what results are made of, for the book keeps them all.
    preview: bytes

    @property
    def pixels(self) -> int:
        return self.width * self.height


@dataclass(frozen=True)
class Result:
    """A file to be made. Equal ones are the same bytes."""

    width: int
    height: int
    seed: str
    media_type: str = "image/png"
    #: The preview of an upload.
    source: bytes | None = None
    cut_out: bool = False
    blurred: bool = False
    form: Form = Form.IMAGE
    seconds: int = 0

    @property
    def suffix(self) -> str:
        match self.form:
            case Form.CLIP:
                return "mp4"
            case Form.MODEL:
                return "glb"
            case Form.IMAGE:
                return _SUFFIXES[self.media_type]

    @property
    def content_type(self) -> str:
        match self.form:
            case Form.CLIP:
                return mp4.MEDIA_TYPE
            case Form.MODEL:
                return glb.MEDIA_TYPE
            case Form.IMAGE:
                return self.media_type


def read_upload(content: bytes) -> Upload:
    """Decodes it wholly. Raises NotAnImageError where it is no PNG, JPEG or WebP, or not a whole one."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            media_type = _MODES.get(image.format or "")
            if media_type is None:
                raise NotAnImageError(f"{image.format} is not one of PNG, JPEG and WebP")
            alpha = image.has_transparency_data
            return Upload(content, media_type, image.width, image.height, alpha, _preview(image))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, SyntaxError) as error:
        raise NotAnImageError(f"not a whole image: {error}") from error


def read_reference(text: str) -> Upload:
    """An image as JSON carries it: an address, a data URI or base64. Raises NotAnImageError.

    An address is taken as it is: there is no network here, so what stands behind it counts as one small picture.
    """
    if text.startswith(("http://", "https://")):
        return read_upload(make(Result(_PLACEHOLDER_EDGE, _PLACEHOLDER_EDGE, text)))
    try:
        return read_upload(base64.b64decode(_DATA.sub("", text, count=1), validate=True))
    except binascii.Error as error:
        raise NotAnImageError("neither an address nor base64") from error


@lru_cache(CACHED_MAX)
def make(result: Result) -> bytes:
    """The file's bytes."""
    match result.form:
        case Form.CLIP:
            count = max(result.seconds, 1) * FRAMES_A_SECOND
            picture = _picture(result).convert("RGB")
            frames = [_encoded(_moved(picture, number, count), "image/jpeg") for number in range(count)]
            return mp4.clip(frames, result.width, result.height, max(result.seconds, 1))
        case Form.MODEL:
            return glb.textured_quad(_encoded(_picture(result), "image/jpeg"))
        case Form.IMAGE:
            return _encoded(_picture(result), result.media_type)


def _picture(result: Result) -> Image.Image:
    size = (result.width, result.height)
    digest = hashlib.sha256(result.seed.encode()).digest()
    colours = [(digest[at], digest[at + 1], digest[at + 2]) for at in (0, 3, 6)]
    shape = Image.linear_gradient("L") if digest[9] % 2 else Image.radial_gradient("L")
    picture = ImageOps.colorize(shape, colours[0], colours[1], colours[2]).resize(size)
    if result.source is not None:
        with Image.open(io.BytesIO(result.source)) as source:
            picture = Image.blend(source.convert("RGB").resize(size), picture, TINT)
    if result.blurred:
        # As a filtered output looks: nothing can be made out.
        picture = picture.resize((2, 2)).resize(size)
    if result.cut_out:
        picture.putalpha(ImageOps.invert(Image.radial_gradient("L")).resize(size))
    return picture


def _preview(image: Image.Image) -> bytes:
    # Of integers and floats, Pillow makes no colours in one step.
    picture = (image.convert("L") if image.mode.startswith(("I", "F")) else image).convert("RGB")
    picture.thumbnail((PREVIEW_EDGE, PREVIEW_EDGE))
    return _encoded(picture, "image/jpeg")


def _moved(picture: Image.Image, number: int, count: int) -> Image.Image:
    shifted = ImageChops.offset(picture, number * picture.width // (4 * count), 0)
    return ImageEnhance.Brightness(shifted).enhance(1 - number / (4 * count))


def _encoded(picture: Image.Image, media_type: str) -> bytes:
    out = io.BytesIO()
    match media_type:
        case "image/png":
            picture.save(out, "PNG", compress_level=1)
        case "image/webp":
            picture.save(out, "WEBP", quality=80, method=0)
        case _:
            picture.convert("RGB").save(out, "JPEG", quality=85)
    return out.getvalue()
