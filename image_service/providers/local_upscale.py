"""Upscaling: Lanczos resampling, and a sharpening for the softness that it leaves, in three strengths.

``fast`` sharpens mildly, ``conservative`` brings out edges that are there, ``creative`` adds grain-like detail where
the picture has structure; nothing is recognised, so nothing is invented that means something.
"""

from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from image_service.providers.local_pixels import colours, luminance, picture
from image_service.providers.requests import UpscaleKind

#: Radius in pixels of the result per factor of enlargement; percent; smallest difference that counts.
_SHARPEN_RADIUS_PER_FACTOR: Final = 0.6
_SHARPEN_PERCENT: Final[dict[UpscaleKind, int]] = {"fast": 60, "conservative": 120, "creative": 90}
_SHARPEN_THRESHOLD: Final = 2
_CREATIVITY_DEFAULT: Final = 0.35
_DETAIL_MAX: Final = 40.0


def upscale(
    image: Image.Image,
    width: int,
    height: int,
    kind: UpscaleKind = "fast",
    creativity: float | None = None,
    seed: int = 0,
) -> Image.Image:
    """The image at exactly this size, in pixels. Mode and profile stay."""
    factor = max(width / image.width, height / image.height)
    larger = image.resize((width, height), Image.Resampling.LANCZOS)  # weights colours by their alpha itself
    sharpened = larger.filter(
        ImageFilter.UnsharpMask(_SHARPEN_RADIUS_PER_FACTOR * factor, _SHARPEN_PERCENT[kind], _SHARPEN_THRESHOLD)
    )
    if kind == "creative":
        amount = _CREATIVITY_DEFAULT if creativity is None else creativity
        sharpened = _with_detail(sharpened, amount, seed).convert(image.mode)
    if image.mode == "RGBA":
        sharpened.putalpha(larger.getchannel("A"))
    sharpened.info = dict(image.info)
    return sharpened


def _with_detail(image: Image.Image, amount: float, seed: int) -> Image.Image:
    """Noise where neighbours differ: on hair and leaves, not on sky."""
    values = colours(image)
    tones = luminance(values)
    structure = np.abs(tones - np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(2)), dtype=np.float32))
    noise = np.random.default_rng(seed).normal(0, 1, tones.shape).astype(np.float32)
    detail = noise * np.minimum(structure, _DETAIL_MAX) * amount
    return picture(values + detail[:, :, None])
