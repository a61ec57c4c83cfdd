"""Which limits hold for a caller at a moment: the plan's, those that replace them, those that are added."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from contracts.limits import Limit, LimitCheck, LimitOverride, Plan
from contracts.problems import ProblemError
from ledger_service.domain.periods import BEGINNING, END_OF_TIME, Calendar
from ledger_service.domain.terms import Override, Terms, limits_for, limits_of_account
from ledger_service.overrides import complete_limit

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def a_limit(limit_id: str = "images", **changes: Any) -> Limit:
    return Limit.model_validate({"limit_id": limit_id, "meter": "calls", "window": "month", "maximum": 25, **changes})


def an_override(
    limit_id: str = "images",
    scope_id: str | None = None,
    start: datetime = BEGINNING,
    end: datetime = END_OF_TIME,
    **changes: Any,
) -> Override:
    return Override(a_limit(limit_id, **changes), scope_id, start, end, version=1)


def a_check(**changes: Any) -> LimitCheck:
    body = {
        "operation_id": UUID("019aa9c1-5b00-7123-9abc-def012345678"),
        "account_id": "acme",
        "user_id": "ada",
        "operation": "generate",
        "provider": "local",
        "model": "m",
    }
    return LimitCheck.model_validate({**body, **changes})


def terms(*overrides: Override, limits: tuple[Limit, ...] = ()) -> Terms:
    return Terms("pro", Plan(name="Pro", limits=list(limits)), Calendar(), 1, overrides)


def maxima(of: Terms, now: datetime = NOW, **check: Any) -> list[tuple[str, int | str]]:
    """limit_id and maximum of what applies, in order."""
    return [(applied.limit.limit_id, applied.limit.maximum) for applied in limits_for(a_check(**check), of, now)]


# --- which override holds ---


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (NOW - timedelta(microseconds=1), 25),
        (NOW, 7),
        (NOW + SECOND - timedelta(microseconds=1), 7),
        (NOW + SECOND, 25),
    ],
)
def test_an_override_holds_from_its_first_moment_until_before_its_last(moment: datetime, expected: int) -> None:
    given = terms(an_override(maximum=7, start=NOW, end=NOW + SECOND), limits=(a_limit(),))
    assert maxima(given, moment) == [("images", expected)]


def test_an_override_replaces_its_limit_in_its_place_and_others_are_added_at_the_end() -> None:
    given = terms(
        an_override("b", maximum=2), an_override("new", maximum=3), limits=(a_limit("a"), a_limit("b"), a_limit("c"))
    )
    assert maxima(given) == [("a", 25), ("b", 2), ("c", 25), ("new", 3)]


@pytest.mark.parametrize("order", [1, -1])
def test_a_callers_own_override_goes_before_one_for_all(order: int) -> None:
    both = [an_override(scope="user", maximum=5), an_override(scope="user", scope_id="ada", maximum=9)]
    given = terms(*both[::order], limits=(a_limit(scope="user"),))
    assert maxima(given, user_id="ada") == [("images", 9)]
    assert maxima(given, user_id="bob") == [("images", 5)]


def test_an_own_override_that_is_over_leaves_the_one_for_all() -> None:
    given = terms(
        an_override(scope="user", maximum=5),
        an_override(scope="user", scope_id="ada", maximum=9, end=NOW),
        limits=(a_limit(scope="user"),),
    )
    assert maxima(given, user_id="ada") == [("images", 5)]
    assert maxima(given, NOW - SECOND, user_id="ada") == [("images", 9)]


@pytest.mark.parametrize(
    ("scope", "whose"), [("user", "user_id"), ("project", "project_id"), ("api_key", "api_key_id")]
)
def test_an_override_for_one_caller_is_for_that_kind_of_caller(scope: str, whose: str) -> None:
    given = terms(an_override(scope=scope, scope_id="x1", maximum=9))
    for field in ("user_id", "project_id", "api_key_id"):
        caller: dict[str, Any] = {field: "x1"}
        assert maxima(given, **caller) == ([("images", 9)] if field == whose else [])


def test_one_users_limit_does_not_lift_the_one_that_all_share() -> None:
    # The plan came to be on the account after the override was made for a user.
    given = terms(an_override(scope="user", scope_id="ada", maximum=100), limits=(a_limit(maximum=3),))
    assert maxima(given) == [("images", 3), ("images", 100)]
    # So with a limit that another override adds or replaces.
    for limits in ((), (a_limit(maximum=8),)):
        shared = an_override(maximum=4)
        for own in (
            terms(shared, an_override(scope="user", scope_id="ada", maximum=100), limits=limits),
            terms(an_override(scope="user", scope_id="ada", maximum=100), shared, limits=limits),
        ):
            assert sorted(maxima(own)) == [("images", 4), ("images", 100)]


def test_limits_of_the_same_name_for_a_user_and_a_project_both_hold() -> None:
    given = terms(
        an_override(scope="project", scope_id="p1", maximum=2), an_override(scope="user", scope_id="ada", maximum=9)
    )
    assert sorted(maxima(given, project_id="p1")) == [("images", 2), ("images", 9)]
    assert maxima(given, project_id="p2") == [("images", 9)]


def test_an_override_of_another_meter_does_not_lift_the_limit_of_the_plan_that_came_later() -> None:
    given = terms(an_override(maximum=5), limits=(a_limit(meter="cost", maximum="2"),))
    assert maxima(given) == [("images", "2.000000000"), ("images", 5)]
    assert [applied.limit.meter.value for applied in limits_of_account(given, NOW)] == ["cost", "calls"]


def test_an_override_with_a_selector_of_its_own_leaves_other_operations_without_the_plans_limit() -> None:
    given = terms(an_override(maximum=1, selector={"operation": ["edit"]}), limits=(a_limit(),))
    assert maxima(given, operation="edit") == [("images", 1)]
    assert maxima(given, operation="generate") == []


def test_without_a_plan_overrides_still_hold() -> None:
    assert maxima(Terms(None, None, Calendar(), None, (an_override(maximum=4),))) == [("images", 4)]


def test_what_is_remembered_of_a_plan_is_no_override_of_another_account() -> None:
    shared: Any = {}
    plan = Plan(name="Pro", limits=[a_limit()])
    with_override = Terms("pro", plan, Calendar(), 1, (an_override(maximum=1),), selected=shared)
    without = Terms("pro", plan, Calendar(), 1, selected=shared)
    assert [maxima(without), maxima(with_override), maxima(without)] == [
        [("images", 25)],
        [("images", 1)],
        [("images", 25)],
    ]


def test_what_is_remembered_is_bounded_and_stays_right() -> None:
    given = terms(limits=(a_limit(selector={"model": ["m7"]}), a_limit("all")))
    for round_ in range(3):
        for number in range(700):
            ids = [limit_id for limit_id, _ in maxima(given, model=f"m{number}")]
            assert ids == (["images", "all"] if number == 7 else ["all"]), round_
        assert len(given.selected) <= 1000


def test_the_limits_of_an_account_are_those_that_hold_for_it_as_a_whole() -> None:
    given = terms(
        an_override(maximum=7),
        an_override("mine", scope="user", scope_id="ada"),
        an_override("added", maximum=2),
        an_override("over", end=NOW),
        limits=(a_limit(), a_limit("each", scope="user"), a_limit("last")),
    )
    shown = [(applied.limit.limit_id, applied.limit.maximum) for applied in limits_of_account(given, NOW)]
    assert shown == [("images", 7), ("last", 25), ("added", 2)]


# --- what an override comes to beside the plan's limit ---


def completed(planned: Limit | None, **fields: Any) -> Limit:
    return complete_limit("images", LimitOverride.model_validate(fields), planned)


def refused(planned: Limit | None, **fields: Any) -> tuple[str, str]:
    with pytest.raises(ProblemError) as refusal:
        completed(planned, **fields)
    [error] = refusal.value.problem.errors
    return error.field, error.rule


def test_what_an_override_leaves_out_is_the_plans() -> None:
    planned = a_limit(
        meter="cost", maximum="1.5", window="day", mode="soft", thresholds=[50], selector={"provider": ["local"]}
    )
    assert completed(planned, maximum="9") == planned.model_copy(update={"maximum": "9.000000000"})
    changed = completed(planned, maximum="9", mode="hard", thresholds=[], window="hour", selector={})
    assert (changed.mode, changed.thresholds, changed.window, changed.selector.provider) == ("hard", [], "hour", [])


@pytest.mark.parametrize(
    ("planned", "fields", "expected"),
    [
        (None, {"maximum": 1, "window": "day"}, ("meter", "missing")),
        (None, {"maximum": 1, "meter": "calls"}, ("window", "missing")),
        (a_limit(), {"maximum": 1, "meter": "units"}, ("meter", "contradiction")),
        (a_limit(), {"maximum": 1, "scope": "user"}, ("scope", "contradiction")),
        (a_limit(), {"maximum": 1, "scope_id": "ada"}, ("scope_id", "contradiction")),
        (None, {"maximum": 1, "meter": "calls", "window": "day", "scope_id": "ada"}, ("scope_id", "contradiction")),
        (a_limit(), {"maximum": 1, "limit_id": "other"}, ("limit_id", "limit_id")),
        (a_limit(), {"maximum": "1"}, ("maximum", "maximum_integer")),
        (a_limit(meter="cost", maximum="1"), {"maximum": "-1"}, ("maximum", "maximum_range")),
        (a_limit(), {"maximum": 1, "thresholds": [90, 80]}, ("thresholds", "thresholds_order")),
        (a_limit(), {"maximum": 1, "thresholds": [0]}, ("thresholds[0]", "greater_than_equal")),
        (a_limit(), {"maximum": 1, "credit": True}, ("credit", "credit_scope")),
    ],
)
def test_a_contradictory_override_is_refused_by_field(
    planned: Limit | None, fields: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert refused(planned, **fields) == expected
