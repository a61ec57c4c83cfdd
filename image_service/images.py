"""Images that come in: what they are, whether they may be decoded, and their pixels in one of three plain modes."""

import io
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal

from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from image_service.artifacts import Artifact, Content
from image_service.image_metadata import jpeg_scans, without_metadata

MediaType = Literal["image/png", "image/jpeg", "image/webp"]

#: By Pillow's name of the format. MPO is a JPEG with further pictures behind it, as phones write them.
_MEDIA_TYPES: Final[dict[str, MediaType]] = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "WEBP": "image/webp",
}
_FORMATS: Final = ("PNG", "JPEG", "WEBP")
_EXIF_ORIENTATION: Final = 0x0112
#: Which colours a profile is about (ICC.1, 7.2.6).
_PROFILE_SPACE: Final = slice(16, 20)
#: What makes it upright, by what EXIF says of it.
_TURNS: Final[dict[object, Image.Transpose]] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: Of a JPEG: encoders write ten or so. Each goes over all pixels, and can be told in some sixty bytes.
SCANS_MAX: Final = 100
#: Of JPEG and WebP that are written anew before a provider gets them.
_REWRITTEN_QUALITY: Final = 97

# Pillow's own limit is one number for the whole process and only a warning up to twice that; ours is `Bounds`, and
# everything here is opened through `_open`, which checks it before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class Bounds:
    """The largest image that is taken in or produced."""

    pixels_max: int
    edge_pixels_max: int

    def broken_by(self, width: int, height: int) -> str | None:
        """What is wrong with a size, or None."""
        if width < 1 or height < 1:
            return f"{width} x {height} pixels is no image"
        if max(width, height) > self.edge_pixels_max:
            return f"{width} x {height} pixels; an edge may have {self.edge_pixels_max}"
        if width * height > self.pixels_max:
            return f"{width} x {height} pixels; an image may have {self.pixels_max} in all"
        return None


@dataclass(frozen=True)
class SourceImage:
    """An uploaded image that was decoded once and found sound, as a file that every reader understands alike: upright,
    8 bits a channel, in mode L, RGB or RGBA. Size in pixels."""

    content: Content
    media_type: MediaType
    width: int
    height: int
    has_alpha: bool = False


class BadImageError(ValueError):
    """The bytes are not an image that can be worked on; the message says why, for the caller."""


def examine(content: Content, bounds: Bounds) -> SourceImage:
    """Decode an upload once, to know that it is sound. The content decides the media type, not a name or header.

    What readers understand in different ways (turned by EXIF, CMYK, 16 bits, a palette …) is written anew, in memory.
    Raises BadImageError. Takes the time of one decode: for a worker thread.
    """
    if not content.size_bytes:
        raise BadImageError("the file is empty")
    with content.open() as file:
        image = _open(file, bounds)
        if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
            raise BadImageError("the image is animated; send a single picture")
        is_plain = image.mode in ("L", "RGB", "RGBA") and "transparency" not in image.info and _is_stored_so(image)
        media_type = _MEDIA_TYPES[str(image.format)]
        if media_type == "image/jpeg" and jpeg_scans(content.read(), SCANS_MAX) > SCANS_MAX:
            raise BadImageError(f"the image has more than {SCANS_MAX} scans; write it anew")
        pixels = _decode(image)
        is_upright = _turn(image) is None
    if not (is_plain and is_upright):
        content = encode(pixels, media_type, quality=_REWRITTEN_QUALITY).content
    return SourceImage(content, media_type, pixels.width, pixels.height, has_alpha=pixels.mode == "RGBA")


def stripped(source: SourceImage) -> Content:
    """An examined image without what its file says beside the pixels (place, camera, names …): losslessly, or written
    anew where its file is not built as its format has it. In memory; for a worker thread."""
    content = source.content.read()
    try:
        kept = without_metadata(content, source.media_type)
    except ValueError:
        return encode(pixels_of(source), source.media_type, quality=_REWRITTEN_QUALITY).content
    return source.content if kept is content else Content(kept)


