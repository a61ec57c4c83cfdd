"""What is known of an operation whose caller vanished: cancelled, out of time, or gone with its process."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from contracts.events import OperationRequested


@dataclass(frozen=True)
class RecoveredFailure:
    """It is known that the operation did not deliver, and what was billed for it, in nano-dollars."""

    code: str
    message: str
    cost_nanos: int


@dataclass(frozen=True)
class InDoubt:
    """Nobody can say whether the operation was done and billed: it is costed at its estimate, for reconciliation."""

    message: str


Recovery = RecoveredFailure | InDoubt

#: Asks the provider what became of a call: what was requested, and the provider's job id where one was journalled.
Recover = Callable[[OperationRequested, str | None], Awaitable[Recovery]]
