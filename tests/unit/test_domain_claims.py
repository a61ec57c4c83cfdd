"""Which limits apply to a check, and to which counter and period each of them looks."""

from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from contracts.limits import Limit, LimitCheck, Plan
from ledger_service.domain.counters import Balance, CounterKey
from ledger_service.domain.decide import Claim, claims_of, claims_of_account, decide
from ledger_service.domain.periods import Calendar
from ledger_service.domain.terms import Terms
from tests.holding import hold

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


def a_limit(limit_id: object = "images", **changes: object) -> Limit:
    body: dict[str, object] = {"meter": "calls", "window": "month", "maximum": 25}
    return Limit.model_validate({"limit_id": limit_id, **body, **changes})


def a_check(**changes: object) -> LimitCheck:
    body: dict[str, object] = {
        "operation_id": UUID("019aa9c1-5b00-7123-9abc-def012345678"),
        "account_id": "acme",
        "user_id": "ada",
        "operation": "generate",
        "provider": "local",
        "model": "m",
    }
    return LimitCheck.model_validate({**body, **changes})


def on_plan(*limits: Limit, calendar: Calendar | None = None) -> Terms:
    return Terms("pro", Plan(name="Pro", limits=list(limits)), calendar or Calendar())


def claimed(terms: Terms, **check: object) -> list[str]:
    """The ids of the limits that apply to a check."""
    return [claim.limit.limit_id for claim in claims_of(a_check(**check), terms, NOW)]


class Balances(defaultdict[CounterKey, Balance]):
    """What is settled and held, and what checks do to it."""

    def __init__(self, terms: Terms) -> None:
        super().__init__(Balance)
        self._terms = terms

    def admit(self, **changes: object) -> bool:
        """Decides now, and holds what is allowed."""
        return self.admit_at(NOW, **changes)

    def admit_at(self, now: datetime, /, **changes: object) -> bool:
        check = a_check(**changes)
        claims: list[Claim] = claims_of(check, self._terms, now)
        allowed = decide(check, self._terms, claims, self, now, ttl_seconds=300).allowed
        if allowed:
            hold(claims, self)
        return allowed


@pytest.mark.parametrize(
    ("selector", "check", "applies"),
    [
        ({}, {}, True),
        ({"operation": ["generate"]}, {"operation": "generate"}, True),
        ({"operation": ["generate"]}, {"operation": "edit"}, False),
        ({"operation": ["edit", "generate"]}, {"operation": "edit"}, True),
        ({"provider": ["local"]}, {"provider": "local"}, True),
        ({"provider": ["local"]}, {"provider": "Local"}, False),
        ({"model": ["a", "b"]}, {"model": "b"}, True),
        ({"model": ["a", "b"]}, {"model": "ab"}, False),
        ({"operation": ["edit"], "provider": ["local"]}, {"operation": "edit", "provider": "remote"}, False),
        ({"operation": ["edit"], "provider": ["local"]}, {"operation": "edit", "provider": "local"}, True),
    ],
)
def test_selector_chooses_the_operations_that_count(
    selector: dict[str, object], check: dict[str, object], applies: bool
) -> None:
    terms = on_plan(a_limit("none", maximum=0, selector=selector))
    assert claimed(terms, **check) == (["none"] if applies else [])
    assert Balances(terms).admit(**check) is not applies


@pytest.mark.parametrize(
    ("scope", "who", "applies"),
    [
        ("account", {}, True),
        ("user", {}, True),
        ("project", {}, False),
        ("project", {"project_id": "spring"}, True),
        ("api_key", {}, False),
        ("api_key", {"api_key_id": "k1"}, True),
        ("api_key", {"project_id": "spring"}, False),
    ],
)
def test_scope_that_the_check_does_not_name_does_not_apply(scope: str, who: dict[str, object], applies: bool) -> None:
    terms = on_plan(a_limit("none", scope=scope, maximum=0))
    assert claimed(terms, **who) == (["none"] if applies else [])
    assert Balances(terms).admit(**who) is not applies


