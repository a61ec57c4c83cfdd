"""The replay and its report as rules, one operation after another."""

from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest

from contracts.backtests import RANKED_MAX, BacktestResult
from contracts.limits import Plan
from ledger_service.domain.backtest import AccountReplay, Operation, OutOfOrderError, Proposal, Refusal, openings_of
from ledger_service.domain.backtest_report import Report
from ledger_service.domain.periods import Calendar
from tests.builders import at, limit, plan

START = at("2026-11-01")
OPERATION_ID = UUID("019aa9c1-5b00-7123-9abc-def012345678")
DOLLAR = 10**9


def proposal(*bodies: Any) -> Proposal:
    return Proposal(Plan.model_validate(plan(*bodies)))


def done(second: float, lasts: float = 0, **changes: Any) -> Operation:
    """An operation that was admitted so many seconds after the start, and then lasted so long."""
    admitted_at = START + timedelta(seconds=second)
    fields: dict[str, Any] = {
        "account_id": "acme",
        "operation_id": OPERATION_ID,
        "user_id": "ada",
        "project_id": None,
        "api_key_id": None,
        "operation": "generate",
        "requested_provider": "near",
        "provider": changes.get("requested_provider", "near"),
        "model": "m",
        "quantity": 1,
        "cost_nanos": DOLLAR,
        "held_cost_nanos": None,
        "outcome": "completed",
        "admitted_at": admitted_at,
        "occurred_at": admitted_at + timedelta(seconds=lasts),
        **changes,
    }
    return Operation(**fields)


def replayed(tried: Proposal, *operations: Operation, **more: Any) -> list[bool]:
    """Which of them are admitted."""
    running = AccountReplay(
        "acme", tried, more.get("calendar", Calendar()), more.get("start", START), more.get("openings", {})
    )
    return [running.decide(operation) is None for operation in operations]


def reported(tried: Proposal, *operations: Operation, with_denied: bool = False) -> BacktestResult:
    report, running = Report(), {}
    for operation in operations:
        account_id = operation.account_id
        if account_id not in running:
            running[account_id] = AccountReplay(account_id, tried, Calendar(), START, {})
        report.add(operation, running[account_id].decide(operation))
    return report.result(START, START + timedelta(days=30), "tried", 3, with_denied)


# --- what is held, and until when


def test_calls_that_ran_at_once_meet() -> None:
    tried = proposal(limit(meter="cost", maximum="2", window="day"))
    assert replayed(tried, done(0, lasts=60), done(1, lasts=60), done(2, lasts=60)) == [True, True, False]


def test_a_hold_is_what_the_check_held_and_then_what_was_used() -> None:
    tried = proposal(limit(meter="cost", maximum="3", window="day"))
    dear = done(0, lasts=60, held_cost_nanos=3 * DOLLAR)
    assert replayed(tried, dear, done(59), done(60), done(61), done(62)) == [True, False, True, True, False]


def test_what_cost_more_than_it_held_is_seen_by_later_ones() -> None:
    tried = proposal(limit(meter="cost", maximum="3", window="day"))
    under = done(0, lasts=60, held_cost_nanos=0, cost_nanos=3 * DOLLAR)
    assert replayed(tried, under, done(59, cost_nanos=1), done(60, cost_nanos=1)) == [True, True, False]


def test_a_hold_without_an_estimate_is_the_actual_cost() -> None:
    tried = proposal(limit(meter="cost", maximum="3", window="day"))
    assert replayed(tried, done(0, lasts=60, cost_nanos=3 * DOLLAR), done(1)) == [True, False]


def test_a_failed_operation_gives_back_its_call_and_units_and_keeps_its_cost() -> None:
    failed = done(0, lasts=10, outcome="failed", quantity=5)
    for meter, maximum, after in (("calls", 1, True), ("units", 5, True), ("cost", "1", False)):
        tried = proposal(limit(meter=meter, maximum=maximum))
        assert replayed(tried, failed, done(5), done(10)) == [True, False, after]


def test_a_denied_operation_leaves_no_trace() -> None:
    tried = proposal(limit(meter="cost", maximum="2"), limit("other", maximum=2))
    large = done(0, lasts=60, cost_nanos=9 * DOLLAR)
    assert replayed(tried, large, large, large, done(1), done(2), done(3)) == [False] * 3 + [True, True, False]


