"""Plans, limits, accounts and limit checks: what an administrator or a caller may send."""

from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.limits import (
    COUNT_MAX,
    LIMITS_PER_PLAN_MAX,
    TTL_SECONDS_MAX,
    Account,
    Decision,
    Limit,
    LimitCheck,
    Meter,
    Mode,
    Plan,
    Scope,
    Selector,
    Window,
)
from contracts.money import MAXIMUM_NANOS_MAX, format_nanos
from contracts.operations import OPERATION_TYPES
from contracts.problems import field_errors

LIMIT: dict[str, Any] = {"limit_id": "images", "meter": "calls", "window": "month", "maximum": 25}
CHECK: dict[str, Any] = {
    "operation_id": "019aa9c1-5b00-7123-9abc-def012345678",
    "account_id": "acme",
    "user_id": "ada",
    "operation": "edit",
    "provider": "local",
    "model": "m",
}


def broken_rules(model: type[Limit | Plan | Account | LimitCheck], body: object) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as refused:
        model.model_validate(body)
    return [(error.field, error.rule) for error in field_errors(refused.value)]


# --- limits


def test_limit_has_the_defaults_that_the_design_gives_it() -> None:
    limit = Limit.model_validate(LIMIT)
    assert limit.scope is Scope.ACCOUNT
    assert limit.mode is Mode.HARD
    assert limit.selector == Selector(operation=[], provider=[], model=[])


@pytest.mark.parametrize(
    ("enum", "names"),
    [
        (Meter, ["calls", "units", "cost"]),
        (Scope, ["account", "project", "user", "api_key"]),
        (Window, ["minute", "hour", "day", "month", "billing_period", "lifetime"]),
        (Mode, ["hard", "soft"]),
    ],
)
def test_names_that_are_stored_never_change(enum: type[Meter | Scope | Window | Mode], names: list[str]) -> None:
    assert [member.value for member in enum] == names


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("meter", "images"),
        ("meter", "Calls"),
        ("meter", None),
        ("scope", "team"),
        ("scope", "API_KEY"),
        ("window", "week"),
        ("window", "billing-period"),
        ("window", ""),
        ("mode", "medium"),
    ],
)
def test_unknown_names_are_refused(name: str, value: object) -> None:
    assert (name, "enum") in broken_rules(Limit, {**LIMIT, name: value})


@pytest.mark.parametrize("name", ["limit_id", "meter", "window", "maximum"])
def test_missing_member_is_named(name: str) -> None:
    body = {key: value for key, value in LIMIT.items() if key != name}
    assert (name, "missing") in broken_rules(Limit, body)


def test_unknown_member_is_named() -> None:
    assert broken_rules(Limit, {**LIMIT, "maximun": 3}) == [("maximun", "extra_forbidden")]


@pytest.mark.parametrize("meter", ["calls", "units"])
@pytest.mark.parametrize("maximum", [0, 1, 25, COUNT_MAX])
def test_maximum_of_calls_and_units_is_a_whole_number(meter: str, maximum: int) -> None:
    limit = Limit.model_validate({**LIMIT, "meter": meter, "maximum": maximum})
    assert limit.maximum == limit.maximum_amount == maximum


@pytest.mark.parametrize("meter", ["calls", "units"])
@pytest.mark.parametrize(
    ("maximum", "rule"),
    [
        (-1, "maximum_range"),
        (COUNT_MAX + 1, "maximum_range"),
        ("25", "maximum_integer"),
        ("2.50", "maximum_integer"),
    ],
)
def test_other_maximum_of_calls_and_units_is_refused(meter: str, maximum: object, rule: str) -> None:
    assert broken_rules(Limit, {**LIMIT, "meter": meter, "maximum": maximum}) == [("maximum", rule)]


@pytest.mark.parametrize("maximum", [1.0, 2.5, True, None, [], float("nan")])
@pytest.mark.parametrize("meter", ["calls", "units", "cost"])
def test_maximum_that_is_neither_number_nor_string_is_refused(meter: str, maximum: object) -> None:
    assert broken_rules(Limit, {**LIMIT, "meter": meter, "maximum": maximum}) == [("maximum", "maximum_type")]


