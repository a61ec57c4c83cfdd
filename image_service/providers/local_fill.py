"""Filling what is missing: erase, inpaint and outpaint.

Missing pixels get the colours around them, by averages over ever larger areas (pull-push: S. J. Gortler et al. 1996),
and a little grain; where a text says what is to be seen there, the picture that the local model draws for it.
"""

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from image_service.providers.local_pixels import Floats, colours, picture, with_alpha_of
from image_service.providers.local_render import render

_GRAIN = 3.0
_FEATHER_SHARE = 0.02


def erase(image: Image.Image, mask: Image.Image, seed: int) -> Image.Image:
    """What is around takes the place of what the mask shows white."""
    hole = mask.convert("L")
    values = colours(image)
    known = 1 - np.asarray(hole, dtype=np.float32) / np.float32(255)
    filled = _pull_push(values, known.astype(np.float32))
    grain = np.random.default_rng(seed).normal(0, _GRAIN, values.shape[:2]).astype(np.float32)
    patch = picture(filled + grain[:, :, None])
    return with_alpha_of(image, Image.composite(patch, image.convert("RGB"), hole))


def inpaint(image: Image.Image, mask: Image.Image, prompt: str, seed: int) -> Image.Image:
    """The picture for the prompt where the mask is white, in the colours of what is around it."""
    hole = mask.convert("L")
    box = hole.getbbox()
    if box is None:
        return image.copy()
    ground = erase(image, mask, seed).convert("RGB")
    width, height = box[2] - box[0], box[3] - box[1]
    drawn = render(prompt, seed, max(16, width), max(16, height), 0).resize((width, height))
    drawn = Image.blend(drawn, ground.crop(box), 0.25)
    painted = ground.copy()
    painted.paste(drawn, box[:2])
    # The edge is soft towards the inside alone: what is not masked stays as it is.
    soft = hole.filter(ImageFilter.GaussianBlur(max(1.0, min(width, height) * _FEATHER_SHARE)))
    inside = ImageChops.darker(soft, hole)
    mixed = Image.composite(painted, ground, inside)
    return with_alpha_of(image, Image.composite(mixed, image.convert("RGB"), hole))


def outpaint(image: Image.Image, left: int, right: int, top: int, bottom: int) -> Image.Image:
    """The picture, mirrored and softer with the distance beyond its edges; what was there stays as it is."""
    values = np.asarray(image)
    sides = ((top, bottom), (left, right), (0, 0))[: values.ndim]
    wide = Image.fromarray(np.pad(values, sides, mode="symmetric"), image.mode)
    longest = max(left, right, top, bottom)
    soft = wide.filter(ImageFilter.GaussianBlur(max(1.0, longest / 8)))
    rows = _beyond(image.height, top, bottom)[:, None]
    columns = _beyond(image.width, left, right)[None, :]
    share = np.clip(np.maximum(rows, columns) / max(1.0, longest / 2), 0, 1) * 255
    extended = Image.composite(soft, wide, Image.fromarray(share.astype(np.uint8), "L"))
    extended.paste(image, (left, top))
    extended.info = dict(image.info)
    return extended


def _beyond(length: int, before: int, after: int) -> Floats:
    """How far each pixel of an extended edge is beyond what was there."""
    places = np.arange(before + length + after, dtype=np.float32) - before
    return np.asarray(np.maximum(np.maximum(-places, places - (length - 1)), 0), dtype=np.float32)


def _pull_push(values: Floats, known: Floats) -> Floats:
    """The values where they are known, and beside them the average of what is known around, nearest first."""
    if min(values.shape[:2]) <= 1 or float(known.min()) >= 1:
        weight = float(known.sum())
        mean = (values * known[:, :, None]).sum(axis=(0, 1)) / weight if weight else np.full(3, 127, np.float32)
        return np.asarray(values * known[:, :, None] + mean * (1 - known[:, :, None]), dtype=np.float32)
    height, width = (edge + edge % 2 for edge in values.shape[:2])
    pad = ((0, height - values.shape[0]), (0, width - values.shape[1]))
    weighted = np.pad(values * known[:, :, None], (*pad, (0, 0)))
    weights = np.pad(known, pad)
    halves = weighted.reshape(height // 2, 2, width // 2, 2, 3).sum(axis=(1, 3))
    sums = weights.reshape(height // 2, 2, width // 2, 2).sum(axis=(1, 3))
    coarse = _pull_push(halves / np.maximum(sums, 1e-6)[:, :, None], np.minimum(sums, 1))
    around = colours(picture(coarse).resize((width, height), Image.Resampling.BILINEAR))
    around = around[: values.shape[0], : values.shape[1]]
    return np.asarray(values * known[:, :, None] + around * (1 - known[:, :, None]), dtype=np.float32)
