"""Pictures from prompt and seed: a sky of layered noise, and one of three compositions in a palette of their own.

The same prompt, seed, size and index give the same pixels: all chance comes from one generator, seeded with their hash.
"""

import colorsys
import hashlib
import math
import random
from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

Colour = tuple[int, int, int]

#: Steps from the first hue to the others, in turns of the colour wheel: analogous, complementary, split, triad.
_HARMONIES: Final = ((0.06, 0.12), (0.08, 0.5), (0.42, 0.58), (0.33, 0.67))
_NOISE_OCTAVES: Final = (4, 8, 16, 48)
#: Shapes are drawn at this multiple and scaled down, which smooths their edges, up to the size where it gets slow.
_SUPERSAMPLE: Final = 2
_SUPERSAMPLE_PIXELS_MAX: Final = 2048 * 2048


def render(prompt: str, seed: int, width: int, height: int, index: int) -> Image.Image:
    """The picture number ``index`` for prompt and seed, RGB, exactly ``width`` x ``height`` pixels."""
    digest = hashlib.sha256(f"{seed}:{index}:{prompt}".encode()).digest()
    chance = random.Random(digest)  # noqa: S311  for pictures, not for secrets
    palette = _palette(chance)
    picture = _sky(chance, palette, width, height)
    compose = chance.choice((_hills, _orbits, _petals))
    scale = _SUPERSAMPLE if width * height * _SUPERSAMPLE**2 <= _SUPERSAMPLE_PIXELS_MAX else 1
    picture = _over(picture, compose(chance, palette, width * scale, height * scale))
    return _grain(chance, _vignette(picture))


def _palette(chance: random.Random) -> list[Colour]:
    """Five colours from dark to light in related hues."""
    hue = chance.random()
    near, far = chance.choice(_HARMONIES)
    hues = (hue, hue + near / 2, hue + near, hue + far, hue + far + 0.04)
    saturation = chance.uniform(0.45, 0.75)
    lightness = (0.14, 0.32, 0.50, 0.68, 0.86)
    palette = []
    for turn, light in zip(hues, lightness, strict=True):
        red, green, blue = colorsys.hls_to_rgb(turn % 1, light, saturation)
        palette.append((round(red * 255), round(green * 255), round(blue * 255)))
    return palette


def _sky(chance: random.Random, palette: list[Colour], width: int, height: int) -> Image.Image:
    """A gradient through three colours, bent by noise, so that it looks like light and not like a ramp."""
    ramp = Image.linear_gradient("L").resize((width, height), Image.Resampling.BILINEAR)
    if chance.random() < 0.5:
        ramp = ImageOps.flip(ramp)
    bent = Image.blend(ramp, _noise(chance, width, height), chance.uniform(0.18, 0.4))
    dark, light = chance.choice(((1, 4), (0, 3), (2, 4)))
    return ImageOps.colorize(bent, palette[dark], palette[light], palette[chance.choice((2, 3))])


def _noise(chance: random.Random, width: int, height: int) -> Image.Image:
    """Value noise: random grids, each finer and fainter, smoothly enlarged and mixed. Mode L."""
    mixed: Image.Image | None = None
    for octave, cells in enumerate(_NOISE_OCTAVES):
        grid = Image.frombytes("L", (cells, cells), chance.randbytes(cells * cells))
        layer = grid.resize((width, height), Image.Resampling.BICUBIC)
        mixed = layer if mixed is None else Image.blend(mixed, layer, 0.5**octave)
    assert mixed is not None
    return mixed


def _hills(chance: random.Random, palette: list[Colour], width: int, height: int) -> Image.Image:
    """A sun with its glow behind ranges of hills that darken towards the viewer."""
    layer = Image.new("RGBA", (width, height))
    radius = min(width, height) * chance.uniform(0.07, 0.15)
    centre = (width * chance.uniform(0.2, 0.8), height * chance.uniform(0.18, 0.45))
    layer.alpha_composite(_glow(width, height, centre, radius * 3, palette[4]))
    ImageDraw.Draw(layer).ellipse(_box(centre, radius), fill=(*palette[4], 255))
    ranges = chance.randint(4, 6)
    for number in range(ranges):
        depth = number / (ranges - 1)
        base = height * (0.48 + 0.42 * depth)
        line = _ridge(chance, width, base, height * chance.uniform(0.05, 0.11))
        colour = _mix(palette[2], palette[0], depth)
        ImageDraw.Draw(layer).polygon([(0, height), *line, (width, height)], fill=(*colour, 255))
    return layer


