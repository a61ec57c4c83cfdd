"""Credit grants: what fills a limit up, in which order it is burnt, what lapses, what rolls over, what is owed."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from contracts.limits import Limit, Meter, Window
from ledger_service.domain.counters import Balance, CounterKey, counted_by
from ledger_service.domain.credits import (
    CreditLine,
    Grant,
    GrantState,
    credit_line,
    granted_at_most,
    stretches_needed,
)
from ledger_service.domain.periods import BEGINNING, END_OF_TIME, Calendar
from tests.builders import at

NOW = at("2026-06-15")
UTC_MONTHS = Calendar()


def limit_of(maximum: int = 0) -> Limit:
    return Limit(limit_id="credit", meter=Meter.CALLS, window=Window.LIFETIME, maximum=maximum, credit=True)


def grant(grant_id: str, begins: str, **fields: Any) -> Grant:
    """``grant("gift", "2026-01-01", amount=5, expires_at=at("2026-02-01"))``; ``ends_at`` where it was ended early."""
    some = Grant(grant_id, "credit", Meter.CALLS, 10, 100, at(begins), END_OF_TIME, END_OF_TIME, None, 0, 1)
    some = replace(some, **fields)
    return replace(some, ends_at=min(some.ends_at, some.expires_at))


def line_of(*grants: Grant, now: datetime = NOW, maximum: int = 0, calendar: Calendar = UTC_MONTHS) -> CreditLine:
    limit = limit_of(maximum)
    return credit_line(limit, counted_by(limit), "acme", grants, calendar, now)


def counters(line: CreditLine, used: dict[str, int]) -> dict[CounterKey, Balance]:
    """Every counter of the line; ``used`` are settled calls by their moment."""
    return {
        key: Balance(sum(n for moment, n in used.items() if key.period_start <= at(moment) < key.period_end))
        for key in line.keys
    }


def available(line: CreditLine, used: dict[str, int], maximum: int = 0) -> int:
    standing = line.standing(counters(line, used), maximum)
    return standing[0] - standing[1] - standing[2]


def states(line: CreditLine, used: dict[str, int], maximum: int = 0) -> dict[str, GrantState]:
    """(issued, used, remaining, lapsed) by grant."""
    return line.grant_states(counters(line, used), maximum)


# --- without grants, and with one


def test_without_grants_there_is_one_stretch_and_the_limits_own_maximum() -> None:
    line = line_of(maximum=3)
    [key] = line.keys
    assert (key.period_start, key.period_end) == (BEGINNING, END_OF_TIME)
    assert line.standing({key: Balance(settled=2, held=4)}, 3) == (3, 2, 4)


def test_a_grant_fills_the_limit_up() -> None:
    line = line_of(grant("gift", "2026-01-01"))
    assert line.standing(counters(line, {"2026-02-01": 4}), 0) == (10, 4, 0)
    assert states(line, {"2026-02-01": 4}) == {"gift": (10, 4, 6, 0)}


def test_grants_of_other_limits_and_meters_give_nothing() -> None:
    line = line_of(grant("a", "2026-01-01", limit_id="other"), grant("b", "2026-01-01", meter=Meter.UNITS))
    assert line.standing(counters(line, {}), 0) == (0, 0, 0)


def test_a_grant_that_has_not_begun_gives_nothing_yet() -> None:
    begins = at("2026-07-01")
    later = (grant("later", "2026-07-01"), grant("now", "2026-06-01"))
    assert available(line_of(*later), {}) == 10
    assert states(line_of(*later), {})["later"] == (0, 0, 0, 0)
    assert available(line_of(*later, now=begins), {}) == 20
    assert line_of(later[0]).standing(counters(line_of(later[0]), {}), 0) == (0, 0, 0)


def test_a_grant_that_was_ended_before_it_began_never_was() -> None:
    never = grant("never", "2026-07-01", ends_at=at("2026-07-01"))
    assert line_of(never).keys == line_of().keys
    assert available(line_of(never, now=at("2026-07-01")), {}) == 0


# --- the order in which they are burnt


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (grant("low-number", "2026-02-01", priority=1), grant("a", "2026-01-01", expires_at=at("2026-07-01"))),
        (grant("soon", "2026-02-01", expires_at=at("2026-07-01")), grant("a", "2026-01-01")),
        (grant("monthly", "2026-02-01", renews=Window.MONTH), grant("a", "2026-01-01", expires_at=at("2026-07-02"))),
        (grant("older", "2026-01-01"), grant("a", "2026-02-01")),
        (grant("a", "2026-01-01"), grant("b", "2026-01-01")),
    ],
)
def test_grants_are_burnt_by_priority_then_end_then_beginning_then_id(first: Grant, second: Grant) -> None:
    for grants in ((first, second), (second, first)):
        stands = line_of(*grants).grant_states(counters(line_of(*grants), {"2026-06-10": 4}), 0)
        assert (stands[first.grant_id].remaining, stands[second.grant_id].remaining) == (6, 10)


def test_the_limits_own_maximum_is_burnt_last() -> None:
    line = line_of(grant("gift", "2026-01-01", expires_at=at("2026-06-01")), maximum=5)
    assert available(line, {"2026-02-01": 4}, 5) == 5
    assert available(line, {"2026-02-01": 12}, 5) == 3


def test_ending_a_grant_early_does_not_change_what_was_burnt_before() -> None:
    january, february = grant("january", "2026-01-01"), grant("february", "2026-02-01")
    used = {"2026-02-10": 12}
    assert states(line_of(january, february), used) == {"january": (10, 10, 0, 0), "february": (10, 2, 8, 0)}
    ended = replace(february, ends_at=at("2026-06-01"))
    assert states(line_of(january, ended), used) == {"january": (10, 10, 0, 0), "february": (10, 2, 0, 8)}


def test_ending_a_grant_that_renews_does_not_change_what_was_burnt_before() -> None:
    monthly = grant("monthly", "2026-06-01", renews=Window.MONTH)
    bought = grant("bought", "2026-06-01", expires_at=at("2026-07-15"))
    used = {"2026-06-05": 6}
    assert states(line_of(monthly, bought), used) == {"monthly": (10, 6, 4, 0), "bought": (10, 0, 10, 0)}
    line = line_of(replace(monthly, ends_at=at("2026-06-10")), bought)
    assert states(line, used) == {"monthly": (10, 6, 0, 4), "bought": (10, 0, 10, 0)}
    assert available(line, used) == 10


# --- what lapses, what rolls over


def test_what_is_left_at_the_end_lapses() -> None:
    gift = grant("gift", "2026-01-01", expires_at=NOW)
    assert available(line_of(gift, now=at("2026-06-14 23:59")), {"2026-02-01": 4}) == 6
    line = line_of(gift)
    assert line.standing(counters(line, {"2026-02-01": 4}), 0) == (4, 4, 0)
    assert states(line, {"2026-02-01": 4}) == {"gift": (10, 4, 0, 6)}


@pytest.mark.parametrize(("rollover", "left"), [(0, 10), (3, 13), (100, 16)])
def test_what_rolls_over_is_bounded(rollover: int, left: int) -> None:
    monthly = grant("monthly", "2026-05-20", renews=Window.MONTH, rollover_maximum=rollover)
    assert available(line_of(monthly), {"2026-05-25": 4}) == left
    assert states(line_of(monthly), {"2026-05-25": 4}) == {"monthly": (20, 4, left, 16 - left)}


def test_a_renewing_grant_ends_with_all_that_rolled_over() -> None:
    monthly = grant("monthly", "2026-04-01", renews=Window.MONTH, rollover_maximum=100, expires_at=at("2026-06-01"))
    assert states(line_of(monthly), {"2026-04-10": 4}) == {"monthly": (20, 4, 0, 16)}


def test_renewals_follow_the_accounts_calendar() -> None:
    billing = grant("billing", "2026-01-31", renews=Window.BILLING_PERIOD)
    anchored = Calendar("UTC", at("2026-01-31").date())
    for moment, issued in (("2026-02-27", 10), ("2026-02-28", 20), ("2026-03-30", 20), ("2026-03-31", 30)):
        assert states(line_of(billing, now=at(moment), calendar=anchored), {})["billing"][0] == issued
    monthly = grant("monthly", "2026-06-01", renews=Window.MONTH)
    berlin = Calendar("Europe/Berlin")
    assert states(line_of(monthly, now=at("2026-06-30 21:59"), calendar=berlin), {})["monthly"][0] == 10
    assert states(line_of(monthly, now=at("2026-06-30 22:00"), calendar=berlin), {})["monthly"][0] == 20


# --- debt


def test_use_beyond_all_grants_is_a_debt_that_the_next_grant_pays_first() -> None:
    first = grant("first", "2026-01-01", expires_at=at("2026-02-01"))
    used = {"2026-01-10": 12, "2026-03-01": 3}
    assert available(line_of(first), used) == -5
    both = line_of(first, grant("second", "2026-04-01"))
    assert available(both, used) == 5
    assert states(both, used) == {"first": (10, 10, 0, 0), "second": (10, 5, 5, 0)}


def test_a_renewal_pays_debt() -> None:
    monthly = grant("monthly", "2026-05-20", renews=Window.MONTH)
    assert available(line_of(monthly), {"2026-05-25": 14}) == 6


def test_of_grants_that_begin_together_debt_is_paid_by_the_one_to_be_burnt_first() -> None:
    grants = (
        grant("first", "2026-01-01", expires_at=at("2026-02-01")),
        grant("lasts", "2026-06-01"),
        grant("ends", "2026-06-01", expires_at=at("2026-07-01")),
    )
    line = line_of(*grants)
    assert states(line, {"2026-01-10": 14})["ends"] == (10, 4, 6, 0)
    assert states(line, {"2026-01-10": 14})["lasts"] == (10, 0, 10, 0)


def test_what_was_used_before_the_first_grant_is_not_owed() -> None:
    used = {"2025-12-01": 100}
    line = line_of(grant("first", "2026-01-01"))
    assert line.standing(counters(line, used), 0) == (10, 0, 0)
    assert [key.period_start for key in line.keys] == [at("2026-01-01")]


def test_what_was_used_before_the_first_grant_counts_against_the_limits_own_maximum() -> None:
    def standing(before: Balance) -> tuple[int, int, int]:
        line = line_of(grant("first", "2026-01-01"), maximum=5)
        return line.standing({**counters(line, {}), line.keys[0]: before}, 5)

    assert standing(Balance(settled=3)) == (15, 3, 0)
    assert standing(Balance(settled=3, held=4)) == (15, 1, 4)
    assert standing(Balance(settled=1, held=9)) == (15, 0, 5)


# --- what it costs


def test_grants_that_last_need_no_counters_of_their_own() -> None:
    top_ups = [grant(f"top-up-{day}", f"2026-05-{day:02}") for day in range(1, 30)]
    assert len(line_of(*top_ups).keys) == 1
    monthly = grant("monthly", "2026-05-20", renews=Window.MONTH)
    gift = grant("gift", "2026-05-10", expires_at=at("2026-06-10"))
    starts = [key.period_start for key in line_of(*top_ups, monthly, gift).keys]
    assert starts == [at("2026-05-01"), at("2026-05-10"), at("2026-05-20"), at("2026-06-01"), at("2026-06-10")]


def test_the_stretches_of_ten_years_are_told_in_advance() -> None:
    limit = limit_of()
    assert stretches_needed(limit, (), UTC_MONTHS, NOW) == 1
    monthly = grant("monthly", "2026-06-01", renews=Window.MONTH)
    assert stretches_needed(limit, (monthly,), UTC_MONTHS, NOW) == 121
    ends = replace(monthly, expires_at=at("2026-09-01"), ends_at=at("2026-09-01"))
    assert stretches_needed(limit, (ends,), UTC_MONTHS, NOW) == 5


def test_what_grants_may_come_to_is_told_in_advance() -> None:
    monthly = grant("monthly", "2026-06-01", renews=Window.MONTH, expires_at=at("2026-09-01"))
    other = grant("other", "2026-06-01", limit_id="other")
    assert granted_at_most(limit_of(), (monthly, grant("once", "2026-01-01"), other), UTC_MONTHS, NOW) == 40
