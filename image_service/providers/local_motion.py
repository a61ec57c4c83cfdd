"""From one image to what has depth or moves: a height field as a GLB, and a slow camera as an animated WebP."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from image_service.providers.local_pixels import colours, luminance, small
from image_service.providers.requests import VideoResolution

#: Points along the longer edge of the mesh; its longer edge is 1 unit, and its relief this much of it.
MESH_POINTS_MAX: Final = 96
RELIEF: Final = 0.18
FRAMES_PER_SECOND: Final = 8
_SHORT_EDGE: Final[dict[VideoResolution, int]] = {"480p": 480, "720p": 720, "1080p": 1080}
_ZOOM: Final = 1.25
#: Of a clip: that of a line of pixels would be millions wide.
CLIP_EDGE_MAX: Final = 4_096


class NotWantedError(Exception):
    """Whoever wanted the clip is gone."""


def relief_glb(image: Image.Image, texture_resolution: int) -> bytes:
    """A textured height field, light parts in front: binary glTF 2.0. Fully transparent parts are left out."""
    # Takes half a second to import, which only this operation should pay.
    from trimesh import Trimesh
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    field = small(image.convert("RGB"), MESH_POINTS_MAX).resize(_grid(image))
    heights = luminance(colours(field.filter(ImageFilter.GaussianBlur(1)))) / 255 * RELIEF
    rows, columns = heights.shape
    longest = max(rows, columns) - 1
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    points = np.stack([(x - (columns - 1) / 2) / longest, ((rows - 1) / 2 - y) / longest, heights], axis=2)
    corners = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)[None, :]).ravel()
    shown = corners[_shown(image, rows, columns)]
    faces = np.concatenate(
        [
            np.stack([shown, shown + columns, shown + 1], axis=1),
            np.stack([shown + 1, shown + columns, shown + columns + 1], axis=1),
        ]
    )
    places = np.stack([x / (columns - 1), 1 - y / (rows - 1)], axis=2).reshape(-1, 2)
    scale = texture_resolution / max(image.size)
    texture = image.convert("RGB").resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    looks = {"baseColorTexture": texture, "metallicFactor": 0.0, "roughnessFactor": 1.0, "doubleSided": True}
    material = PBRMaterial(**looks)  # type: ignore[no-untyped-call]  # trimesh has no types here
    visual = TextureVisuals(uv=places, material=material)  # type: ignore[no-untyped-call]  # as above
    mesh = Trimesh(points.reshape(-1, 3), faces, visual=visual, process=False, validate=False)
    exported = mesh.export(file_type="glb")
    assert isinstance(exported, bytes)
    return exported


def clip_size(width: int, height: int, resolution: VideoResolution) -> tuple[int, int]:
    """Of a clip of an image of this size, in pixels."""
    scale = _SHORT_EDGE[resolution] / min(width, height)
    return max(2, round(width * scale)), max(2, round(height * scale))


def camera_clip(
    image: Image.Image,
    seconds: int,
    resolution: VideoResolution,
    seed: int,
    path: Path,
    is_wanted: Callable[[], bool] = lambda: True,
) -> tuple[int, int]:
    """Write a clip in which the camera moves over the image, beginning with all of it; its size in pixels.

    ``is_wanted`` is asked before every frame; raises NotWantedError where it says no.
    """
    size = clip_size(image.width, image.height, resolution)
    chance = random.Random(seed)  # noqa: S311  for pictures, not for secrets
    towards = (chance.random(), chance.random())
    clip = _Clip(image.convert("RGB"), size, towards, seconds * FRAMES_PER_SECOND, is_wanted)
    clip.save(path, "WEBP", save_all=True, duration=1000 // FRAMES_PER_SECOND, loop=0, quality=70, method=0)
    return size


class _Clip(Image.Image):
    """All frames, of which one at a time is made and in memory: a clip of many would take a gigabyte."""

    def __init__(
        self,
        ground: Image.Image,
        size: tuple[int, int],
        towards: tuple[float, float],
        count: int,
        is_wanted: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._ground, self._towards, self._is_wanted = ground, towards, is_wanted
        self._size, self._mode = size, "RGB"
        self.n_frames = count
        self.seek(0)

    def seek(self, frame: int) -> None:
        if not self._is_wanted():
            raise NotWantedError
        self.im = _frame(self._ground, self._size, frame / max(1, self.n_frames - 1), self._towards).im


def _frame(image: Image.Image, size: tuple[int, int], share: float, towards: tuple[float, float]) -> Image.Image:
    eased = share * share * (3 - 2 * share)
    zoom = 1 + (_ZOOM - 1) * eased
    width, height = image.width / zoom, image.height / zoom
    left, top = (image.width - width) * towards[0], (image.height - height) * towards[1]
    return image.resize(size, Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))


def _grid(image: Image.Image) -> tuple[int, int]:
    """At least two points along each edge."""
    scale = min(1.0, MESH_POINTS_MAX / max(image.size))
    return max(2, round(image.width * scale)), max(2, round(image.height * scale))


def _shown(image: Image.Image, rows: int, columns: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which squares of the grid are not fully transparent; all of them where nothing would be left."""
    if image.mode != "RGBA":
        return np.ones((rows - 1) * (columns - 1), dtype=np.bool_)
    alpha = np.asarray(image.getchannel("A").resize((columns - 1, rows - 1), Image.Resampling.BOX)).ravel()
    return np.asarray(alpha > 0 if (alpha > 0).any() else alpha >= 0, dtype=np.bool_)