def test_a_hold_settles_in_the_period_in_which_it_was_placed() -> None:
    tried = proposal(limit(maximum=1, window="minute"))
    assert replayed(tried, done(59, lasts=2), done(60), done(61), done(120)) == [True, True, False, True]


def test_usage_counts_at_the_provider_that_did_the_work() -> None:
    tried = proposal(limit(maximum=1, selector={"provider": ["near"]}))
    moved = done(0, lasts=10, requested_provider="near", provider="far")
    came = done(20, requested_provider="far", provider="near")
    assert replayed(tried, moved, done(5), done(10), done(11)) == [True, False, True, False]
    assert replayed(tried, came, done(21)) == [True, False]


def test_two_limits_over_one_counter_count_once() -> None:
    tried = proposal(limit("soft", maximum=1, mode="soft"), limit("hard", maximum=2))
    assert replayed(tried, done(0, lasts=9), done(1), done(2)) == [True, True, False]


@pytest.mark.parametrize("scope", ["user", "project", "api_key"])
def test_each_caller_has_a_limit_of_its_own_and_nobody_none(scope: str) -> None:
    tried = proposal(limit(scope=scope, maximum=1))
    one, other = ({f"{scope}_id": name} for name in "ab")
    operations = [done(second, 0, **who) for second, who in enumerate((one, other, one))]
    assert replayed(tried, *operations) == [True, True, False]
    if scope != "user":
        assert replayed(tried, done(0), done(1)) == [True, True]


def test_days_are_those_of_the_accounts_time_zone() -> None:
    tried = proposal(limit(maximum=1, window="day"))
    midnight_in_berlin = 23 * 3600
    twice = done(0), done(midnight_in_berlin)
    assert replayed(tried, *twice) == [True, False]
    assert replayed(tried, *twice, calendar=Calendar("Europe/Berlin")) == [True, True]


# --- what was used before


def test_usage_before_the_replay_counts_in_a_period_that_began_before_it() -> None:
    tried = proposal(limit(maximum=3, window="month"), limit("daily", scope="user", maximum=2, window="day"))
    start = at("2026-11-05 12:00")
    wanted = openings_of(tried, Calendar(), start)
    assert [(one.scope, one.period.start) for one in wanted] == [
        ("account", at("2026-11-01")), ("user", at("2026-11-05")),
    ]  # fmt: skip
    noon = 4 * 86_400 + 43_200
    openings = {("calls account month", "account"): 2, ("calls user day", "user:ada"): 1}
    same_day = done(noon), done(noon + 1, user_id="bob")
    assert replayed(tried, *same_day, start=start, openings=openings) == [True, False]
    next_month = done(30 * 86_400), done(30 * 86_400 + 1), done(30 * 86_400 + 2)
    assert replayed(tried, *next_month, start=start, openings=openings) == [True, True, False]


def test_a_period_that_begins_with_the_replay_has_nothing_before_it() -> None:
    assert openings_of(proposal(limit(window="month"), limit("d", window="day")), Calendar(), START) == []
    lifetime = openings_of(proposal(limit(window="lifetime"), limit("other", window="lifetime")), Calendar(), START)
    assert [one.counted.counter_id for one in lifetime] == ["calls account lifetime"]


# --- what was denied then


def test_what_was_denied_then_counts_what_it_asked_for_if_it_is_allowed_now() -> None:
    tried = proposal(limit(meter="cost", maximum="2"))
    then = done(1, outcome="denied")
    assert replayed(tried, done(0), then, done(2)) == [True, True, False]


def test_a_check_without_a_cost_stays_denied_where_a_cost_limit_applies() -> None:
    then = done(1, outcome="denied", cost_nanos=0)
    assert replayed(proposal(limit(meter="cost", maximum="2")), then) == [False]
    assert replayed(proposal(limit(meter="cost", maximum="2", mode="soft")), then) == [True]
    assert replayed(proposal(limit()), then) == [True]


# --- order and memory


def test_another_order_than_that_of_admission_is_an_error() -> None:
    with pytest.raises(OutOfOrderError):
        replayed(proposal(limit()), done(2), done(1))


