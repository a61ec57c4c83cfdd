"""What may be done under a lease, counted down. Pure: times come in as arguments."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from contracts.events import OperationCompleted, OperationFailed
from contracts.leases import Lease
from contracts.limits import Decision, LimitCheck, Reservation

#: Of its time, how much is left when a lease is renewed.
RENEW_AT_SHARE = 0.25


class Route(NamedTuple):
    """For whom and what a lease is. Checks that leave their cost to the ledger's prices have leases of their own, which
    the ledger has priced."""

    account_id: str
    user_id: str
    project_id: str | None
    api_key_id: str | None
    operation: str
    provider: str
    model: str
    estimated: bool


def route_of(check: LimitCheck) -> Route:
    return Route(
        check.account_id,
        check.user_id,
        check.project_id,
        check.api_key_id,
        check.operation,
        check.provider,
        check.model,
        check.estimated_cost is not None,
    )


@dataclass(frozen=True)
class Clocks:
    """Now, on two clocks: one stands still while the machine sleeps, the other may be set. The later one counts."""

    monotonic: float
    utc: datetime


class Allowance:
    """What is left of a lease. It only ever gets less: what was drawn once may have been used, whatever came of it.

    ``asked_at``: on the monotonic clock, before the ledger was asked; so its end here is never later than there.
    """

    def __init__(self, lease: Lease, asked_at: float, ttl_seconds: float) -> None:
        assert lease.expires_at is not None, "an allowed lease has its times"
        assert lease.reclaimed_at is not None, "an allowed lease has its times"
        self.lease = lease
        self.calls = lease.calls
        self.quantity = lease.quantity
        self.cost_nanos = lease.estimated_cost
        #: Operations under it that have begun and are not with the recorder yet.
        self.in_flight = 0
        #: The outcome of one could not be handed over.
        self.undelivered = False
        self._until = asked_at + ttl_seconds
        self._renew_at = asked_at + ttl_seconds * (1 - RENEW_AT_SHARE)
        self._grace_seconds = (lease.reclaimed_at - lease.expires_at).total_seconds()
        self._expires_at = lease.expires_at
        self._reclaimed_at = lease.reclaimed_at

    @property
    def drawn(self) -> bool:
        return self.calls < self.lease.calls

    def is_over(self, now: Clocks) -> bool:
        return now.monotonic >= self._until or now.utc >= self._expires_at

    def is_spent(self, now: Clocks) -> bool:
        """Nothing more can be drawn, by anybody."""
        return self.calls < 1 or self.quantity < 1 or self.is_over(now)

    def is_to_be_renewed(self, check: LimitCheck, now: Clocks) -> bool:
        """Used up, as far as this check goes, or near its end."""
        return not self._has_room(check) or now.monotonic >= self._renew_at or self.is_over(now)

    def admits(self, check: LimitCheck, now: Clocks, hold_seconds: float) -> bool:
        """Whether the operation may begin, and would end while its share is still held."""
        return self._has_room(check) and not self.is_over(now) and self._ends_in_time(now, hold_seconds)

    def draw(self, check: LimitCheck, now: Clocks) -> "Draw":
        """Takes the operation's share; `admits` has said that it is there."""
        cost_nanos = self._cost_of(check)
        self.calls -= 1
        self.quantity -= check.quantity
        self.cost_nanos -= cost_nanos
        self.in_flight += 1
        decision = Decision(
            operation_id=check.operation_id,
            allowed=True,
            reservation=Reservation(expires_at=self._reclaimed_at),
            denial=None,
            limits=self.lease.limits,
            decided_at=now.utc,
            estimated_cost=cost_nanos,
        )
        return Draw(self, decision, check.quantity, cost_nanos)

    def _has_room(self, check: LimitCheck) -> bool:
        return self.calls >= 1 and self.quantity >= check.quantity and self.cost_nanos >= self._cost_of(check)

    def _ends_in_time(self, now: Clocks, hold_seconds: float) -> bool:
        until = self._until + self._grace_seconds
        return now.monotonic + hold_seconds <= until and now.utc + timedelta(seconds=hold_seconds) <= self._reclaimed_at

    def _cost_of(self, check: LimitCheck) -> int:
        if check.estimated_cost is not None:
            return check.estimated_cost
        # The ledger has priced all units at the dearest.
        return -(-self.lease.estimated_cost // self.lease.quantity) * check.quantity


class Draw:
    """One operation's share of a lease, and the decision that admits it."""

    def __init__(self, allowance: Allowance, decision: Decision, quantity: int, cost_nanos: int) -> None:
        self.decision = decision
        self._allowance = allowance
        self._quantity = quantity
        self._cost_nanos = cost_nanos
        self._ended = False

    @property
    def lease_id(self) -> UUID:
        return self._allowance.lease.lease_id

    def settle(self, outcome: OperationCompleted | OperationFailed) -> None:
        """Takes what it came to beyond its share as well: the ledger takes that out of the lease's hold."""
        self._allowance.quantity -= max(0, outcome.data.quantity - self._quantity)
        self._allowance.cost_nanos -= max(0, outcome.data.cost - self._cost_nanos)

    def end(self, *, delivered: bool) -> None:
        """Its outcome is with the recorder, or it was not begun; unless it is not ``delivered``. Idempotent."""
        if not self._ended:
            self._ended = True
            self._allowance.in_flight -= 1
            self._allowance.undelivered |= not delivered