@pytest.mark.parametrize(
    ("maximum", "written", "nanos"),
    [
        ("0", "0.000000000", 0),
        ("2.5", "2.500000000", 2_500_000_000),
        ("1e-3", "0.001000000", 1_000_000),
        ("1000000000", "1000000000.000000000", MAXIMUM_NANOS_MAX),
    ],
)
def test_maximum_of_cost_is_a_decimal_string_with_one_spelling(maximum: str, written: str, nanos: int) -> None:
    limit = Limit.model_validate({**LIMIT, "meter": "cost", "maximum": maximum})
    assert limit.maximum == written
    assert limit.maximum_amount == nanos


@pytest.mark.parametrize(
    ("maximum", "rule"),
    [
        (2, "money_string"),
        ("NaN", "money_decimal"),
        ("1e999", "money_decimal"),
        ("0.0000000001", "money_decimals"),
        ("-0.000000001", "maximum_range"),
        ("1000000000.000000001", "maximum_range"),
        ("1e99", "maximum_range"),
    ],
)
def test_other_maximum_of_cost_is_refused(maximum: object, rule: str) -> None:
    assert broken_rules(Limit, {**LIMIT, "meter": "cost", "maximum": maximum}) == [("maximum", rule)]


def test_maximum_fits_its_meter_whatever_their_order() -> None:
    limit = Limit.model_validate_json(
        '{"maximum": "2.5", "window": "day", "mode": "soft", "meter": "cost", "limit_id": "l"}'
    )
    assert limit.maximum_amount == 2_500_000_000


@settings(max_examples=200)
@given(st.integers(0, MAXIMUM_NANOS_MAX))
def test_limit_on_cost_survives_json(nanos: int) -> None:
    limit = Limit.model_validate({**LIMIT, "meter": "cost", "maximum": format_nanos(nanos)})
    assert limit.maximum_amount == nanos
    assert Limit.model_validate_json(limit.model_dump_json()) == limit


# --- selectors


def test_selector_takes_every_known_operation() -> None:
    limit = Limit.model_validate({**LIMIT, "selector": {"operation": list(OPERATION_TYPES)}})
    assert limit.selector.operation == list(OPERATION_TYPES)


@pytest.mark.parametrize("operation", ["sing", "Edit", "", "edit "])
def test_plan_that_names_an_unknown_operation_is_refused(operation: str) -> None:
    plan = {"name": "p", "limits": [LIMIT, {**LIMIT, "limit_id": "b", "selector": {"operation": ["edit", operation]}}]}
    assert broken_rules(Plan, plan) == [("limits[1].selector.operation[1]", "unknown_operation")]


@pytest.mark.parametrize(
    ("selector", "field"),
    [
        ({"operation": "edit"}, "selector.operation"),
        ({"provider": ["a b"]}, "selector.provider[0]"),
        ({"provider": ["a/b"]}, "selector.provider[0]"),
        ({"model": ["a,b"]}, "selector.model[0]"),
        ({"model": [1]}, "selector.model[0]"),
        ({"models": ["m"]}, "selector.models"),
        (None, "selector"),
    ],
)
def test_wrong_selector_is_named(selector: object, field: str) -> None:
    assert [name for name, _ in broken_rules(Limit, {**LIMIT, "selector": selector})] == [field]


# --- plans


def test_limit_ids_are_unique_in_a_plan() -> None:
    with pytest.raises(ValidationError, match="limit_id images stands twice"):
        Plan.model_validate({"name": "p", "limits": [LIMIT, {**LIMIT, "limit_id": "other"}, {**LIMIT, "maximum": 3}]})


def test_plan_without_limits_is_unlimited() -> None:
    assert Plan.model_validate({"name": "free for all"}).limits == []


@pytest.mark.parametrize(("count", "valid"), [(LIMITS_PER_PLAN_MAX, True), (LIMITS_PER_PLAN_MAX + 1, False)])
def test_number_of_limits_in_a_plan_is_bounded(count: int, valid: bool) -> None:
    plan = {"name": "p", "limits": [{**LIMIT, "limit_id": f"l{number}"} for number in range(count)]}
    if valid:
        assert len(Plan.model_validate(plan).limits) == count
    else:
        assert broken_rules(Plan, plan) == [("limits", "too_long")]


@pytest.mark.parametrize("name", ["", "n" * 201, "a\x00b", None, 1])
def test_wrong_plan_name_is_refused(name: object) -> None:
    assert [field for field, _ in broken_rules(Plan, {"name": name})] == ["name"]


# --- accounts


def test_account_counts_in_utc_from_the_first_of_the_month_by_default() -> None:
    account = Account.model_validate({"plan_id": "pro"})
    assert account.time_zone == "UTC"
    assert account.billing_anchor == date(2000, 1, 1)


