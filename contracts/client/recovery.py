"""What is known of an operation whose caller vanished: cancelled, out of time, or gone with its process."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from contracts.events import OperationRequested
from contracts.provider_calls import ProviderCall


@dataclass(frozen=True)
class RecoveredCompletion:
    """The provider did deliver after all, and billed this, in nano-dollars. The others: where they are not as requested
    (``quantity``, ``actual_provider``, ``actual_model``), or as the provider answered. ``provider_calls``: all that
    were made, with the provider's job ids, where those are known; their costs add up to this one."""

    cost_nanos: int
    quantity: int | None = None
    actual_provider: str | None = None
    actual_model: str | None = None
    status_code: int | None = None
    response_bytes: int = 0
    provider_calls: tuple[ProviderCall, ...] = ()


@dataclass(frozen=True)
class RecoveredFailure:
    """It is known that the operation did not deliver, and what was billed for it, in nano-dollars."""

    code: str
    message: str
    cost_nanos: int
    actual_provider: str | None = None
    actual_model: str | None = None
    provider_calls: tuple[ProviderCall, ...] = ()


@dataclass(frozen=True)
class InDoubt:
    """Nobody can say whether the operation was done and billed: it is costed at the most that it may have come to, in
    nano-dollars, for reconciliation. None: at its estimate."""

    message: str
    cost_nanos: int | None = None
    actual_provider: str | None = None
    actual_model: str | None = None
    provider_calls: tuple[ProviderCall, ...] = ()


Recovery = RecoveredCompletion | RecoveredFailure | InDoubt

#: Asks the provider what became of a call: what was requested, and the note that was journalled with `Operation.note`,
#: the provider's job id for one. May take as long as it needs: cut off by a restart, it is asked again.
Recover = Callable[[OperationRequested, str | None], Awaitable[Recovery]]
