"""Upscaling with Lanczos resampling and a mild sharpening for the softness that it leaves."""

from typing import Final

from PIL import Image, ImageFilter

#: Radius in pixels of the result per factor of enlargement; percent; smallest difference that counts.
_SHARPEN_RADIUS_PER_FACTOR: Final = 0.6
_SHARPEN_PERCENT: Final = 60
_SHARPEN_THRESHOLD: Final = 2


def upscale(image: Image.Image, width: int, height: int) -> Image.Image:
    """The image at exactly this size, in pixels. Mode and profile stay."""
    factor = max(width / image.width, height / image.height)
    larger = image.resize((width, height), Image.Resampling.LANCZOS)  # weights colours by their alpha itself
    sharpened = larger.filter(
        ImageFilter.UnsharpMask(_SHARPEN_RADIUS_PER_FACTOR * factor, _SHARPEN_PERCENT, _SHARPEN_THRESHOLD)
    )
    if image.mode == "RGBA":
        sharpened.putalpha(larger.getchannel("A"))
    sharpened.info = dict(image.info)
    return sharpened
