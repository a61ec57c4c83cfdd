"""The local provider: real work on this machine with Pillow, so that everything can be had without a network."""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from image_service.artifacts import Artifact
from image_service.images import encode, pixels_of
from image_service.providers.attempt import Attempt
from image_service.providers.base import (
    SEED_MAX,
    Model,
    ProviderError,
    ProviderRequest,
    ProviderResult,
    Quote,
    StillRunning,
    plain_quote,
)
from image_service.providers.local_edit import apply_edit
from image_service.providers.local_render import render
from image_service.providers.local_upscale import upscale
from image_service.providers.requests import EditRequest, EffectEdit, GenerateRequest, UpscaleRequest

T = TypeVar("T")

#: Does all the work and then says no, billing nothing: to see what a failing provider leads to.
UNRELIABLE: Final = Model("local-unreliable-1", "generate", 10_000_000)

#: The work costs us nothing; the prices are there so that cost, cost limits and summaries can be seen at work.
MODELS: Final = (
    Model("local-render-1", "generate", 10_000_000),
    UNRELIABLE,
    Model("local-edit-1", "edit", 20_000_000, kinds=frozenset({"effect"})),
    Model("local-upscale-1", "upscale", 5_000_000, kinds=frozenset({"fast"})),
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
        return plain_quote(model, request)

    async def recover(self, model: str, job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
        del model, job_id, attempt
        raise ProviderError("interrupted", "the operation was interrupted before it had a result")

    async def generate(self, model: str, request: GenerateRequest, attempt: Attempt) -> ProviderResult:
        seed = secrets.randbelow(SEED_MAX + 1) if request.seed is None else request.seed
        images = []
        for index in range(request.count):
            images.append(await self._work(partial(_generate_one, request, seed, index)))
            attempt.progress((index + 1) / request.count, "drawing")
        if model == UNRELIABLE.name:
            raise ProviderError("unreliable", f"{model} always fails once its work is done; it is there to be tried")
        return ProviderResult(tuple(images), seed=seed)

    async def edit(self, model: str, request: EditRequest, attempt: Attempt) -> ProviderResult:
        del model, attempt
        assert isinstance(request, EffectEdit)
        image = request.image
        return await self._one(lambda: encode(apply_edit(pixels_of(image), request), image.media_type))

    async def upscale(self, model: str, request: UpscaleRequest, attempt: Attempt) -> ProviderResult:
        del model, attempt
        image = request.image
        return await self._one(
            lambda: encode(upscale(pixels_of(image), request.width, request.height), image.media_type)
        )

    async def close(self) -> None:
        """Starts nothing more; does not wait for what runs."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def _one(self, job: Callable[[], Artifact]) -> ProviderResult:
        return ProviderResult((await self._work(job),))

    async def _work(self, job: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, job)
        except (OSError, ValueError, MemoryError) as error:
            # What an encoder says of an image that its format cannot hold, or of a machine that is too small.
            raise ProviderError("local_error", str(error)[:1000]) from error


def _generate_one(request: GenerateRequest, seed: int, index: int) -> Artifact:
    return encode(render(request.prompt, seed, request.width, request.height, index), "image/png")
