"""Orders of every operation for the real providers' clients, and what becomes of one against the emulators."""

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import SecretStr

from image_service.artifacts import Content
from image_service.config import Settings
from image_service.images import Bounds, SourceImage, examine
from image_service.operations import OPERATIONS
from image_service.providers.base import (
    Model,
    OutcomeUnknownError,
    Provider,
    ProviderError,
    ProviderResult,
    RefusedRequestError,
    StillRunning,
)
from image_service.providers.breaker import Breaker
from image_service.providers.downloads import Downloads
from image_service.providers.jobs import Finisher
from image_service.providers.registry import REMOTES
from image_service.providers.remote import Remote
from image_service.providers.requests import (
    CharacterRequest,
    ControlRequest,
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
    UpscaleRequest,
    VideoRequest,
)
from ledger_service.price_files import read_shipped
from tests.attempts import attempt_of
from tests.emulators import Emulators

BOUNDS = Bounds(pixels_max=40_000_000, edge_pixels_max=16_383)
POLL_SECONDS = (0.01, 0.03)
BACKOFF_SECONDS = 0.005
#: Of one call, and of the time in which what became of it is looked for.
DEADLINE_SECONDS = 8.0
DOUBT_SECONDS = 0.2


def image_of(width: int = 256, height: int = 256, mode: str = "RGB") -> SourceImage:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert(mode).save(buffer, "PNG")
    return examine(Content(buffer.getvalue()), BOUNDS)


PICTURE, MASK = image_of(), image_of(mode="L")


@dataclass(frozen=True)
class Asked:
    """One order: who does which operation with which model."""

    provider: str
    operation: str
    model: str
    request: Any

    @property
    def emulator(self) -> str:
        """The emulators' name of the provider."""
        return emulator_of(next(remote for remote in REMOTES if remote.name == self.provider))

    def __str__(self) -> str:
        return f"{self.provider} {self.operation} {self.model} {self.request.kind or ''}".strip()


def _wavespeed() -> list[Asked]:
    asked = [
        ("generate", "wavespeed-ai/flux-dev-ultra-fast", GenerateRequest("a cat", 320, 256, 7, 2)),
        ("generate", "bytedance/seedream-v4", GenerateRequest("a cat", 1024, 1024, None, 1)),
        ("character", "bytedance/seedream-v4/edit", CharacterRequest("a cat", (PICTURE, PICTURE), 1024, 1024, None, 1)),
        ("edit", "wavespeed-ai/flux-kontext-dev", GeneralEdit(PICTURE, "blue")),
        ("edit", "wavespeed-ai/flux-kontext-dev-ultra-fast", GeneralEdit(PICTURE, "blue")),
        ("edit", "wavespeed-ai/flux-dev-ultra-fast", GeneralEdit(PICTURE, "blue", MASK, 0.5)),
        ("edit", "wavespeed-ai/flux-dev-ultra-fast", Inpaint(PICTURE, MASK, "blue")),
        ("edit", "wavespeed-ai/image-eraser", Erase(PICTURE, MASK)),
        ("face_swap", "wavespeed-ai/image-face-swap", FaceSwapRequest(PICTURE, PICTURE)),
        ("image_to_3d", "wavespeed-ai/hunyuan3d-v3/image-to-3d", ThreeDRequest(PICTURE, 1024)),
        ("image_to_video", "wavespeed-ai/wan-2.1/i2v-720p", VideoRequest(PICTURE, "it moves", 5, "720p")),
    ]
    return [Asked("wavespeed", *one) for one in asked]


