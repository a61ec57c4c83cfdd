"""New pictures after others: by lines, by composition, by look; and a character in another scene."""

import hashlib
import random

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

from image_service.providers.local_pixels import colours, luminance, picture
from image_service.providers.local_render import render
from image_service.providers.local_subject import remove_background
from image_service.providers.requests import CharacterRequest, ControlRequest

_STRENGTH_DEFAULT = 0.7


def control(image: Image.Image, request: ControlRequest, seed: int) -> Image.Image:
    """The picture for the prompt, with what the kind keeps of the image."""
    drawn = render(request.prompt, seed, max(16, request.width), max(16, request.height), 0)
    drawn = drawn.resize((request.width, request.height))
    strength = _STRENGTH_DEFAULT if request.strength is None else request.strength
    source = image.convert("RGB")
    if request.kind == "sketch":
        return _along_lines(drawn, source, strength)
    if request.kind == "structure":
        return _after_tones(drawn, source, strength)
    return _in_colours(drawn, source, strength)


def character(references: list[Image.Image], request: CharacterRequest, seed: int, index: int) -> Image.Image:
    """The subject of a reference in the scene of the prompt, at a place and size by the seed."""
    digest = hashlib.sha256(f"{seed}:{index}:{request.prompt}:character".encode()).digest()
    chance = random.Random(digest)  # noqa: S311  for pictures, not for secrets
    scene = render(request.prompt, seed, request.width, request.height, index)
    figure = remove_background(references[index % len(references)])
    box = figure.getchannel("A").point(lambda value: 255 if value > 127 else 0).getbbox()
    figure = figure.crop(box) if box else figure
    if chance.random() < 0.5:
        figure = ImageOps.mirror(figure)
    scale = chance.uniform(0.55, 0.8) * min(scene.width / figure.width, scene.height / figure.height)
    figure = figure.resize((max(1, round(figure.width * scale)), max(1, round(figure.height * scale))))
    left = round(chance.uniform(0.1, 0.9) * (scene.width - figure.width))
    shadow = Image.new("RGBA", figure.size, (0, 0, 0, 0))
    shadow.putalpha(figure.getchannel("A").filter(ImageFilter.GaussianBlur(3)).point(lambda value: value // 3))
    top = scene.height - figure.height
    scene.paste(shadow, (left + 3, top + 3), shadow)
    scene.paste(figure, (left, top), figure)
    return scene


def _along_lines(drawn: Image.Image, source: Image.Image, strength: float) -> Image.Image:
    edges = ImageOps.autocontrast(
        source.convert("L").filter(ImageFilter.GaussianBlur(0.8)).filter(ImageFilter.FIND_EDGES)
    )
    lines = ImageOps.invert(edges).point(lambda value: round(255 - (255 - value) * strength))
    return ImageChops.multiply(drawn, Image.merge("RGB", (lines,) * 3))


def _after_tones(drawn: Image.Image, source: Image.Image, strength: float) -> Image.Image:
    """Every tone of the source gets the colour that this tone has in the drawn picture, by rank."""
    palette = colours(drawn).reshape(-1, 3)
    palette = palette[np.argsort(luminance(palette[None])[0], kind="stable")]
    steps = palette[np.linspace(0, len(palette) - 1, 256).astype(np.int64)]
    tones = np.asarray(ImageOps.autocontrast(source.convert("L")), dtype=np.uint8)
    return Image.blend(drawn, picture(steps[tones]), strength)


def _in_colours(drawn: Image.Image, source: Image.Image, strength: float) -> Image.Image:
    """The drawn picture with mean and spread of the source's colours (E. Reinhard et al. 2001, in RGB)."""
    values, wanted = colours(drawn), colours(source)
    mean, spread = values.mean(axis=(0, 1)), values.std(axis=(0, 1)) + 1
    styled = (values - mean) * (wanted.std(axis=(0, 1)) + 1) / spread + wanted.mean(axis=(0, 1))
    return Image.blend(drawn, picture(styled), strength)
