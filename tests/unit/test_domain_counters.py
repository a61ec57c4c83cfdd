"""Counters: limits that count the same share one, limits that count something else never do."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.identifiers import uuid7
from contracts.limits import Limit, LimitCheck, Meter, Scope, Window
from ledger_service.domain.counters import counted_by, scope_keys, shares_of


def a_limit(**changes: object) -> Limit:
    body: dict[str, object] = {"limit_id": "l", "meter": "calls", "window": "month", "maximum": 25}
    return Limit.model_validate({**body, **changes})


def a_check(**changes: object) -> LimitCheck:
    body: dict[str, object] = {
        "operation_id": uuid7(0),
        "account_id": "acme",
        "user_id": "ada",
        "operation": "edit",
        "provider": "local",
        "model": "m",
    }
    return LimitCheck.model_validate({**body, **changes})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"limit_id": "other"}),
        ({}, {"maximum": 3}),
        ({}, {"mode": "soft"}),
        ({}, {"selector": {}}),
        ({"selector": {"operation": ["edit", "generate"]}}, {"selector": {"operation": ["generate", "edit"]}}),
        ({"selector": {"model": ["a", "b", "a"]}}, {"selector": {"model": ["b", "a"]}}),
    ],
)
def test_same_definition_same_counter(one: dict[str, object], other: dict[str, object]) -> None:
    assert counted_by(a_limit(**one)) == counted_by(a_limit(**other))


DEFINITIONS: list[dict[str, object]] = [
    {},
    {"meter": "units"},
    {"meter": "cost", "maximum": "1"},
    {"scope": "user"},
    {"scope": "project"},
    {"scope": "api_key"},
    {"window": "minute"},
    {"window": "day"},
    {"window": "billing_period"},
    {"window": "lifetime"},
    {"selector": {"operation": ["edit"]}},
    {"selector": {"operation": ["edit", "generate"]}},
    {"selector": {"provider": ["edit"]}},
    {"selector": {"model": ["edit"]}},
    {"selector": {"model": ["a", "b"]}},
    {"selector": {"model": ["ab"]}},
    {"selector": {"provider": ["a"], "model": ["b"]}},
    {"selector": {"provider": ["b"], "model": ["a"]}},
]


@pytest.mark.parametrize(("one", "other"), list(combinations(DEFINITIONS, 2)))
def test_other_definition_other_counter(one: dict[str, object], other: dict[str, object]) -> None:
    assert counted_by(a_limit(**one)).counter_id != counted_by(a_limit(**other)).counter_id


_NAMES = st.lists(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._:@+-]{0,6}\Z"), max_size=3)


@settings(max_examples=200)
@given(st.tuples(_NAMES, _NAMES), st.tuples(_NAMES, _NAMES))
def test_counters_are_the_same_exactly_where_they_count_the_same(
    one: tuple[list[str], list[str]], other: tuple[list[str], list[str]]
) -> None:
    first, second = (
        counted_by(a_limit(selector={"provider": providers, "model": models})) for providers, models in (one, other)
    )
    count_the_same = [set(names) for names in one] == [set(names) for names in other]
    assert (first.counter_id == second.counter_id) is count_the_same


@pytest.mark.parametrize(
    ("limit", "counter_id"),
    [
        ({}, "calls account month"),
        (
            {"meter": "cost", "maximum": "1", "scope": "api_key", "window": "billing_period"},
            "cost api_key billing_period",
        ),
        (
            {"selector": {"operation": ["generate", "edit"], "provider": ["local"], "model": ["a/b"]}},
            "calls account month operation=edit,generate provider=local model=a/b",
        ),
    ],
)
def test_counter_id_never_changes_for_it_is_stored(limit: dict[str, object], counter_id: str) -> None:
    assert counted_by(a_limit(**limit)).counter_id == counter_id


@pytest.mark.parametrize(
    ("scope", "who", "key"),
    [
        (Scope.ACCOUNT, {}, "account"),
        (Scope.USER, {"user_id": "bob"}, "user:bob"),
        (Scope.PROJECT, {"project_id": "spring"}, "project:spring"),
        (Scope.PROJECT, {}, None),
        (Scope.API_KEY, {"api_key_id": "k1"}, "api_key:k1"),
        (Scope.API_KEY, {"project_id": "k1"}, None),
    ],
)
def test_scope_key_is_stored_and_never_changes(scope: Scope, who: dict[str, object], key: str | None) -> None:
    assert scope_keys(a_check(**who))[scope] == key


@pytest.mark.parametrize(("meter", "amount"), [(Meter.CALLS, 1), (Meter.UNITS, 4), (Meter.COST, 160_000_000)])
def test_share_is_what_the_meter_counts(meter: Meter, amount: int) -> None:
    assert shares_of(a_check(quantity=4, estimated_cost="0.16"))[meter] == amount


def test_share_of_an_unknown_cost_is_nothing() -> None:
    assert shares_of(a_check())[Meter.COST] == 0


@pytest.mark.parametrize("window", list(Window))
def test_every_window_has_its_counter(window: Window) -> None:
    assert counted_by(a_limit(window=window)).counter_id == f"calls account {window.value}"