@pytest.mark.parametrize("time_zone", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Asia/Kathmandu"])
def test_known_time_zone_is_taken(time_zone: str) -> None:
    assert Account.model_validate({"plan_id": "pro", "time_zone": time_zone}).time_zone == time_zone


@pytest.mark.parametrize(
    "time_zone",
    ["Mars/Olympus", "", "Europe", "../etc/passwd", "/etc/localtime", "UTC\x00", "é", "CET+1", "\n", "U" * 65],
)
def test_unknown_time_zone_is_refused(time_zone: str) -> None:
    assert [field for field, _ in broken_rules(Account, {"plan_id": "pro", "time_zone": time_zone})] == ["time_zone"]


@pytest.mark.parametrize("anchor", ["1999-12-31", "2200-01-01", "2026-02-30", "yesterday", "", None])
def test_wrong_billing_anchor_is_refused(anchor: object) -> None:
    account = {"plan_id": "pro", "billing_anchor": anchor}
    assert [field for field, _ in broken_rules(Account, account)] == ["billing_anchor"]


# --- limit checks


def test_check_asks_for_one_unit_by_default() -> None:
    check = LimitCheck.model_validate_json(LimitCheck.model_validate(CHECK).model_dump_json())
    assert (check.quantity, check.estimated_cost, check.ttl_seconds, check.dry_run) == (1, None, None, False)


@pytest.mark.parametrize("ttl_seconds", [1, 300, TTL_SECONDS_MAX, None])
def test_hold_may_last_from_a_second_to_a_day(ttl_seconds: int | None) -> None:
    assert LimitCheck.model_validate({**CHECK, "ttl_seconds": ttl_seconds}).ttl_seconds == ttl_seconds


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("ttl_seconds", 0, "greater_than_equal"),
        ("ttl_seconds", -1, "greater_than_equal"),
        ("ttl_seconds", 86_401, "less_than_equal"),
        ("ttl_seconds", "60", "int_type"),
        ("ttl_seconds", 60.0, "int_type"),
        ("quantity", 0, "greater_than_equal"),
        ("quantity", 1_000_001, "less_than_equal"),
        ("quantity", "1", "int_type"),
        ("quantity", True, "int_type"),
        ("quantity", None, "int_type"),
        ("dry_run", "yes", "bool_type"),
        ("dry_run", 1, "bool_type"),
        ("estimated_cost", 0.04, "money_string"),
        ("estimated_cost", "NaN", "money_decimal"),
        ("estimated_cost", "-1", "greater_than_equal"),
        ("estimated_cost", "0.0000000001", "money_decimals"),
        ("operation_id", "6ba7b810-9dad-41d1-80b4-00c04fd430c8", "uuid_version"),
        ("account_id", "a\r\nb", "string_pattern_mismatch"),
        ("user_id", "", "string_pattern_mismatch"),
        ("operation", "Edit", "string_pattern_mismatch"),
        ("project_id", "a b", "string_pattern_mismatch"),
        ("surprise", 1, "extra_forbidden"),
    ],
)
def test_wrong_check_is_named(name: str, value: object, rule: str) -> None:
    assert broken_rules(LimitCheck, {**CHECK, name: value}) == [(name, rule)]


@pytest.mark.parametrize("name", sorted(CHECK))
def test_missing_member_of_a_check_is_named(name: str) -> None:
    body = {key: value for key, value in CHECK.items() if key != name}
    assert broken_rules(LimitCheck, body) == [(name, "missing")]


def test_operation_of_a_check_need_not_be_known() -> None:
    # It is the decision that says so, as a denial: see the tests of decide().
    assert LimitCheck.model_validate({**CHECK, "operation": "sing"}).operation == "sing"


def test_decision_survives_json() -> None:
    text = (
        '{"operation_id":"019aa9c1-5b00-7123-9abc-def012345678","allowed":true,'
        '"reservation":{"expires_at":"2026-11-22T10:05:00Z"},"denial":null,"limits":[{"limit_id":"budget",'
        '"scope":"account","meter":"cost","window":"month","period":"2026-11","mode":"hard",'
        '"maximum":"2.500000000","settled":"0.000000000","held":"0.040000000","available":"2.460000000"}],'
        '"decided_at":"2026-11-22T10:00:00Z","plan_id":"starter"}'
    )
    assert Decision.model_validate_json(text).model_dump_json(exclude_unset=True) == text
