"""What an operation type declares. Route, docs, limits, metering and idempotency all come from the declaration."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Generic, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from contracts.identifiers import ModelName, Name
from contracts.problems import INVALID_REQUEST, FieldError, ProblemError
from image_service.images import Bounds, SourceImage
from image_service.providers.attempt import Attempt
from image_service.providers.base import SEED_MAX, Provider, ProviderRequest, ProviderResult

Prompt = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]
Seed = Annotated[int, Field(ge=0, le=SEED_MAX, description="The same seed and request give the same result.")]
#: Pixels of an edge that a request may name; what the service allows is checked against its bounds.
Edge = Annotated[int, Field(ge=1, le=65_535)]
Strength = Annotated[float, Field(ge=0, le=1)]


class Parameters(BaseModel):
    """What every operation takes. A field that an operation does not have is refused: it would be lost silently."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Annotated[Name | None, Field(description="Who does it; by default as the service's routes say.")] = None
    model: Annotated[ModelName | None, Field(description="A model of that provider, or of a route.")] = None


@dataclass(frozen=True)
class UploadField:
    """A file of the form: PNG, JPEG or WebP.

    ``same_size_as`` is another field, whose image has to have as many pixels each way. ``count_max``: how often the
    field may stand.
    """

    name: str
    description: str
    required: bool = True
    same_size_as: str | None = None
    count_max: int = 1


IMAGE: Final = UploadField("image", "The image to work on.")


@dataclass(frozen=True)
class Uploads:
    """The images that came with a request, by field, in their order; sound, and known to fit the declaration."""

    images: Mapping[str, tuple[SourceImage, ...]] = field(default_factory=dict)

    def one(self, name: str) -> SourceImage:
        """The image of a field that the declaration requires."""
        return self.images[name][0]

    def maybe(self, name: str) -> SourceImage | None:
        found = self.images.get(name, ())
        return found[0] if found else None

    def all(self, name: str) -> tuple[SourceImage, ...]:
        return self.images.get(name, ())


P = TypeVar("P", bound=Parameters)
R = TypeVar("R", bound=ProviderRequest)
C = TypeVar("C", bound=Provider)


@dataclass(frozen=True)
class Operation(Generic[P, R, C]):
    """One operation type.

    ``request`` makes what the provider is asked; it raises ProblemError where parameters, uploads and bounds do not go
    together, and runs before any hold. Units and price attributes are the request's. ``capability`` gives the provider
    as one that has the capability, or None, and ``run`` calls that; it is given the provider by metering, and nothing
    else ever is. ``kinds``: what the operation's requests may have as their kind; a model says which of them it does.
    """

    name: str
    summary: str
    description: str
    parameters: type[P]
    request: Callable[[P, Uploads, Bounds], R]
    capability: Callable[[Provider], C | None]
    run: Callable[[C, str, R, Attempt], Awaitable[ProviderResult]]
    uploads: tuple[UploadField, ...] = ()
    kinds: tuple[str, ...] = ()
    #: Where neither the request nor a route says otherwise.
    default_provider: str = "local"

    @property
    def path(self) -> str:
        return f"/v1/images/{self.name}"


#: The registry holds operations with different parameters and capabilities; each one's own file is checked exactly.
AnyOperation: TypeAlias = Operation[Any, Any, Any]


def bad_field(field: str, message: str, rule: str = "value_error") -> ProblemError:
    """The problem that a parameter does not fit; ``field`` is its name in the request."""
    return ProblemError(INVALID_REQUEST, f"{field}: {message}", [FieldError(field=field, rule=rule, message=message)])


def check_size(width: int, height: int, bounds: Bounds, field: str) -> None:
    """Raises ProblemError naming ``field`` where something of this size would be too large."""
    too_large = bounds.broken_by(width, height)
    if too_large:
        raise bad_field(field, too_large)


def scaled(width: int | None, height: int | None, image: SourceImage) -> tuple[int, int]:
    """A size of which one edge may be missing: the other then keeps the image's proportions."""
    if width is not None:
        return width, height if height is not None else max(1, round(image.height * width / image.width))
    if height is not None:
        return max(1, round(image.width * height / image.height)), height
    return image.width, image.height