@pytest.mark.parametrize(
    ("scope", "one", "other"),
    [
        ("user", {"user_id": "ada"}, {"user_id": "bob"}),
        ("project", {"project_id": "p1"}, {"project_id": "p2"}),
        ("api_key", {"api_key_id": "k1"}, {"api_key_id": "k2"}),
    ],
)
def test_limit_on_each_leaves_the_others_their_own(scope: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    balances = Balances(on_plan(a_limit(scope=scope, maximum=1)))
    assert balances.admit(**one)
    assert not balances.admit(**one)
    assert balances.admit(**other)


def test_limit_on_the_account_is_shared_by_all_in_it() -> None:
    balances = Balances(on_plan(a_limit(maximum=2)))
    assert [balances.admit(user_id=user) for user in ("ada", "bob", "eve")] == [True, True, False]


def test_accounts_on_one_plan_share_nothing() -> None:
    balances = Balances(on_plan(a_limit(maximum=1)))
    assert [balances.admit(account_id=account) for account in ("acme", "other", "acme")] == [True, True, False]


def test_names_of_different_scopes_never_meet() -> None:
    terms = on_plan(*(a_limit(scope, scope=scope) for scope in ("account", "user", "project", "api_key")))
    check = a_check(user_id="account", project_id="account", api_key_id="account")
    keys = [claim.key.scope_key for claim in claims_of(check, terms, NOW)]
    assert keys == ["account", "user:account", "project:account", "api_key:account"]


def test_limits_apply_in_the_plans_order() -> None:
    assert claimed(on_plan(a_limit("b"), a_limit("a"), a_limit("c", window="day"))) == ["b", "a", "c"]


def test_without_a_plan_no_limit_applies() -> None:
    assert claimed(Terms("gone", None, Calendar())) == []
    assert claimed(Terms(None, None, Calendar())) == []


def test_periods_follow_the_accounts_calendar() -> None:
    windows = ["minute", "hour", "day", "month", "billing_period", "lifetime"]
    calendar = Calendar("Pacific/Auckland", date(2026, 1, 31))
    terms = on_plan(*(a_limit(window, window=window) for window in windows), calendar=calendar)
    claims = claims_of(a_check(), terms, datetime(2026, 12, 31, 11, 30, tzinfo=UTC))
    assert [claim.period.name for claim in claims] == [
        "2026-12-31T11:30Z",
        "2026-12-31T11Z",
        "2027-01-01",
        "2027-01",
        "2026-12-31/2027-01-31",
        "lifetime",
    ]
    assert all(
        (claim.key.period_start, claim.key.period_end) == (claim.period.start, claim.period.end) for claim in claims
    )


@pytest.mark.parametrize(
    ("before", "after", "window"),
    [
        (Calendar(billing_anchor=date(2026, 1, 31)), Calendar(billing_anchor=date(2026, 1, 30)), "billing_period"),
        (Calendar("UTC"), Calendar("Asia/Tokyo"), "month"),
    ],
)
def test_another_calendar_looks_to_other_counters(before: Calendar, after: Calendar, window: str) -> None:
    # Both billing periods end on the last of February, and yet they are not the same.
    now = datetime(2026, 2, 10, tzinfo=UTC)
    keys = [claims_of(a_check(), on_plan(a_limit(window=window), calendar=c), now)[0].key for c in (before, after)]
    assert keys[0] != keys[1]


def test_when_a_period_ends_then_there_is_room_again() -> None:
    balances = Balances(on_plan(a_limit(window="day", maximum=1)))
    assert balances.admit()
    assert not balances.admit_at(NOW.replace(hour=23, minute=59))
    assert balances.admit_at(NOW + timedelta(days=1))


def test_standing_of_an_account_shows_its_own_limits_and_asks_for_nothing() -> None:
    terms = on_plan(a_limit("all"), a_limit("each", scope="user"), a_limit("edits", selector={"operation": ["edit"]}))
    claims = claims_of_account("acme", terms, NOW)
    assert [(claim.limit.limit_id, claim.amount) for claim in claims] == [("all", 0), ("edits", 0)]
    assert claims[0].key == claims_of(a_check(), terms, NOW)[0].key
    assert claims_of_account("acme", Terms("gone", None, Calendar()), NOW) == []
