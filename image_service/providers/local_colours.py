"""Edits by colour: general edits by words, search by a named colour, and light."""

from typing import Final, assert_never

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from image_service.providers.base import ProviderError
from image_service.providers.local_pixels import Flags, Floats, colours, luminance, picture, with_alpha_of
from image_service.providers.local_render import render
from image_service.providers.local_words import Colour, changes_in, colour_in
from image_service.providers.requests import LightDirection

#: Hues within this of each other, in degrees, have one name; greys have less saturation than this.
_HUE_DEGREES: Final = 28.0
_GREY_SATURATION: Final = 0.18
_STRENGTH_DEFAULT: Final = 0.6
_WARM, _COOL = np.array([1.12, 1.0, 0.86], np.float32), np.array([0.88, 1.0, 1.14], np.float32)


def general(image: Image.Image, prompt: str, mask: Image.Image | None, strength: float | None) -> Image.Image:
    """The changes that the prompt names (local_words.CHANGES), where the mask is white if there is one."""
    ground = image.convert("RGB")
    edited = ground
    for change in changes_in(prompt):
        edited = _changed(edited, change)
    edited = Image.blend(ground, edited, 1.0 if strength is None else strength)
    if mask is not None:
        edited = Image.composite(edited, ground, mask.convert("L"))
    return with_alpha_of(image, edited)


def search_recolor(image: Image.Image, search: str, prompt: str) -> Image.Image:
    """What has the colour that ``search`` names gets the one that the prompt names, as light and dark as it was."""
    wanted = _named(prompt)
    found = _matching(image, _named(search))
    values = colours(image)
    light = luminance(values)[:, :, None]
    target = np.array(wanted, np.float32)
    own = float(luminance(target[None, None, :])[0, 0])
    tinted = target * (light / max(own, 1.0))
    return with_alpha_of(image, Image.composite(picture(tinted), image.convert("RGB"), _soft(found)))


def search_replace(image: Image.Image, search: str, prompt: str, seed: int) -> Image.Image:
    """What has the colour that ``search`` names becomes part of the picture for the prompt."""
    found = _matching(image, _named(search))
    drawn = render(prompt, seed, max(16, image.width), max(16, image.height), 0).resize(image.size)
    wanted = colour_in(prompt)
    if wanted is not None:
        drawn = Image.blend(drawn, Image.new("RGB", image.size, wanted), 0.5)
    return with_alpha_of(image, Image.composite(drawn, image.convert("RGB"), _soft(found)))


def relight(
    image: Image.Image, prompt: str | None, direction: LightDirection | None, strength: float | None
) -> Image.Image:
    """Light from one side, in the colour that the prompt names (or warm, or cool); without a side, from above."""
    force = _STRENGTH_DEFAULT if strength is None else strength
    height, width = image.height, image.width
    down = np.linspace(1, -1, height, dtype=np.float32)[:, None] * np.ones((1, width), np.float32)
    across = np.linspace(1, -1, width, dtype=np.float32)[None, :] * np.ones((height, 1), np.float32)
    match direction or "above":
        case "above":
            light = down
        case "below":
            light = -down
        case "left":
            light = across
        case "right":
            light = -across
        case other:
            assert_never(other)
    changes = changes_in(prompt)
    named = colour_in(prompt)
    tint = _WARM if "warm" in changes else _COOL if "cool" in changes else np.ones(3, np.float32)
    if named is not None:
        tint = np.array(named, np.float32) / max(float(np.mean(named)), 1.0)
    lit = np.clip(light, 0, 1)[:, :, None]
    gain = 1 + force * 0.7 * light[:, :, None]
    coloured = 1 + (tint - 1) * force * lit
    return with_alpha_of(image, picture(colours(image) * gain * coloured))


def _changed(image: Image.Image, change: str) -> Image.Image:
    enhancers = {
        "brighter": (ImageEnhance.Brightness, 1.35), "darker": (ImageEnhance.Brightness, 0.6),
        "contrast": (ImageEnhance.Contrast, 1.5), "vivid": (ImageEnhance.Color, 1.7),
        "muted": (ImageEnhance.Color, 0.45), "sharpen": (ImageEnhance.Sharpness, 2.5),
    }  # fmt: skip
    if change in enhancers:
        enhancer, factor = enhancers[change]
        return enhancer(image).enhance(factor)
    if change in ("warm", "cool"):
        return picture(colours(image) * (_WARM if change == "warm" else _COOL))
    if change == "sepia":
        return ImageOps.colorize(ImageOps.grayscale(image), (38, 24, 12), (255, 242, 214), (162, 124, 82))
    if change == "blur":
        return image.filter(ImageFilter.GaussianBlur(max(image.size) * 0.012))
    if change == "invert":
        return ImageOps.invert(image)
    if change == "mirror":
        return ImageOps.mirror(image)
    return ImageOps.grayscale(image).convert("RGB")


def _named(text: str) -> Colour:
    colour = colour_in(text)
    assert colour is not None, "the quote refused texts without a colour"
    return colour


def _matching(image: Image.Image, colour: Colour) -> Flags:
    """Where the image has that colour. Raises ProviderError: nothing_found."""
    hue, saturation, value = _hsv(image)
    own_hue, own_saturation, own_value = (float(part[0, 0]) for part in _hsv(Image.new("RGB", (1, 1), colour)))
    if own_saturation < _GREY_SATURATION:
        flags = (saturation < _GREY_SATURATION) & (np.abs(value - own_value) < 0.22)
    else:
        apart = np.abs(hue - own_hue)
        apart = np.minimum(apart, 360 - apart)
        flags = (apart < _HUE_DEGREES) & (saturation >= _GREY_SATURATION) & (value > 0.15)
    if not flags.any():
        raise ProviderError("nothing_found", "nothing in the image has the colour that the search names")
    return np.asarray(flags, dtype=np.bool_)


def _hsv(image: Image.Image) -> tuple[Floats, Floats, Floats]:
    """Hue in degrees, saturation and value from 0 to 1."""
    bands = np.asarray(image.convert("RGB").convert("HSV"), dtype=np.float32)
    hue, saturation, value = (bands[:, :, index] / np.float32(255) for index in range(3))
    return hue * np.float32(360), saturation, value


def _soft(flags: Flags) -> Image.Image:
    mask = Image.fromarray(flags.astype(np.uint8) * 255, "L")
    return mask.filter(ImageFilter.MedianFilter(3)).filter(ImageFilter.GaussianBlur(0.8))
