"""What a provider is to this service: a name, priced models, and a protocol for each capability that it has."""

from dataclasses import dataclass
from typing import Final, Literal, Protocol, runtime_checkable

from contracts.client import Recovery
from image_service.images import ProducedImage, SourceImage


@dataclass(frozen=True)
class Model:
    """A model of a provider, the operation it serves, and what one unit (image) of it costs, in nano-dollars."""

    name: str
    operation: str
    price_per_unit_nanos: int


@dataclass(frozen=True)
class ProviderResult:
    """What the provider delivered and billed. ``status_code`` is its HTTP status, null where it speaks no HTTP."""

    images: tuple[ProducedImage, ...]
    cost_nanos: int
    status_code: int | None = None
    retry_count: int = 0
    #: Of a generated image, where there is one: with it the same image can be had again.
    seed: int | None = None


class ProviderError(Exception):
    """The provider did not do it. ``cost_nanos`` is what it billed all the same; usually nothing."""

    def __init__(
        self, code: str, message: str, *, cost_nanos: int = 0, status_code: int | None = None, retry_count: int = 0
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.cost_nanos = cost_nanos
        self.status_code = status_code
        self.retry_count = retry_count


class Provider(Protocol):
    """What all providers share. Its work must not block the event loop."""

    @property
    def name(self) -> str: ...

    @property
    def models(self) -> tuple[Model, ...]: ...

    def price(self, model: Model, quantity: int) -> int:
        """Nano-dollars for this many units."""
        ...

    async def recover(self, model: str, provider_job_id: str | None) -> Recovery:
        """What became of a call whose caller vanished: the process died, or stopped waiting. Idempotent."""
        ...

    def close(self) -> None:
        """The service stops. Does not block."""
        ...


@dataclass(frozen=True)
class GenerateRequest:
    """Sizes in pixels; ``count`` variations of one prompt. Without a seed the provider chooses one."""

    prompt: str
    width: int
    height: int
    seed: int | None
    count: int


Effect = Literal["enhance", "grayscale", "sepia", "blur", "sharpen", "rotate", "crop", "resize"]


@dataclass(frozen=True)
class EditRequest:
    """One effect and what it needs; lengths in pixels, the angle in degrees clockwise, strength from 0 to 1."""

    effect: Effect
    prompt: str | None
    strength: float
    angle: int
    left: int
    top: int
    #: The size that comes out.
    width: int
    height: int


@dataclass(frozen=True)
class UpscaleRequest:
    """The size that comes out, in pixels."""

    width: int
    height: int


@runtime_checkable
class ImageGeneration(Provider, Protocol):
    async def generate(self, model: str, request: GenerateRequest) -> ProviderResult:
        """Exactly ``count`` images of exactly the asked size. Raises ProviderError."""
        ...


@runtime_checkable
class ImageEdit(Provider, Protocol):
    async def edit(self, model: str, source: SourceImage, request: EditRequest) -> ProviderResult:
        """One image of the asked size. Raises ProviderError."""
        ...


@runtime_checkable
class ImageUpscale(Provider, Protocol):
    async def upscale(self, model: str, source: SourceImage, request: UpscaleRequest) -> ProviderResult:
        """One image of the asked size. Raises ProviderError."""
        ...


SEED_MAX: Final = 2**32 - 1


def as_generation(provider: Provider) -> ImageGeneration | None:
    return provider if isinstance(provider, ImageGeneration) else None


def as_edit(provider: Provider) -> ImageEdit | None:
    return provider if isinstance(provider, ImageEdit) else None


def as_upscale(provider: Provider) -> ImageUpscale | None:
    return provider if isinstance(provider, ImageUpscale) else None
