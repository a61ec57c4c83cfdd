"""The effects of ``edit``. Each takes and gives an image in mode L, RGB or RGBA; alpha is left as it is."""

from typing import Final, assert_never

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from image_service.providers.requests import EffectEdit

_SEPIA_DARK: Final = (38, 24, 12)
_SEPIA_MIDDLE: Final = (162, 124, 82)
_SEPIA_LIGHT: Final = (255, 242, 214)
#: Blur radius at strength 1, as a share of the longer edge.
_BLUR_RADIUS_SHARE: Final = 0.02

_QUARTER_TURNS: Final = {
    # Pillow counts counter-clockwise, this service clockwise.
    90: Image.Transpose.ROTATE_270,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}


def apply_edit(image: Image.Image, request: EffectEdit) -> Image.Image:
    """The edited image, exactly ``request.width`` x ``request.height`` pixels."""
    match request.effect:
        case "enhance":
            edited = _on_colours(image, _enhance(_colours(image), request.strength))
        case "grayscale":
            edited = _on_colours(image, ImageOps.grayscale(_colours(image)))
        case "sepia":
            edited = _on_colours(image, _sepia(_colours(image), request.strength))
        case "blur":
            radius = max(image.size) * _BLUR_RADIUS_SHARE * request.strength
            edited = _blur(image, radius)
        case "sharpen":
            percent = round(300 * request.strength)
            edited = _on_colours(image, _colours(image).filter(ImageFilter.UnsharpMask(2, percent, 2)))
        case "rotate":
            edited = image.transpose(_QUARTER_TURNS[request.angle])
        case "crop":
            right, bottom = request.left + request.width, request.top + request.height
            edited = image.crop((request.left, request.top, right, bottom))
        case "resize":
            edited = image.resize((request.width, request.height), Image.Resampling.LANCZOS)
        case _:
            assert_never(request.effect)
    edited.info = dict(image.info) if edited.mode != "L" else {}
    return edited


def _enhance(image: Image.Image, strength: float) -> Image.Image:
    """More contrast, colour and definition; strength blends from none of it to all."""
    stretched = ImageOps.autocontrast(image, cutoff=0.5, preserve_tone=image.mode == "RGB")
    image = Image.blend(image, stretched, strength)
    if image.mode == "RGB":
        image = ImageEnhance.Color(image).enhance(1 + 0.5 * strength)
    image = ImageEnhance.Contrast(image).enhance(1 + 0.16 * strength)
    return image.filter(ImageFilter.UnsharpMask(2, round(90 * strength), 3))


def _sepia(image: Image.Image, strength: float) -> Image.Image:
    """At strength 0.5 and above a full sepia, below it a blend with the original."""
    toned = ImageOps.colorize(ImageOps.grayscale(image), _SEPIA_DARK, _SEPIA_LIGHT, _SEPIA_MIDDLE)
    return Image.blend(image.convert("RGB"), toned, min(1.0, strength * 2))


def _colours(image: Image.Image) -> Image.Image:
    return image.convert("RGB") if image.mode == "RGBA" else image


def _on_colours(original: Image.Image, edited: Image.Image) -> Image.Image:
    """The edited colours with the original's alpha, where it has one."""
    if original.mode != "RGBA":
        return edited
    whole = edited.convert("RGBA")
    whole.putalpha(original.getchannel("A"))
    return whole


def _blur(image: Image.Image, radius: float) -> Image.Image:
    blur = ImageFilter.GaussianBlur(radius)
    if image.mode != "RGBA":
        return image.filter(blur)
    # Weighted by alpha: the colour of a transparent pixel must not bleed into its neighbours.
    return image.convert("RGBa").filter(blur).convert("RGBA")