def pixels_of(source: SourceImage) -> Image.Image:
    """The pixels of an examined image, upright, in mode L, RGB or RGBA. For a worker thread."""
    with source.content.open() as file:
        return _decode(_open(file, Bounds(pixels_max=source.width * source.height, edge_pixels_max=2**31)))


def encode(image: Image.Image, media_type: str, quality: int = 92) -> Artifact:
    """The image as a file of this media type. JPEG has no alpha: such pixels are laid on white. ``quality`` of JPEG and
    WebP."""
    buffer = io.BytesIO()
    profile = image.info.get("icc_profile")
    if media_type == "image/jpeg":
        _without_alpha(image).save(buffer, "JPEG", quality=quality, icc_profile=profile)
    elif media_type == "image/webp":
        image.save(buffer, "WEBP", quality=quality, method=3, icc_profile=profile)
    else:
        # Level 4 is a third of the time of the default for a few per cent of size.
        image.save(buffer, "PNG", compress_level=4, icc_profile=profile)
    return Artifact.of(buffer.getvalue(), media_type, width=image.width, height=image.height)


def _open(file: BinaryIO, bounds: Bounds) -> ImageFile.ImageFile:
    try:
        image = Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError:
        raise BadImageError("not a PNG, JPEG or WebP image, or cut off at its beginning") from None
    except Exception as error:
        raise BadImageError(f"the image cannot be read: {error}") from error
    too_large = bounds.broken_by(*image.size)
    if too_large:
        raise BadImageError(too_large)
    return image


def _is_stored_so(image: ImageFile.ImageFile) -> bool:
    """Whether a PNG has its pixels as they are decoded: of 16 bits a channel, say, readers make eight."""
    return image.format != "PNG" or all(tile.args == image.mode for tile in image.tile)


def _decode(image: ImageFile.ImageFile) -> Image.Image:
    try:
        stored_as = image.tile[0].args if image.format == "PNG" and image.tile else None
        image.load()
        _scale_transparency(image, stored_as)
        turn = _turn(image)
        return _plain_mode(image if turn is None else image.transpose(turn))
    except Exception as error:
        raise BadImageError(f"the image is damaged or cut off: {error}") from error


def _scale_transparency(image: Image.Image, stored_as: object) -> None:
    """The colour of a PNG that is transparent is told in the file's own bits; Pillow compares it with eight of them."""
    told = image.info.get("transparency")
    if stored_as in ("L;2", "L;4") and isinstance(told, int):
        image.info["transparency"] = told * (85 if stored_as == "L;2" else 17)
    elif stored_as == "RGB;16B" and isinstance(told, tuple):
        image.info["transparency"] = tuple(part >> 8 for part in told)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Of a decoded image; None where it is upright, or what stands there is no EXIF: its pixels are sound all the
    same."""
    try:
        return _TURNS.get(image.getexif().get(_EXIF_ORIENTATION))
    except Exception:  # noqa: BLE001  whatever a reader of broken EXIF raises
        return None


def _plain_mode(image: Image.Image) -> Image.Image:
    """Mode L, RGB or RGBA with the same look; keeps an RGB profile, drops all other metadata (place, camera …)."""
    profile = image.info.get("icc_profile")
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        plain = image
    elif image.mode.startswith("I"):
        # 16 bits a pixel: the upper eight. convert("L") would clip at 255 instead.
        values = image.convert("I")
        plain = values.point([value >> 8 for value in range(65_536)], "L")
        if "transparency" in image.info:
            alpha = values.point([255 * (value != image.info["transparency"]) for value in range(65_536)], "L")
            plain = Image.merge("LA", (plain, alpha)).convert("RGBA")
    elif image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        plain = image.convert("RGBA")
    elif image.mode == "CMYK":
        plain, profile = _from_cmyk(image, profile), None
    elif image.mode == "1":
        plain = image.convert("L")
    else:
        plain = image.convert("RGB")
    plain = plain.copy() if plain is image else plain
    is_of_these = plain.mode != "L" and profile is not None and profile[_PROFILE_SPACE] == b"RGB "
    plain.info = {"icc_profile": profile} if is_of_these else {}
    return plain


def _from_cmyk(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError):  # a broken profile: the colours are then those without one
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")


def _without_alpha(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image).convert("RGB")
