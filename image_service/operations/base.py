"""What an operation type declares. Route, docs, limits, metering and idempotency all come from the declaration."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from contracts.identifiers import ModelName, Name
from contracts.problems import INVALID_REQUEST, FieldError, ProblemError
from image_service.images import Bounds, SourceImage
from image_service.providers.base import Provider, ProviderResult


class Parameters(BaseModel):
    """What every operation takes. A field that an operation does not have is refused: it would be lost silently."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Annotated[Name | None, Field(description="Who does it; by default the operation's own choice.")] = None
    model: Annotated[ModelName | None, Field(description="A model of that provider.")] = None


P = TypeVar("P", bound=Parameters)
C = TypeVar("C", bound=Provider)


def one_unit(parameters: Parameters) -> int:
    """The quantity of an operation that makes one image."""
    del parameters
    return 1


@dataclass(frozen=True)
class Operation(Generic[P, C]):
    """One operation type.

    ``check`` raises ProblemError where parameters, image and bounds do not go together; it runs before any hold.
    ``run`` is given the provider by metering, and nothing else ever is. ``quantity`` are the units that count.
    """

    name: str
    summary: str
    description: str
    parameters: type[P]
    takes_image: bool
    capability: Callable[[Provider], C | None]
    default_provider: str
    default_model: str
    check: Callable[[P, SourceImage | None, Bounds], None]
    run: Callable[[C, str, P, SourceImage | None], Awaitable[ProviderResult]]
    quantity: Callable[[P], int] = one_unit

    @property
    def path(self) -> str:
        return f"/v1/images/{self.name}"


#: The registry holds operations with different parameters and capabilities; each one's own file is checked exactly.
AnyOperation: TypeAlias = Operation[Any, Any]


def bad_field(field: str, message: str) -> ProblemError:
    """The problem that a parameter does not fit; ``field`` is its name in the request."""
    return ProblemError(
        INVALID_REQUEST, f"{field}: {message}", [FieldError(field=field, rule="value_error", message=message)]
    )


def require_image(source: SourceImage | None) -> SourceImage:
    """The image of an operation that takes one."""
    assert source is not None, "the declaration says takes_image"
    return source