def _ridge(chance: random.Random, width: int, base: float, rise: float) -> list[tuple[float, float]]:
    waves = [(chance.uniform(0.6, 2.2) * 2**octave, chance.uniform(0, math.tau), 0.5**octave) for octave in range(4)]
    step = max(1, width // 256)
    return [
        (x, base - rise * sum(share * math.sin(pitch * x / width * math.tau + phase) for pitch, phase, share in waves))
        for x in range(0, width + step, step)
    ]


def _orbits(chance: random.Random, palette: list[Colour], width: int, height: int) -> Image.Image:
    """A planet, its rings, moons on them, and a field of stars."""
    layer = Image.new("RGBA", (width, height))
    edge = min(width, height)
    draw = ImageDraw.Draw(layer)
    for _ in range(chance.randint(60, 140)):
        spot = (chance.uniform(0, width), chance.uniform(0, height))
        draw.ellipse(_box(spot, edge * chance.uniform(0.001, 0.004)), fill=(*palette[4], chance.randint(90, 230)))
    centre = (width * chance.uniform(0.35, 0.65), height * chance.uniform(0.35, 0.65))
    planet = edge * chance.uniform(0.12, 0.2)
    layer.alpha_composite(_glow(width, height, centre, planet * 2.4, palette[3]))
    draw = ImageDraw.Draw(layer)
    for number in range(chance.randint(3, 6)):
        radius = planet * (1.5 + number * chance.uniform(0.45, 0.6))
        draw.ellipse(_box(centre, radius), outline=(*palette[4], 150), width=max(1, round(edge * 0.003)))
        angle = chance.uniform(0, math.tau)
        moon = (centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle))
        draw.ellipse(_box(moon, planet * chance.uniform(0.08, 0.2)), fill=(*chance.choice(palette[2:]), 255))
    for shade in range(16):
        part = shade / 15
        lit = (centre[0] - planet * 0.25 * part, centre[1] - planet * 0.25 * part)
        draw.ellipse(_box(lit, planet * (1 - 0.55 * part)), fill=(*_mix(palette[0], palette[3], part), 255))
    return layer


def _petals(chance: random.Random, palette: list[Colour], width: int, height: int) -> Image.Image:
    """Translucent petals around a heart, in two or three rounds."""
    layer = Image.new("RGBA", (width, height))
    edge = min(width, height)
    centre = (width * chance.uniform(0.4, 0.6), height * chance.uniform(0.4, 0.6))
    layer.alpha_composite(_glow(width, height, centre, edge * 0.5, palette[4]))
    for number in range(chance.randint(2, 3)):
        count = chance.randint(6, 13)
        length, girth = edge * (0.46 - 0.12 * number), chance.uniform(0.32, 0.6)
        turn = chance.uniform(0, math.tau)
        colour = palette[(1, 3, 4)[number]]
        for petal in range(count):
            outline = _petal(centre, length, girth, turn + petal * math.tau / count)
            leaf = Image.new("RGBA", (width, height))
            ImageDraw.Draw(leaf).polygon(outline, fill=(*colour, 120), outline=(*palette[4], 160))
            layer.alpha_composite(leaf)
    ImageDraw.Draw(layer).ellipse(_box(centre, edge * 0.055), fill=(*palette[0], 255))
    return layer


def _petal(centre: tuple[float, float], length: float, girth: float, angle: float) -> list[tuple[float, float]]:
    """Two sine arcs between the centre and the tip."""
    arc = [(t / 24, math.sin(math.pi * t / 24) * girth / 2) for t in range(25)]
    outline = arc + [(along, -across) for along, across in reversed(arc)]
    cosine, sine = math.cos(angle) * length, math.sin(angle) * length
    return [
        (centre[0] + along * cosine - across * sine, centre[1] + along * sine + across * cosine)
        for along, across in outline
    ]


def _glow(width: int, height: int, centre: tuple[float, float], radius: float, colour: Colour) -> Image.Image:
    """A disc of light that fades to nothing at ``radius`` pixels."""
    size = max(2, round(radius * 2))
    disc = ImageOps.invert(Image.radial_gradient("L")).resize((size, size), Image.Resampling.BILINEAR)
    # The gradient ends in the corners; taking off what lies beyond the edge makes it end on the circle.
    disc = ImageChops.subtract(disc, Image.new("L", disc.size, 75))
    alpha = Image.new("L", (width, height))
    alpha.paste(disc, (round(centre[0] - radius), round(centre[1] - radius)))
    light = Image.new("RGBA", (width, height), (*colour, 0))
    light.putalpha(alpha)
    return light


def _over(picture: Image.Image, layer: Image.Image) -> Image.Image:
    small = layer.convert("RGBa").resize(picture.size, Image.Resampling.BOX).convert("RGBA")
    return Image.alpha_composite(picture.convert("RGBA"), small).convert("RGB")


def _vignette(picture: Image.Image) -> Image.Image:
    shade = Image.radial_gradient("L").resize(picture.size, Image.Resampling.BILINEAR)
    dimmed = picture.point([value * 3 // 5 for value in range(256)] * 3)
    return Image.composite(dimmed, picture, shade.point([max(0, value - 90) for value in range(256)]))


def _grain(chance: random.Random, picture: Image.Image) -> Image.Image:
    """A little film grain; it also hides the steps of a gradient in eight bits."""
    tile = Image.frombytes("L", (128, 128), chance.randbytes(128 * 128)).filter(ImageFilter.GaussianBlur(0.6))
    grain = Image.new("L", picture.size)
    for top in range(0, picture.height, 128):
        for left in range(0, picture.width, 128):
            grain.paste(tile, (left, top))
    return Image.blend(picture, ImageChops.overlay(picture, Image.merge("RGB", (grain,) * 3)), 0.1)


def _box(centre: tuple[float, float], radius: float) -> tuple[float, float, float, float]:
    return (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue
