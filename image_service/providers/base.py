"""What a provider is to this service, whatever it can do: a name, models, quotes, and how a call of it may end.

What providers can do, and what they are asked then, is in capabilities.py. How a capability method ends:

- it returns a ProviderResult: the provider delivered;
- it raises ProviderError: it is known that the provider did not deliver, and what it billed all the same;
- it raises anything else (a timeout, OutcomeUnknownError, CancelledError …): before ``attempt.sending()`` nothing can
  have been billed and the operation has failed at no cost; from then on `recover` is asked what became of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from image_service.artifacts import Artifact
from image_service.providers.attempt import Attempt

SEED_MAX: Final = 2**32 - 1

#: What one unit of a model's price is; begun megapixels count whole.
Unit = Literal["image", "megapixel", "second", "call"]
#: What chooses a price in the catalogue, named as there: size, quality, resolution, steps, megapixels …
Attributes = Mapping[str, str | int]


@dataclass(frozen=True)
class Model:
    """A model of a provider, for one operation; one that serves several operations stands once for each.

    ``kinds``: of an operation that has kinds, those that this model does. ``long``: it usually takes longer than a
    caller waits, so it is answered with a status resource, unless the caller says otherwise.
    """

    name: str
    operation: str
    #: In nano-dollars, where the provider itself says what a unit costs; None: the price catalogue of the ledger does.
    price_per_unit_nanos: int | None = None
    kinds: frozenset[str] = frozenset()
    unit: Unit = "image"
    long: bool = False


class ProviderRequest(Protocol):
    """What all requests of capabilities.py have: the units that they count, and what chooses their price."""

    @property
    def kind(self) -> str | None:
        """Of an operation that has kinds."""
        ...

    @property
    def quantity(self) -> int:
        """In the operation's own units: images, seconds, calls."""
        ...

    @property
    def attributes(self) -> Attributes: ...


@dataclass(frozen=True)
class Quote:
    """What a request will be checked and held as.

    ``quantity`` in the model's unit. ``attributes`` as the price catalogue knows them, of what the provider will really
    be asked for: one that only makes squares says ``size: 1024x1024`` for any square. Without ``cost_nanos`` the ledger
    holds the dearest price that fits them.
    """

    quantity: int
    attributes: Attributes = field(default_factory=dict)
    cost_nanos: int | None = None


class RefusedRequestError(Exception):
    """The model cannot do this request; raised by `quote`, before any hold. ``field`` is the parameter's name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


@dataclass(frozen=True)
class ProviderResult:
    """What the provider delivered and billed.

    ``cost_nanos`` is what the provider reported; None: the price catalogue has it, for what `Attempt.used` said last,
    else for the quote. ``status_code`` is its HTTP status, None where it speaks no HTTP.
    """

    artifacts: tuple[Artifact, ...]
    cost_nanos: int | None = None
    status_code: int | None = None
    retry_count: int = 0
    #: Of a generated image, where there is one: with it the same image can be had again.
    seed: int | None = None


class ProviderError(Exception):
    """The provider did not do it, and that is certain.

    ``cost_nanos`` is what it billed all the same, usually nothing; None: it bills refusals like results, at the
    catalogue's price. ``elsewhere``: another provider may well do it (this one is down, overloaded, out of credit),
    which is no use where the request itself was refused. ``message`` is kept for ever and read by others: no prompt.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        cost_nanos: int | None = 0,
        status_code: int | None = None,
        retry_count: int = 0,
        elsewhere: bool = False,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.cost_nanos = cost_nanos
        self.status_code = status_code
        self.retry_count = retry_count
        self.elsewhere = elsewhere


class OutcomeUnknownError(Exception):
    """The provider may have done and billed it, and nobody can say (now). No prompt in the message."""


@dataclass(frozen=True)
class StillRunning:
    """The job is not done yet; to be asked again, not before so many seconds."""

    ask_again_seconds: float = 1.0


class Provider(Protocol):
    """What all providers share. Its work must not block the event loop."""

    @property
    def name(self) -> str: ...

    @property
    def models(self) -> tuple[Model, ...]: ...

    @property
    def available(self) -> bool:
        """False while there is no use in calling it (its circuit breaker is open): it is skipped, before any hold."""
        ...

    def quote(self, model: Model, request: ProviderRequest) -> Quote:
        """What this request will be held as; `plain_quote` is enough for most. Raises RefusedRequestError."""
        ...

    async def recover(self, model: str, job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
        """What became of a call that nobody answers for: its process died, or its answer was lost. One look.

        ``job_id`` is what `Attempt.accepted` was told; None: it is only known that the call may have been made.
        ``attempt`` is a new one for the same operation: `spool`, `progress` and `used` work as in a call. Raises
        ProviderError where the job failed; OutcomeUnknownError where nobody will ever know; anything else is taken
        for trouble of the moment, and asked again until the deadline. Idempotent; bills nothing.
        """
        ...

    async def close(self) -> None:
        """The service stops."""
        ...


def plain_quote(model: Model, request: ProviderRequest) -> Quote:
    """The request's own units and attributes, at the model's price where it has one."""
    quantity = request.quantity
    if model.unit == "call":
        quantity = 1
    if model.unit == "megapixel":
        quantity *= int(request.attributes.get("megapixels", 1))
    own = model.price_per_unit_nanos
    return Quote(quantity, dict(request.attributes), None if own is None else own * quantity)
