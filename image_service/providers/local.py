"""The local provider: real work on this machine with Pillow and numpy, so that everything can be had without a network.

Its models know no objects and read no sentences: they go by colours, edges and masks, and of a text by a few words.
What each of them does, its module says; deploy/guides/operations.md says it to users.
"""

import asyncio
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar, assert_never, get_args

from PIL import Image

from image_service.artifacts import GLB, Artifact
from image_service.images import encode, pixels_of
from image_service.providers.attempt import Attempt
from image_service.providers.base import (
    SEED_MAX,
    Model,
    ProviderError,
    ProviderRequest,
    ProviderResult,
    Quote,
    RefusedRequestError,
    StillRunning,
    plain_quote,
)
from image_service.providers.local_colours import general, relight, search_recolor, search_replace
from image_service.providers.local_control import character, control
from image_service.providers.local_edit import apply_edit
from image_service.providers.local_fill import erase, inpaint, outpaint
from image_service.providers.local_motion import CLIP_EDGE_MAX, camera_clip, clip_size, relief_glb
from image_service.providers.local_render import render
from image_service.providers.local_subject import remove_background, swap_face
from image_service.providers.local_upscale import upscale
from image_service.providers.local_words import CHANGES, COLOURS, changes_in, colour_in
from image_service.providers.requests import (
    CharacterRequest,
    ControlKind,
    ControlRequest,
    EditRequest,
    EffectEdit,
    Erase,
    FaceSwapRequest,
    GeneralEdit,
    GenerateRequest,
    Inpaint,
    Outpaint,
    Relight,
    RemoveBackground,
    SearchRecolor,
    SearchReplace,
    ThreeDRequest,
    UpscaleKind,
    UpscaleRequest,
    VideoRequest,
)

T = TypeVar("T")

#: Does all the work and then says no, billing nothing: to see what a failing provider leads to.
UNRELIABLE: Final = Model("local-unreliable-1", "generate", 10_000_000)

#: The work costs us nothing; the prices are there so that cost, cost limits and summaries can be seen at work.
MODELS: Final = (
    Model("local-render-1", "generate", 10_000_000),
    UNRELIABLE,
    Model("local-character-1", "character", 15_000_000),
    Model("local-edit-1", "edit", 20_000_000, kinds=frozenset(kind.kind for kind in get_args(EditRequest))),
    Model("local-face-1", "face_swap", 15_000_000),
    Model("local-upscale-1", "upscale", 5_000_000, kinds=frozenset(get_args(UpscaleKind))),
    Model("local-control-1", "control", 15_000_000, kinds=frozenset(get_args(ControlKind))),
    Model("local-relief-1", "image_to_3d", 30_000_000, unit="call"),
    Model("local-camera-1", "image_to_video", 4_000_000, unit="second", long=True),
)


