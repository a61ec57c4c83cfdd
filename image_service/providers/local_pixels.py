"""Pixels as arrays, for the local models: what several of them need. All of it is deterministic."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
Labels = NDArray[np.int64]

#: Regions are looked for in a small copy: their shape needs no more, and the time stays bounded.
WORK_EDGE_MAX: Final = 320


def small(image: Image.Image, edge_max: int = WORK_EDGE_MAX) -> Image.Image:
    """The image, its longer edge at most so many pixels."""
    scale = edge_max / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BOX)


def colours(image: Image.Image) -> Floats:
    """Height x width x 3, from 0 to 255."""
    return np.asarray(image.convert("RGB"), dtype=np.float32)


def picture(values: Floats) -> Image.Image:
    """The inverse of `colours`."""
    return Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8), "RGB")


def luminance(values: Floats) -> Floats:
    """Height x width, from 0 to 255 (Rec. 601)."""
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.asarray(values @ weights, dtype=np.float32)


def soft_mask(flags: Flags, size: tuple[int, int], feather: float) -> Image.Image:
    """Flags of a small copy as a mask of this size; its edge is ``feather`` pixels soft."""
    mask = Image.fromarray(flags.astype(np.uint8) * 255, "L").resize(size, Image.Resampling.BICUBIC)
    return mask.filter(ImageFilter.GaussianBlur(feather))


def with_alpha_of(original: Image.Image, edited: Image.Image) -> Image.Image:
    """The edited colours with the original's alpha and profile, where it has them."""
    if original.mode == "RGBA":
        edited = edited.convert("RGBA")
        edited.putalpha(original.getchannel("A"))
    edited.info = dict(original.info) if original.mode != "L" else {}
    return edited


def _runs(allowed: Flags) -> Labels:
    """For each pixel the number of its run along the last axis; runs end where nothing is allowed, and with the row."""
    barrier = ~allowed
    barrier[:, 0] = True
    starts = np.cumsum(barrier.ravel()).reshape(allowed.shape)
    return np.asarray(starts, dtype=np.int64)


def _connected(allowed: Flags) -> Labels:
    """For each allowed pixel, in their order, the number of its region: pixels are joined by their four neighbours.

    Runs along rows and along columns that share a pixel are in one region: each takes the lowest number beside it, and
    with it all that had its own, until no two beside each other differ. The rounds are as many as a number has digits,
    however the regions wind.
    """
    across, down = _runs(allowed)[allowed], _runs(allowed.T).T[allowed]
    if not len(across):
        return across
    down += int(across.max()) + 1
    numbers = np.arange(int(down.max()) + 1)
    while True:
        ours, theirs = numbers[across], numbers[down]
        if bool((ours == theirs).all()):
            return np.asarray(ours, dtype=np.int64)
        lower = np.minimum(ours, theirs)
        np.minimum.at(numbers, ours, lower)
        np.minimum.at(numbers, theirs, lower)
        while bool((numbers[numbers] != numbers).any()):
            numbers = numbers[numbers]


def reached_from(seeds: Flags, allowed: Flags) -> Flags:
    """What can be reached from the seeds over allowed pixels, by their four neighbours."""
    region = _connected(allowed)
    is_reached = np.zeros(allowed.size * 2 + 1, dtype=np.bool_)
    is_reached[region[seeds[allowed]]] = True
    reached = np.zeros_like(allowed)
    reached[allowed] = is_reached[region]
    return reached


def regions(flags: Flags, at_least: int) -> list[Flags]:
    """The connected regions of so many pixels or more, the largest first."""
    region = _connected(flags)
    numbers, sizes = np.unique(region, return_counts=True)
    found = []
    for place in np.argsort(-sizes, kind="stable"):
        if sizes[place] < at_least:
            break
        one = np.zeros_like(flags)
        one[flags] = region == numbers[place]
        found.append(one)
    return found


def otsu(values: Floats) -> float:
    """The threshold that divides the values best into two groups (N. Otsu, 1979); of values that are all the same,
    that value."""
    if float(values.min()) == float(values.max()):
        return float(values.max())
    counts, edges = np.histogram(values, bins=128)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(centres[int(np.nanargmax(between))])