def _stability() -> list[Asked]:
    generate = GenerateRequest("a cat", 1024, 1024, 7, 1, "a dog")
    asked: list[tuple[str, str, Any]] = [
        ("generate", "stable-image-core", GenerateRequest("a cat", 512, 512, None, 2)),
        ("generate", "stable-image-ultra", generate),
        ("generate", "sd3.5-large", generate),
        ("generate", "sd3.5-large-turbo", generate),
        ("generate", "sd3.5-medium", generate),
        ("edit", "sd3.5-large", GeneralEdit(PICTURE, "blue")),
        ("edit", "erase", Erase(PICTURE, MASK)),
        ("edit", "inpaint", Inpaint(PICTURE, MASK, "blue")),
        ("edit", "outpaint", Outpaint(PICTURE, 10, 0, 0, 20, "sea")),
        ("edit", "search-and-replace", SearchReplace(PICTURE, "a cat", "a dog")),
        ("edit", "search-and-recolor", SearchRecolor(PICTURE, "a cat", "blue")),
        ("edit", "remove-background", RemoveBackground(PICTURE)),
        ("edit", "replace-background-and-relight", Relight(PICTURE, "the sea", "left", 0.5)),
        ("upscale", "upscale-fast", UpscaleRequest(PICTURE, "fast", 512, 512)),
        ("upscale", "upscale-conservative", UpscaleRequest(PICTURE, "conservative", 512, 512, prompt="a cat")),
        ("upscale", "upscale-creative", UpscaleRequest(PICTURE, "creative", 512, 512, prompt="a cat")),
        ("control", "control-sketch", ControlRequest(PICTURE, "sketch", "a cat", 256, 256, 0.5)),
        ("control", "control-structure", ControlRequest(PICTURE, "structure", "a cat", 256, 256)),
        ("control", "control-style", ControlRequest(PICTURE, "style", "a cat", 512, 512, 0.3)),
        ("image_to_3d", "stable-fast-3d", ThreeDRequest(PICTURE, 512)),
    ]
    return [Asked("stability", *one) for one in asked]


#: Requests of every operation and kind, for providers without orders of their own: the first that a model takes.
_LARGE = image_of(320, 240)
_SAMPLES: dict[tuple[str, str | None], tuple[Any, ...]] = {
    ("generate", None): (GenerateRequest("a cat", 256, 256, None, 2), GenerateRequest("a cat", 1024, 1024, None, 2)),
    ("character", None): (CharacterRequest("a cat", (PICTURE, PICTURE), 1024, 1024, None, 1),),
    ("edit", "general"): (GeneralEdit(PICTURE, "blue"),),
    ("edit", "inpaint"): (Inpaint(PICTURE, MASK, "blue"),),
    ("edit", "outpaint"): (Outpaint(PICTURE, 10, 0, 0, 20, "sea"),),
    ("edit", "erase"): (Erase(PICTURE, MASK),),
    ("edit", "remove_background"): (RemoveBackground(PICTURE),),
    ("edit", "search_replace"): (SearchReplace(PICTURE, "a cat", "a dog"),),
    ("edit", "search_recolor"): (SearchRecolor(PICTURE, "a cat", "blue"),),
    ("edit", "relight"): (Relight(PICTURE, "the sea", None),),
    ("face_swap", None): (FaceSwapRequest(PICTURE, PICTURE),),
    ("upscale", "fast"): (UpscaleRequest(_LARGE, "fast", 640, 480),),
    ("upscale", "conservative"): (UpscaleRequest(_LARGE, "conservative", 640, 480),),
    ("upscale", "creative"): (UpscaleRequest(_LARGE, "creative", 640, 480),),
    ("control", "sketch"): (ControlRequest(PICTURE, "sketch", "a cat", 256, 256),),
    ("control", "structure"): (ControlRequest(PICTURE, "structure", "a cat", 256, 256),),
    ("control", "style"): (ControlRequest(PICTURE, "style", "a cat", 512, 512),),
    ("image_to_3d", None): (ThreeDRequest(PICTURE, 1024), ThreeDRequest(PICTURE, 512)),
    ("image_to_video", None): tuple(VideoRequest(PICTURE, "it moves", 5, name) for name in ("480p", "720p", "1080p")),
}


def emulator_of(remote: Remote) -> str:
    return remote.key.removesuffix("_key")


def _remote(remote: Remote, url: str, key: str) -> Provider:
    """The provider's client, as the service makes it."""
    settings = Settings.model_validate({remote.key: SecretStr(key), f"{emulator_of(remote)}_url": url})
    made = remote.made(settings)
    assert made is not None
    return made


def sample(provider: Provider, model: Model, kind: str | None) -> Any:
    """Raises AssertionError where the model takes none of the samples: it needs an order of its own, then."""
    for request in _SAMPLES[model.operation, kind]:
        try:
            provider.quote(model, request)
        except RefusedRequestError:
            continue
        return request
    raise AssertionError(f"{provider.name} {model.name}: no sample of {model.operation} {kind or ''} fits")


def _sampled() -> list[Asked]:
    """Every model and kind of every provider that has no orders above."""
    asked = []
    for remote in REMOTES:
        if remote.name not in _OWN:
            provider = _remote(remote, "http://127.0.0.1:1", "none")
            asked += [
                Asked(remote.name, model.operation, model.name, sample(provider, model, kind))
                for model in provider.models
                for kind in (sorted(model.kinds) if model.kinds else (None,))
            ]
    return asked


