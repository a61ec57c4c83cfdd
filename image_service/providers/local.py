"""The local provider: real work on this machine with Pillow, so that everything can be had without a network."""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from contracts.client import RecoveredFailure, Recovery
from image_service.images import ProducedImage, SourceImage, encode, pixels_of
from image_service.providers.base import (
    SEED_MAX,
    EditRequest,
    GenerateRequest,
    Model,
    ProviderError,
    ProviderResult,
    UpscaleRequest,
)
from image_service.providers.local_edit import apply_edit
from image_service.providers.local_render import render
from image_service.providers.local_upscale import upscale

T = TypeVar("T")

#: Does all the work and then says no, billing nothing: to see what a failing provider leads to.
UNRELIABLE: Final = Model("local-unreliable-1", "generate", 10_000_000)

#: The work costs us nothing; the prices are there so that cost, cost limits and summaries can be seen at work.
MODELS: Final = (
    Model("local-render-1", "generate", 10_000_000),
    UNRELIABLE,
    Model("local-edit-1", "edit", 20_000_000),
    Model("local-upscale-1", "upscale", 5_000_000),
)
_PRICE_PER_UNIT_NANOS: Final = {model.name: model.price_per_unit_nanos for model in MODELS}


class LocalProvider:
    """Generation, edit and upscale in at most ``threads`` worker threads; what does not fit waits its turn."""

    name = "local"
    models = MODELS

    def __init__(self, threads: int) -> None:
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="local-provider")

    def price(self, model: Model, quantity: int) -> int:
        return model.price_per_unit_nanos * quantity

    async def recover(self, model: str, provider_job_id: str | None) -> Recovery:
        """Its work dies with its caller, and nothing is ever billed for less than a result."""
        del model, provider_job_id
        return RecoveredFailure("interrupted", "the operation was interrupted before it had a result", cost_nanos=0)

    async def generate(self, model: str, request: GenerateRequest) -> ProviderResult:
        seed = secrets.randbelow(SEED_MAX + 1) if request.seed is None else request.seed
        images = [await self._work(partial(_generate_one, request, seed, index)) for index in range(request.count)]
        if model == UNRELIABLE.name:
            raise ProviderError("unreliable", f"{model} always fails once its work is done; it is there to be tried")
        return ProviderResult(tuple(images), _PRICE_PER_UNIT_NANOS[model] * request.count, seed=seed)

    async def edit(self, model: str, source: SourceImage, request: EditRequest) -> ProviderResult:
        image = await self._work(lambda: encode(apply_edit(pixels_of(source), request), source.media_type))
        return ProviderResult((image,), _PRICE_PER_UNIT_NANOS[model])

    async def upscale(self, model: str, source: SourceImage, request: UpscaleRequest) -> ProviderResult:
        image = await self._work(
            lambda: encode(upscale(pixels_of(source), request.width, request.height), source.media_type)
        )
        return ProviderResult((image,), _PRICE_PER_UNIT_NANOS[model])

    def close(self) -> None:
        """Starts nothing more; does not wait for what runs."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def _work(self, job: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, job)
        except (OSError, ValueError, MemoryError) as error:
            # What an encoder says of an image that its format cannot hold, or of a machine that is too small.
            raise ProviderError("local_error", str(error)[:1000]) from error


def _generate_one(request: GenerateRequest, seed: int, index: int) -> ProducedImage:
    return encode(render(request.prompt, seed, request.width, request.height, index), "image/png")