def test_memory_does_not_grow_with_the_time_that_is_replayed() -> None:
    tried = proposal(limit(scope="user", window="minute"), limit("month", meter="cost", maximum="1000"))
    running = AccountReplay("acme", tried, Calendar(), START, {})
    most = 0
    for number in range(20_000):
        running.decide(done(number * 30, lasts=45, user_id=f"user-{number}", cost_nanos=1))
        most = max(most, running.remembered)
    assert most < 10


# --- the report


def test_the_report_adds_up_in_all_by_day_by_user_and_by_account() -> None:
    tried = proposal(limit(maximum=1, window="day"), limit("spend", meter="cost", scope="user", maximum="1.5"))
    result = reported(
        tried,
        done(0),
        done(1, quantity=4, cost_nanos=5),
        done(2, outcome="failed", user_id="bob", quantity=7, cost_nanos=3),
        done(86_400),
        done(86_401, user_id="bob", cost_nanos=0),
        done(3, account_id="other", cost_nanos=7),
    )
    assert (result.plan_id, result.plan_version) == ("tried", 3)
    total = result.total
    assert (total.operations, total.cost) == (6, 2 * DOLLAR + 15)
    assert (total.would_deny, total.units_saved, total.cost_saved) == (3, 5, DOLLAR + 8)
    assert [(one.limit_id, one.code, one.would_deny, one.cost_saved) for one in total.by_limit] == [
        ("images", "limit_exceeded", 2, 8),
        ("spend", "limit_exceeded", 1, DOLLAR),
    ]
    assert [(one.day, one.operations, one.would_deny) for one in result.by_day] == [
        (date(2026, 11, 1), 4, 2),
        (date(2026, 11, 2), 2, 1),
    ]
    assert [(one.account_id, one.user_id, one.operations, one.cost_saved) for one in result.by_user] == [
        ("acme", "ada", 3, DOLLAR + 5),
        ("acme", "bob", 2, 3),
        ("other", "ada", 1, 0),
    ]
    assert (result.users, result.users_denied, result.accounts, result.accounts_denied) == (3, 2, 2, 1)
    for parts in (result.by_day, result.by_user, result.by_account):
        assert sum(one.operations for one in parts) == total.operations
        assert sum(one.cost_saved for one in parts) == total.cost_saved
        assert sum(one.units_saved for one in parts) == total.units_saved
    first = result.by_account[0].first_denial
    assert first is not None
    assert (first.at, first.user_id, first.limit_id) == (START + timedelta(seconds=1), "ada", "images")
    assert result.by_account[1].first_denial is None


def test_the_report_says_what_was_denied_then_and_would_be_allowed() -> None:
    then = [done(second, outcome="denied", quantity=2) for second in (1, 2)]
    result = reported(proposal(limit(maximum=2)), done(0), *then, with_denied=True)
    assert (result.total.operations, result.total.would_deny) == (1, 0)
    found = result.total.denied_then
    assert found is not None
    assert (found.operations, found.would_allow, found.units_added, found.cost_added) == (2, 1, 2, DOLLAR)
    assert result.by_account[0].first_denial is None
    assert reported(proposal(limit(maximum=2)), done(0)).total.denied_then is None


def test_the_report_names_the_users_with_the_most_saved_and_says_how_many_there_are() -> None:
    many = RANKED_MAX + 50
    operations = [done(number, user_id=f"u{number}", cost_nanos=number) for number in range(many)]
    result = reported(proposal(limit(maximum=0)), *operations)
    assert (result.users, len(result.by_user)) == (many, RANKED_MAX)
    assert [one.user_id for one in result.by_user[:2]] == [f"u{many - 1}", f"u{many - 2}"]
    assert result.by_user[-1].user_id == "u50"
    assert result.total.cost_saved == sum(range(many))


def test_an_operation_that_no_limit_denies_is_named_by_its_code() -> None:
    result = reported(proposal(), done(0, operation="levitate"))
    [one] = result.total.by_limit
    assert (one.limit_id, one.code, one.would_deny) == (None, "unknown_operation", 1)


def test_the_report_of_nothing_is_empty() -> None:
    result = reported(proposal(limit()))
    assert (result.total.operations, result.by_day, result.by_user, result.by_account) == (0, [], [], [])


def test_refusals_are_told_apart_by_limit() -> None:
    running = AccountReplay("acme", proposal(limit("a", maximum=1), limit("b", maximum=0)), Calendar(), START, {})
    assert running.decide(done(0)) == Refusal("limit_exceeded", "b")
