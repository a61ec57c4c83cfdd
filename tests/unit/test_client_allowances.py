"""What may be begun under a lease: never past its end, on either clock, nor what would outlast the hold behind it."""

from datetime import UTC, datetime, timedelta

import pytest

from contracts.client.allowances import Allowance, Clocks
from contracts.identifiers import uuid7
from contracts.leases import Lease
from contracts.limits import LimitCheck

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ASKED_AT = 1_000.0
TTL, GRACE = 60, 300


def allowance(calls: int = 3, quantity: int = 6, cost_nanos: int = 600) -> Allowance:
    expires_at = NOW + timedelta(seconds=TTL)
    lease = Lease(
        lease_id=uuid7(),
        account_id="acme",
        allowed=True,
        denial=None,
        token="t",
        calls=calls,
        quantity=quantity,
        estimated_cost=cost_nanos,
        expires_at=expires_at,
        reclaimed_at=expires_at + timedelta(seconds=GRACE),
        limits=[],
    )
    return Allowance(lease, ASKED_AT, TTL)


def check(quantity: int = 1) -> LimitCheck:
    return LimitCheck(
        operation_id=uuid7(), account_id="acme", user_id="ann", operation="generate", provider="p", model="m",
        quantity=quantity,
    )  # fmt: skip


def at(monotonic: float, utc: float) -> Clocks:
    """So many seconds after the lease was asked for, on each clock."""
    return Clocks(ASKED_AT + monotonic, NOW + timedelta(seconds=utc))


@pytest.mark.parametrize(
    ("now", "hold_seconds", "may_begin"),
    [
        (at(0, 0), 0, True),
        (at(TTL - 1, TTL - 1), 0, True),
        (at(TTL, 0), 0, False),  # the clock was set back
        (at(0, TTL), 0, False),  # the machine slept, and the other clock with it
        (at(0, 0), TTL + GRACE, True),
        (at(0, 0), TTL + GRACE + 1, False),  # it might end when its share is somebody else's
        (at(10, 0), TTL + GRACE - 10, True),
        (at(10, 0), TTL + GRACE - 9, False),
        (at(0, 10), TTL + GRACE - 10, True),
        (at(0, 10), TTL + GRACE - 9, False),
    ],
)
def test_an_operation_begins_before_the_leases_end_and_ends_while_it_is_held(
    now: Clocks, hold_seconds: float, may_begin: bool
) -> None:
    assert allowance().admits(check(), now, hold_seconds) is may_begin


def test_calls_units_and_cost_are_each_counted_down() -> None:
    for some, fits in (
        (allowance(calls=2), 2),
        (allowance(calls=9, quantity=2, cost_nanos=200), 2),
        (allowance(calls=9, quantity=6, cost_nanos=599), 5),  # a unit is drawn at a sixth of it, rounded up
    ):
        drawn = 0
        while some.admits(check(), at(0, 0), 0):
            some.draw(check(), at(0, 0))
            drawn += 1
        assert drawn == fits
        assert min(some.calls, some.quantity, some.cost_nanos) >= 0
