"""Thresholds of limits: from which amount on they are reached, and what is watched for next."""

from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.limits import Limit, Meter
from contracts.money import MAXIMUM_NANOS_MAX
from ledger_service.domain.alerts import (
    Threshold,
    next_amount,
    reached,
    read_thresholds,
    thresholds_of,
    write_thresholds,
)
from ledger_service.domain.counters import CounterKey

KEY = CounterKey("acme", "user:ada", datetime(2026, 12, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC), "calls")


def a_limit(*percents: int, **changes: Any) -> Limit:
    body = {"limit_id": "images", "meter": "calls", "window": "month", "maximum": 25, "thresholds": list(percents)}
    return Limit.model_validate({**body, **changes})


def amounts(maximum: int, *percents: int) -> list[int]:
    return [threshold.amount for threshold in thresholds_of(a_limit(*percents), maximum)]


def test_a_threshold_is_the_least_amount_that_reaches_its_percent() -> None:
    assert amounts(100, 1, 80, 90, 100, 150) == [1, 80, 90, 100, 150]
    assert amounts(7, 50, 80, 100) == [4, 6, 7]
    assert amounts(1, 1, 99, 100, 101) == [1, 1, 1, 2]


def test_an_unused_limit_warns_of_nothing() -> None:
    given_ = thresholds_of(a_limit(80, 100), 0)
    assert reached(given_, KEY, Meter.CALLS, 0) == []
    assert [alert.threshold.percent for alert in reached(given_, KEY, Meter.CALLS, 1)] == [80, 100]


@given(st.integers(1, MAXIMUM_NANOS_MAX), st.integers(1, 1000))
def test_amounts_are_exact_however_large(maximum: int, percent: int) -> None:
    [amount] = amounts(maximum, percent)
    exact = Fraction(maximum * percent, 100)
    assert amount >= exact > amount - 1


@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, 1000), unique=True, max_size=10).map(sorted),
    st.lists(st.integers(0, 10**7), max_size=20),
)
def test_watching_for_the_next_amount_alone_misses_nothing(maximum: int, percents: list[int], uses: list[int]) -> None:
    thresholds = thresholds_of(a_limit(*percents), maximum)
    raised: set[int] = set()
    warn_at = next_amount(thresholds, 0)
    for used in uses:
        if warn_at is not None and used >= warn_at:
            raised |= {alert.threshold.percent for alert in reached(thresholds, KEY, Meter.CALLS, used)}
            warn_at = next_amount(thresholds, used)
    highest = max(uses, default=0)
    assert raised == {one.percent for one in thresholds if highest >= one.amount}


def test_an_amount_beyond_what_a_counter_holds_is_not_watched_for() -> None:
    thresholds = thresholds_of(a_limit(900, 1000), MAXIMUM_NANOS_MAX)
    assert next_amount(thresholds, 0) == 9 * MAXIMUM_NANOS_MAX < 2**63
    assert next_amount(thresholds, 9 * MAXIMUM_NANOS_MAX) is None


def test_what_is_written_is_read_again_and_the_same_is_the_same_text() -> None:
    thresholds = thresholds_of(a_limit(80, 100), 25)
    text = write_thresholds(thresholds)
    assert read_thresholds(text) == thresholds
    assert write_thresholds(list(thresholds)) == text
    assert write_thresholds(thresholds_of(a_limit(80, 100), 26)) != text
    assert (write_thresholds([]), read_thresholds(None)) == (None, [])


@pytest.mark.parametrize(
    ("meter", "maximum", "used"), [(Meter.COST, "0.000000100", "0.000000080"), (Meter.UNITS, 100, 80)]
)
def test_an_alert_says_what_it_is_about(meter: Meter, maximum: object, used: object) -> None:
    [alert] = reached([Threshold("images", 80, 100, 80)], KEY, meter, 80)
    assert alert.data() == {
        "account_id": "acme",
        "limit_id": "images",
        "scope_key": "user:ada",
        "meter": meter,
        "period_start": KEY.period_start,
        "period_end": KEY.period_end,
        "threshold_percent": 80,
        "maximum": maximum,
        "used": used,
    }