_OWN = {"wavespeed": _wavespeed(), "stability": _stability()}
ALL = [asked for orders in _OWN.values() for asked in orders] + _sampled()


@asynccontextmanager
async def quick_providers(emulators: Emulators, *, patient: bool = False) -> AsyncIterator[dict[str, Provider]]:
    """The clients of the registry, in a hurry, and without a limit of their own on requests."""
    keys = emulators.http.get(f"{emulators.server.control_url}/").json()["providers"]
    made: dict[str, Provider] = {}
    for remote in REMOTES:
        name = emulator_of(remote)
        made[remote.name] = _remote(remote, emulators.url(name), keys[name]["keys"][0])
        hurry(made[remote.name], emulators, patient=patient)
    try:
        yield made
    finally:
        for provider in made.values():
            await provider.close()


def hurry(provider: Any, emulators: Emulators, *, patient: bool) -> None:  # Any: what every client has inside
    """What a client waits for is settled where it is made, which is no concern of the service's settings."""
    downloads = Downloads(
        (), (f"127.0.0.1:{emulators.server.cdn_port}",), bytes_max=8 * 1024 * 1024, wait_seconds=BACKOFF_SECONDS
    )
    provider._finisher = Finisher(downloads, BOUNDS, poll_seconds=POLL_SECONDS)
    channel = provider._channel
    channel._backoff_seconds, channel._limiter = BACKOFF_SECONDS, None
    if not patient:
        channel._breaker = Breaker(failures_max=1_000_000)


@dataclass(frozen=True)
class Became:
    """``cost_nanos``: settled; None: in doubt, and held at what was quoted."""

    cost_nanos: int | None
    held_nanos: int
    code: str | None = None
    result: ProviderResult | None = None


async def run(
    providers: Mapping[str, Provider], asked: Asked, folder: Path, deadline_seconds: float = DEADLINE_SECONDS
) -> Became:
    """An order as the service makes it: with a deadline, and asked after where its call does not say what became of
    it; costs by the shipped price list."""
    provider, operation = providers[asked.provider], OPERATIONS[asked.operation]
    model = next(
        one
        for one in provider.models
        if (one.name, one.operation) == (asked.model, asked.operation) and asked.request.kind in (None, *one.kinds)
    )
    quote = provider.quote(model, asked.request)
    # A provider that knows its own cost reports it too.
    price = price_of(asked, quote.attributes) if quote.cost_nanos is None else 0
    held = price * quote.quantity if quote.cost_nanos is None else quote.cost_nanos
    attempt = attempt_of(asked.operation, spool_folder=folder, deadline_seconds=deadline_seconds)

    def cost(reported: int | None) -> int:
        return price * (attempt.used_quantity or quote.quantity) if reported is None else reported

    try:
        async with asyncio.timeout(deadline_seconds):
            result = await operation.run(provider, asked.model, asked.request, attempt)
        return Became(cost(result.cost_nanos), held, None, result)
    except ProviderError as error:
        return Became(cost(error.cost_nanos), held, error.code)
    except Exception:  # noqa: BLE001  as the service does: what it was is the provider's to say
        if not attempt.may_be_billed:
            return Became(0, held, "not_sent")
    deadline = asyncio.get_running_loop().time() + DOUBT_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        try:
            found = await provider.recover(asked.model, attempt.job_id, attempt)
        except ProviderError as error:
            return Became(cost(error.cost_nanos), held, error.code)
        except OutcomeUnknownError:
            break
        except Exception:  # noqa: BLE001  trouble of the moment, as the service takes it
            await asyncio.sleep(0.02)
            continue
        if isinstance(found, StillRunning):
            await asyncio.sleep(min(found.ask_again_seconds, 0.02))
            continue
        return Became(cost(found.cost_nanos), held, None, found)
    return Became(None, held, "outcome_unknown")


@lru_cache
def _prices() -> dict[tuple[str, str, str], Any]:
    return {put.key: put.price for put in read_shipped().puts}


def price_of(asked: Asked, attributes: Mapping[str, str | int]) -> int:
    """Nano-dollars a unit, by the newest version in the shipped list."""
    price = _prices()[asked.provider, asked.operation, asked.model]
    fitting = [
        variant.price
        for variant in price.variants
        if all(attributes.get(name) == value for name, value in variant.when.items())
    ]
    assert len(fitting) == 1, (asked, attributes)
    return int(fitting[0])
