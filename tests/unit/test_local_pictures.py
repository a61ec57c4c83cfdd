"""Pictures that the local models are seldom given: what comes of them, and what is left behind."""

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from image_service.artifacts import Content
from image_service.images import Bounds, SourceImage, examine
from image_service.providers.base import RefusedRequestError
from image_service.providers.local import MODELS, LocalProvider
from image_service.providers.local_pixels import reached_from, regions
from image_service.providers.local_subject import find_faces
from image_service.providers.requests import CharacterRequest, RemoveBackground, VideoRequest
from tests.attempts import attempt_of

SKIN = (200, 150, 120)
CAMERA = next(model for model in MODELS if model.operation == "image_to_video")


def source(image: Image.Image) -> SourceImage:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return examine(Content(buffer.getvalue()), Bounds(40_000_000, 16_383))


def opened(content: Content) -> Image.Image:
    return Image.open(io.BytesIO(content.read()))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (50, 40)])
@pytest.mark.parametrize(("mode", "colour"), [("L", 90), ("RGB", (0, 0, 0)), ("RGBA", (*SKIN, 128))])
async def test_a_picture_of_one_colour_is_all_background(size: tuple[int, int], mode: str, colour: Any) -> None:
    provider, image = LocalProvider(1), source(Image.new(mode, size, colour))
    cut = await provider.edit("local-edit-1", RemoveBackground(image), attempt_of("edit"))
    assert opened(cut.artifacts[0].content).getchannel("A").getextrema() == (0, 0)
    asked = CharacterRequest("a hill", (image,), 64, 48, 1, 1)
    drawn = await provider.character("local-character-1", asked, attempt_of("character"))
    assert opened(drawn.artifacts[0].content).size == (64, 48)
    await provider.close()


def test_a_face_is_found_behind_any_number_of_specks() -> None:
    image = Image.new("RGB", (320, 320), (0, 0, 200))
    for place in range(0, 320 * 30, 4):
        if place // 320 % 2 == 0:
            image.putpixel((place % 320, place // 320), SKIN)
    ImageDraw.Draw(image).ellipse((100, 120, 200, 250), fill=SKIN)
    [face] = find_faces(image)
    assert face.box == (100, 120, 201, 251)


def test_what_is_connected_is_one_region_however_it_winds() -> None:
    allowed = np.zeros((320, 320), dtype=np.bool_)
    # Narrow turns, one after the other, in bands of four lines from side to side.
    for band in range(0, 316, 8):
        allowed[band, 0::4] = allowed[band, 1::4] = allowed[band + 4, 2::4] = allowed[band + 4, 3::4] = True
        allowed[band : band + 5, 1::4] = allowed[band : band + 5, 3::4] = True
        allowed[band, 3::4] = allowed[band + 4, 1::4] = True
        allowed[band + 4, 1:3] = True
        edge = 319 if band // 8 % 2 == 0 else 0
        allowed[band : band + 9, edge] = True
    seed = np.zeros_like(allowed)
    seed[0, 0] = True
    whole = flooded(seed, allowed)
    assert (reached_from(seed, allowed) == whole).all()
    assert (regions(allowed, 1)[0] == flooded(regions(allowed, 1)[0] & allowed, allowed)).all()


@pytest.mark.parametrize("share", [0.3, 0.55, 0.6, 0.7, 1.0])
def test_regions_are_those_of_a_flood(share: float) -> None:
    chance = np.random.default_rng(7)
    allowed = chance.random((40, 31)) < share
    left, expected = allowed.copy(), []
    while left.any():
        seed = np.zeros_like(left)
        seed[tuple(np.argwhere(left)[0])] = True
        one = flooded(seed, allowed)
        left &= ~one
        if one.sum() >= 3:
            expected.append(one)
    expected.sort(key=lambda one: -int(one.sum()))
    found = regions(allowed, 3)
    assert len(found) == len(expected)
    assert all((mine == theirs).all() for mine, theirs in zip(found, expected, strict=True))
    assert regions(np.zeros_like(allowed), 1) == []


def flooded(seed: Any, allowed: Any) -> Any:
    """One step to each side at a time."""
    reached = seed & allowed
    while True:
        wider = reached.copy()
        wider[1:] |= reached[:-1]
        wider[:-1] |= reached[1:]
        wider[:, 1:] |= reached[:, :-1]
        wider[:, :-1] |= reached[:, 1:]
        wider &= allowed
        if (wider == reached).all():
            return reached
        reached = wider


@pytest.mark.parametrize("size", [(1, 400), (1_000, 60)])
async def test_a_clip_of_a_line_of_pixels_is_refused_before_it_is_made(size: tuple[int, int]) -> None:
    provider, image = LocalProvider(1), source(Image.new("RGB", size))
    with pytest.raises(RefusedRequestError, match="an edge may have 4096"):
        provider.quote(CAMERA, VideoRequest(image, None, 1, "480p"))
    assert provider.quote(CAMERA, VideoRequest(source(Image.new("RGB", (500, 60))), None, 1, "480p")).quantity == 1
    await provider.close()


async def test_a_clip_that_nobody_waits_for_is_given_up_and_leaves_no_file(tmp_path: Path) -> None:
    provider, image = LocalProvider(1), source(Image.linear_gradient("L").resize((300, 200)).convert("RGB"))
    attempt = attempt_of("image_to_video", spool_folder=tmp_path)
    asked = VideoRequest(image, None, 20, "1080p")
    filming = asyncio.create_task(provider.image_to_video(CAMERA.name, asked, attempt))
    await asyncio.sleep(0.05)  # it has begun, and of its twenty seconds some frames are made at most
    filming.cancel()
    await asyncio.wait({filming})
    await attempt.discard()
    cut = await provider.edit("local-edit-1", RemoveBackground(image), attempt_of("edit"))  # after it, in its thread
    assert cut.artifacts
    assert list(tmp_path.iterdir()) == []
    await provider.close()