class LocalProvider:
    """Every operation, in at most ``threads`` worker threads; what does not fit waits its turn.

    It is never in doubt: its work dies with its caller, and nothing is billed for less than a result.
    """

    name = "local"
    models = MODELS
    available = True

    def __init__(self, threads: int) -> None:
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="local-provider")

    def quote(self, model: Model, request: ProviderRequest) -> Quote:
        if isinstance(request, GeneralEdit) and not changes_in(request.prompt):
            known = ", ".join(sorted(set(CHANGES.values())))
            raise RefusedRequestError("prompt", f"this model knows a few words only, such as {known}")
        if isinstance(request, SearchReplace | SearchRecolor) and colour_in(request.search) is None:
            raise RefusedRequestError("search", f"this model looks for a colour: {', '.join(COLOURS)}")
        if isinstance(request, SearchRecolor) and colour_in(request.prompt) is None:
            raise RefusedRequestError("prompt", f"this model needs the name of a colour: {', '.join(COLOURS)}")
        if isinstance(request, VideoRequest):
            width, height = clip_size(request.image.width, request.image.height, request.resolution)
            if max(width, height) > CLIP_EDGE_MAX:
                message = f"the clip would have {width} x {height} pixels; an edge may have {CLIP_EDGE_MAX}"
                raise RefusedRequestError("image", message)
        return plain_quote(model, request)

    async def recover(self, model: str, job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
        del model, job_id, attempt
        raise ProviderError("interrupted", "the operation was interrupted before it had a result")

    async def close(self) -> None:
        """Starts nothing more; does not wait for what runs."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def generate(self, model: str, request: GenerateRequest, attempt: Attempt) -> ProviderResult:
        seed = _seed(request.seed)

        def draw(index: int) -> Artifact:
            return encode(render(request.prompt, seed, request.width, request.height, index), "image/png")

        result = await self._several(draw, request.count, seed, attempt)
        if model == UNRELIABLE.name:
            raise ProviderError("unreliable", f"{model} always fails once its work is done; it is there to be tried")
        return result

    async def character(self, model: str, request: CharacterRequest, attempt: Attempt) -> ProviderResult:
        del model
        seed = _seed(request.seed)

        def draw(index: int) -> Artifact:
            references = [pixels_of(reference) for reference in request.references]
            return encode(character(references, request, seed, index), "image/png")

        return await self._several(draw, request.count, seed, attempt)

    async def edit(self, model: str, request: EditRequest, attempt: Attempt) -> ProviderResult:
        del model, attempt
        return await self._one(lambda: encode(_edited(request), _media_type_of_edit(request)))

    async def face_swap(self, model: str, request: FaceSwapRequest, attempt: Attempt) -> ProviderResult:
        del model, attempt
        image, face = request.image, request.face
        return await self._one(
            lambda: encode(swap_face(pixels_of(image), pixels_of(face), request.index), image.media_type)
        )

    async def upscale(self, model: str, request: UpscaleRequest, attempt: Attempt) -> ProviderResult:
        del model, attempt
        seed = _seed(request.seed)

        def enlarge() -> Artifact:
            pixels = pixels_of(request.image)
            larger = upscale(pixels, request.width, request.height, request.kind, request.creativity, seed)
            return encode(larger, request.image.media_type)

        return await self._one(enlarge, seed if request.kind == "creative" else None)

    async def control(self, model: str, request: ControlRequest, attempt: Attempt) -> ProviderResult:
        del model, attempt
        seed = _seed(request.seed)
        return await self._one(lambda: encode(control(pixels_of(request.image), request, seed), "image/png"), seed)

    async def image_to_3d(self, model: str, request: ThreeDRequest, attempt: Attempt) -> ProviderResult:
        del model, attempt
        return await self._one(
            lambda: Artifact.of(relief_glb(pixels_of(request.image), request.texture_resolution), GLB)
        )

    async def image_to_video(self, model: str, request: VideoRequest, attempt: Attempt) -> ProviderResult:
        del model
        seed, path, gone = _seed(request.seed), attempt.spool(), threading.Event()
        attempt.progress(None, "filming")

        def film() -> Artifact:
            source, length = pixels_of(request.image), request.seconds
            try:
                width, height = camera_clip(source, length, request.resolution, seed, path, lambda: not gone.is_set())
            finally:
                if gone.is_set():  # the attempt may have deleted its files before this one was there
                    path.unlink(missing_ok=True)
            return Artifact.of(path, "image/webp", width=width, height=height, duration_ms=length * 1000)

        try:
            return await self._one(film, seed)
        except asyncio.CancelledError:
            gone.set()
            raise

    async def _several(
        self, draw: Callable[[int], Artifact], count: int, seed: int, attempt: Attempt
    ) -> ProviderResult:
        images = []
        for index in range(count):
            images.append(await self._work(partial(draw, index)))
            attempt.progress((index + 1) / count, "drawing")
        return ProviderResult(tuple(images), seed=seed)

    async def _one(self, job: Callable[[], Artifact], seed: int | None = None) -> ProviderResult:
        return ProviderResult((await self._work(job),), seed=seed)

    async def _work(self, job: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, job)
        except (OSError, ValueError, MemoryError) as error:
            # What an encoder says of an image that its format cannot hold, or of a machine that is too small.
            raise ProviderError("local_error", str(error)[:1000]) from error


def _seed(asked: int | None) -> int:
    return secrets.randbelow(SEED_MAX + 1) if asked is None else asked


def _media_type_of_edit(request: EditRequest) -> str:
    """That of the upload, unless it could not hold the transparency that comes out."""
    media_type = request.image.media_type
    return "image/png" if isinstance(request, RemoveBackground) and media_type == "image/jpeg" else media_type


def _edited(request: EditRequest) -> Image.Image:
    image = pixels_of(request.image)
    match request:
        case EffectEdit():
            return apply_edit(image, request)
        case GeneralEdit():
            mask = None if request.mask is None else pixels_of(request.mask)
            return general(image, request.prompt, mask, request.strength)
        case RemoveBackground():
            return remove_background(image)
        case Inpaint():
            return inpaint(image, pixels_of(request.mask), request.prompt, request.seed or 0)
        case Outpaint():
            return outpaint(image, request.left, request.right, request.top, request.bottom)
        case Erase():
            return erase(image, pixels_of(request.mask), request.seed or 0)
        case SearchReplace():
            return search_replace(image, request.search, request.prompt, request.seed or 0)
        case SearchRecolor():
            return search_recolor(image, request.search, request.prompt)
        case Relight():
            return relight(image, request.prompt, request.direction, request.strength)
    assert_never(request)
