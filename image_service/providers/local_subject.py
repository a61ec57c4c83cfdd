"""What an image is about, as far as colours tell: the subject before its background, and faces.

Modest and honest: the background is what looks like the picture's border and is connected to it; a face is an area in
the colours of skin (D. Chai, K. N. Ngan 1999: Cb 77 to 127, Cr 133 to 173), about as high as it is wide.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from image_service.providers.base import ProviderError
from image_service.providers.local_pixels import (
    Flags,
    Floats,
    colours,
    otsu,
    picture,
    reached_from,
    regions,
    small,
    soft_mask,
    with_alpha_of,
)

_BORDER_COLOURS: Final = 4
#: Distances in RGB below which a pixel is surely, or above which it surely is not, background.
_DISTANCE_MIN, _DISTANCE_MAX = 10.0, 110.0
_FACE_SHARE_MIN: Final = 0.004
_FACE_RATIO_MAX: Final = 2.6


def subject_mask(image: Image.Image) -> Image.Image:
    """Mode L, as large as the image: white where the subject is, black where the background is."""
    work = small(image)
    values = colours(work)
    distance = _distance_to_border_colours(values)
    threshold = min(max(otsu(distance), _DISTANCE_MIN), _DISTANCE_MAX)
    border = np.zeros(distance.shape, dtype=np.bool_)
    border[[0, -1], :] = border[:, [0, -1]] = True
    background = reached_from(border, distance < threshold)
    feather = max(image.size) / max(work.size) * 0.6
    return soft_mask(~background, image.size, feather)


def remove_background(image: Image.Image) -> Image.Image:
    """The subject in mode RGBA; what was transparent stays so."""
    mask = subject_mask(image)
    cut = image.convert("RGBA")
    alpha = np.asarray(cut.getchannel("A"), dtype=np.uint16) * np.asarray(mask, dtype=np.uint16) // 255
    cut.putalpha(Image.fromarray(alpha.astype(np.uint8), "L"))
    cut.info = dict(image.info) if image.mode != "L" else {}
    return cut


def _distance_to_border_colours(values: Floats) -> Floats:
    strips = (values[0], values[-1], values[:, 0], values[:, -1])
    border = picture(np.concatenate(strips)[None, :, :])
    palette = border.quantize(_BORDER_COLOURS, Image.Quantize.MEDIANCUT).convert("RGB").getcolors(border.width) or []
    # A colour of a few border pixels alone is rather the subject's.
    usual = [colour for count, colour in palette if count >= border.width * 0.05] or [palette[0][1]]
    distances = [np.linalg.norm(values - np.array(colour, dtype=np.float32), axis=2) for colour in usual]
    return np.asarray(np.min(distances, axis=0), dtype=np.float32)


@dataclass(frozen=True)
class Face:
    """Where a face is, in pixels of the whole image."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        return (self.left, self.top, self.right, self.bottom)

    @property
    def size(self) -> tuple[int, int]:
        return (self.right - self.left, self.bottom - self.top)


def find_faces(image: Image.Image) -> list[Face]:
    """The largest first."""
    work = small(image)
    skin = _skin(work)
    scale = image.width / work.width
    found = []
    for region in regions(skin, max(16, round(skin.size * _FACE_SHARE_MIN))):
        rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        height, width = bottom - top, right - left
        if 1 / _FACE_RATIO_MAX <= height / width <= _FACE_RATIO_MAX:
            box = (round(float(edge) * scale) for edge in (left, top, right, bottom))
            found.append(Face(*box))
    return found


def swap_face(image: Image.Image, other: Image.Image, index: int) -> Image.Image:
    """The largest face of ``other`` in place of one in ``image``, in its light. Raises ProviderError: no_face."""
    faces, theirs = find_faces(image), find_faces(other)
    if len(faces) <= index:
        raise ProviderError("no_face", f"{len(faces)} faces were found in the image, by the colours of skin")
    if not theirs:
        raise ProviderError("no_face", "no face was found in the image of the face, by the colours of skin")
    place, source = faces[index], theirs[0]
    patch = other.convert("RGB").crop(source.box).resize(place.size, Image.Resampling.LANCZOS)
    ground = image.convert("RGB")
    patch = _in_the_light_of(patch, ground.crop(place.box))
    oval = Image.new("L", place.size)
    inset = max(1, min(place.size) // 20)
    ImageDraw.Draw(oval).ellipse((inset, inset, place.size[0] - inset, place.size[1] - inset), fill=255)
    oval = oval.filter(ImageFilter.GaussianBlur(max(1, min(place.size) / 24)))
    ground.paste(patch, place.box[:2], oval)
    return with_alpha_of(image, ground)


def _skin(image: Image.Image) -> Flags:
    _, blue, red = (np.asarray(band, dtype=np.int16) for band in image.convert("RGB").convert("YCbCr").split())
    flags: Flags = (blue >= 77) & (blue <= 127) & (red >= 133) & (red <= 173)
    return flags


def _in_the_light_of(patch: Image.Image, ground: Image.Image) -> Image.Image:
    """The patch with mean and spread of the ground's colours (E. Reinhard et al. 2001, in RGB)."""
    values, wanted = colours(patch), colours(ground)
    mean, spread = values.mean(axis=(0, 1)), values.std(axis=(0, 1)) + 1
    return picture((values - mean) * (wanted.std(axis=(0, 1)) + 1) / spread + wanted.mean(axis=(0, 1)))
