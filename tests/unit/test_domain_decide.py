"""The limit check as rules: given limits and balances, when an operation is checked, then it is decided so."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.limits import Decision, Limit, LimitCheck, Plan
from ledger_service.domain.counters import Balance, CounterKey
from ledger_service.domain.decide import Claim, claims_of, decide
from ledger_service.domain.periods import Calendar
from ledger_service.domain.terms import Terms
from tests.holding import hold

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
OPERATION_ID = UUID("019aa9c1-5b00-7123-9abc-def012345678")


def a_limit(limit_id: object = "images", **changes: object) -> Limit:
    body: dict[str, object] = {"meter": "calls", "window": "month", "maximum": 25}
    return Limit.model_validate({"limit_id": limit_id, **body, **changes})


def a_check(**changes: object) -> LimitCheck:
    body: dict[str, object] = {
        "operation_id": OPERATION_ID,
        "account_id": "acme",
        "user_id": "ada",
        "operation": "generate",
        "provider": "local",
        "model": "m",
    }
    return LimitCheck.model_validate({**body, **changes})


@dataclass
class Ledger:
    """What is given: a plan's limits and what is settled and held; and what then happens to it."""

    terms: Terms
    balances: defaultdict[CounterKey, Balance] = field(default_factory=lambda: defaultdict(Balance))

    def with_usage(self, settled: int = 0, held: int = 0, **who: object) -> "Ledger":
        """Puts an amount on every counter that a check by this user, project and key would touch."""
        for claim in claims_of(a_check(**who), self.terms, NOW):
            self.balances[claim.key] = Balance(settled, held)
        return self

    def claims(self, **changes: object) -> list[Claim]:
        return claims_of(a_check(**changes), self.terms, NOW)

    def when_checked(self, **changes: object) -> Decision:
        """Decides, and holds what is allowed, as the ledger does."""
        check = a_check(**changes)
        claims = claims_of(check, self.terms, NOW)
        verdict = decide(check, self.terms, claims, self.balances, NOW, ttl_seconds=300)
        if verdict.allowed:
            hold(claims, self.balances)
        return Decision.model_validate_json(orjson.dumps(verdict.body))


def given_limits(*limits: Limit) -> Ledger:
    return Ledger(Terms("pro", Plan(name="Pro", limits=list(limits)), Calendar()))


def denied_by(decision: Decision) -> tuple[str, str | None]:
    assert not decision.allowed
    assert decision.reservation is None
    assert decision.denial is not None
    return decision.denial.code, decision.denial.limit_id


def state_of(decision: Decision) -> dict[str, tuple[Any, Any, Any, Any]]:
    return {state.limit_id: (state.maximum, state.settled, state.held, state.available) for state in decision.limits}


# --- who is nobody


def test_given_no_account_and_no_default_plan_then_denied() -> None:
    ledger = Ledger(Terms(None, None, Calendar()))
    decision = ledger.when_checked()
    assert denied_by(decision) == ("unknown_account", None)
    assert decision.denial
    assert "acme" in decision.denial.message
    assert decision.limits == []


def test_given_an_account_on_a_plan_that_does_not_exist_then_denied() -> None:
    decision = Ledger(Terms("gone", None, Calendar())).when_checked()
    assert denied_by(decision) == ("unknown_plan", None)
    assert decision.denial
    assert "gone" in decision.denial.message


def test_given_a_plan_without_limits_then_everything_is_allowed() -> None:
    decision = given_limits().when_checked(quantity=1_000_000, estimated_cost="1000000")
    assert decision.allowed
    assert decision.limits == []


def test_when_the_operation_is_unknown_then_denied_with_the_known_ones() -> None:
    decision = given_limits().when_checked(operation="sing")
    assert denied_by(decision) == ("unknown_operation", None)
    assert decision.denial
    assert "generate, character, edit, face_swap, upscale" in decision.denial.message


# --- hard limits


def test_given_room_then_allowed_and_held() -> None:
    decision = given_limits(a_limit(maximum=25)).with_usage(settled=20, held=4).when_checked()
    assert decision.allowed
    assert decision.denial is None
    assert state_of(decision) == {"images": (25, 20, 5, 0)}


def test_given_no_room_then_denied_by_the_limit_and_nothing_is_held() -> None:
    ledger = given_limits(a_limit(maximum=25)).with_usage(settled=20, held=5)
    decision = ledger.when_checked()
    assert denied_by(decision) == ("limit_exceeded", "images")
    assert state_of(decision) == {"images": (25, 20, 5, 0)}
    assert [balance.held for balance in ledger.balances.values()] == [5]


def test_denial_says_in_words_what_is_missing() -> None:
    decision = given_limits(a_limit(maximum=25)).with_usage(settled=20, held=5).when_checked()
    assert decision.denial
    assert decision.denial.message == "limit images allows 25 calls in 2026-11: 20 settled, 5 held, 1 asked"


def test_denial_of_cost_speaks_of_dollars() -> None:
    budget = a_limit("budget", meter="cost", maximum="1")
    decision = given_limits(budget).with_usage(settled=900_000_000, held=60_000_000).when_checked(estimated_cost="0.05")
    assert decision.denial
    assert decision.denial.message == (
        "limit budget allows $1.000000000 in 2026-11: $0.900000000 settled, $0.060000000 held, $0.050000000 asked"
    )


@pytest.mark.parametrize(
    ("limit", "settled", "check", "allowed"),
    [
        ({"meter": "calls", "maximum": 3}, 2, {"quantity": 100}, True),
        ({"meter": "calls", "maximum": 3}, 3, {"quantity": 1}, False),
        ({"meter": "units", "maximum": 10}, 7, {"quantity": 3}, True),
        ({"meter": "units", "maximum": 10}, 7, {"quantity": 4}, False),
        ({"meter": "cost", "maximum": "0.1"}, 60_000_000, {"estimated_cost": "0.04"}, True),
        ({"meter": "cost", "maximum": "0.1"}, 60_000_000, {"estimated_cost": "0.040000001"}, False),
        ({"meter": "cost", "maximum": "0.000000001"}, 0, {"estimated_cost": "0.000000001"}, True),
        ({"meter": "cost", "maximum": "0.000000001"}, 1, {"estimated_cost": "0.000000001"}, False),
    ],
)
def test_each_meter_counts_its_own_share_to_the_last_unit(
    limit: dict[str, object], settled: int, check: dict[str, object], allowed: bool
) -> None:
    assert given_limits(a_limit(**limit)).with_usage(settled=settled).when_checked(**check).allowed is allowed


@pytest.mark.parametrize(
    ("meter", "maximum", "check"),
    [
        ("calls", 0, {}),
        ("units", 0, {}),
        ("cost", "0", {"estimated_cost": "0.01"}),
        ("cost", "0", {"estimated_cost": "0"}),
    ],
)
def test_maximum_zero_means_not_allowed(meter: str, maximum: object, check: dict[str, object]) -> None:
    decision = given_limits(a_limit("none", meter=meter, maximum=maximum)).when_checked(**check)
    assert denied_by(decision) == ("limit_exceeded", "none")


def test_given_a_full_cost_limit_then_what_costs_nothing_is_allowed() -> None:
    full = given_limits(a_limit("budget", meter="cost", maximum="1")).with_usage(settled=1_000_000_000)
    assert full.when_checked(estimated_cost="0").allowed


def test_given_overage_then_even_what_costs_nothing_is_denied() -> None:
    over = given_limits(a_limit("budget", meter="cost", maximum="1")).with_usage(settled=1_000_000_001)
    decision = over.when_checked(estimated_cost="0")
    assert denied_by(decision) == ("limit_exceeded", "budget")
    assert state_of(decision) == {"budget": ("1.000000000", "1.000000001", "0.000000000", "-0.000000001")}


def test_given_a_cost_limit_when_nobody_knows_the_cost_then_denied_as_unpriced() -> None:
    decision = given_limits(a_limit("budget", meter="cost", maximum="10")).when_checked(model="new-model")
    assert denied_by(decision) == ("unpriced_model", "budget")
    assert decision.denial
    assert "new-model" in decision.denial.message


def test_given_no_cost_limit_then_the_cost_need_not_be_known() -> None:
    assert given_limits(a_limit()).when_checked().allowed


def test_given_a_cost_limit_for_another_operation_then_the_cost_need_not_be_known() -> None:
    budget = a_limit("budget", meter="cost", maximum="10", selector={"operation": ["upscale"]})
    assert given_limits(budget).when_checked(operation="generate").allowed


# --- soft limits


def test_given_a_full_soft_limit_then_allowed_and_the_overrun_shows() -> None:
    decision = given_limits(a_limit(mode="soft", maximum=25)).with_usage(settled=25).when_checked()
    assert decision.allowed
    assert state_of(decision) == {"images": (25, 25, 1, -1)}
    assert decision.limits[0].mode == "soft"


def test_given_a_soft_maximum_of_zero_then_allowed() -> None:
    assert given_limits(a_limit(mode="soft", maximum=0)).when_checked().allowed


def test_given_a_soft_cost_limit_then_the_cost_need_not_be_known() -> None:
    decision = given_limits(a_limit("budget", meter="cost", maximum="1", mode="soft")).when_checked()
    assert decision.allowed
    assert state_of(decision) == {"budget": ("1.000000000", "0.000000000", "0.000000000", "1.000000000")}


def test_given_a_full_soft_and_a_full_hard_limit_then_the_hard_one_denies() -> None:
    limits = a_limit("warn", mode="soft", maximum=1), a_limit("stop", maximum=2, window="day")
    assert denied_by(given_limits(*limits).with_usage(settled=2).when_checked()) == ("limit_exceeded", "stop")


# --- several limits


def test_the_first_limit_without_room_in_the_plans_order_is_named() -> None:
    limits = [
        a_limit("roomy", maximum=100),
        a_limit("tight", window="day", maximum=1),
        a_limit("tighter", window="hour", maximum=0),
    ]
    assert denied_by(given_limits(*limits).with_usage(settled=1).when_checked()) == ("limit_exceeded", "tight")
    limits.reverse()
    assert denied_by(given_limits(*limits).with_usage(settled=1).when_checked()) == ("limit_exceeded", "tighter")


def test_when_one_of_several_has_no_room_then_none_is_held() -> None:
    ledger = given_limits(a_limit("roomy", maximum=100), a_limit("full", window="day", maximum=0))
    decision = ledger.when_checked()
    assert denied_by(decision) == ("limit_exceeded", "full")
    assert state_of(decision) == {"roomy": (100, 0, 0, 100), "full": (0, 0, 0, 0)}
    assert all(balance.held == 0 for balance in ledger.balances.values())


def test_when_all_have_room_then_each_holds_its_own_share() -> None:
    ledger = given_limits(
        a_limit("calls", maximum=10),
        a_limit("units", meter="units", maximum=100),
        a_limit("budget", meter="cost", maximum="5"),
    )
    decision = ledger.when_checked(quantity=4, estimated_cost="0.16")
    assert state_of(decision) == {
        "calls": (10, 0, 1, 9),
        "units": (100, 0, 4, 96),
        "budget": ("5.000000000", "0.000000000", "0.160000000", "4.840000000"),
    }
    assert sorted(balance.held for balance in ledger.balances.values()) == [1, 4, 160_000_000]


def test_limits_in_the_answer_are_those_that_apply_in_the_plans_order() -> None:
    ledger = given_limits(
        a_limit("b"), a_limit("edits", selector={"operation": ["edit"]}), a_limit("a", window="day"), a_limit("c")
    )
    assert [state.limit_id for state in ledger.when_checked(operation="generate").limits] == ["b", "a", "c"]


def test_two_limits_over_one_counter_hold_it_once() -> None:
    ledger = given_limits(a_limit("warn", maximum=20, mode="soft"), a_limit("stop", maximum=25))
    assert len({claim.key for claim in ledger.claims()}) == 1
    decision = ledger.when_checked()
    assert state_of(decision) == {"warn": (20, 0, 1, 19), "stop": (25, 0, 1, 24)}
    assert [balance.held for balance in ledger.balances.values()] == [1]


def test_two_hard_limits_over_one_counter_the_smaller_counts() -> None:
    ledger = given_limits(a_limit("large", maximum=25), a_limit("small", maximum=2))
    assert [ledger.when_checked().allowed for _ in range(3)] == [True, True, False]
    assert denied_by(ledger.when_checked()) == ("limit_exceeded", "small")


# --- the answer


def test_allowed_operation_is_reserved_until_its_time_to_live_ends() -> None:
    decision = given_limits().when_checked()
    assert decision.reservation
    assert decision.reservation.expires_at == NOW + timedelta(seconds=300)
    assert decision.decided_at == NOW
    assert decision.operation_id == OPERATION_ID


def test_decide_itself_changes_nothing() -> None:
    ledger = given_limits(a_limit()).with_usage(settled=3, held=2)
    claims = ledger.claims()
    decide(a_check(), ledger.terms, claims, ledger.balances, NOW, 300)
    assert list(ledger.balances.values()) == [Balance(3, 2)]


def test_same_arguments_same_decision() -> None:
    ledger = given_limits(a_limit(), a_limit("budget", meter="cost", maximum="1"))
    arguments = a_check(estimated_cost="0.1"), ledger.terms, ledger.claims(estimated_cost="0.1"), ledger.balances
    assert decide(*arguments, NOW, 300) == decide(*arguments, NOW, 300)


def test_decision_is_what_its_model_allows() -> None:
    # It is built without validation, for speed; so here it is validated.
    ledger = given_limits(a_limit(), a_limit("budget", meter="cost", maximum="0.1", window="day"))
    for cost in ("0.1", "0.1", None):
        decision = ledger.when_checked(estimated_cost=cost)
        assert Decision.model_validate(decision.model_dump()) == decision
        assert Decision.model_validate_json(decision.model_dump_json()) == decision


# --- for any history


@settings(max_examples=200)
@given(
    maxima=st.lists(st.integers(0, 6), min_size=1, max_size=3),
    checks=st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["ada", "bob"])), max_size=12),
)
def test_hard_limits_are_never_passed_and_never_deny_what_fits(
    maxima: list[int], checks: list[tuple[int, str]]
) -> None:
    scopes = ["account", "user", "account"]
    ledger = given_limits(
        *(
            a_limit(f"l{index}", meter="units", scope=scopes[index], maximum=maximum)
            for index, maximum in enumerate(maxima)
        )
    )
    taken: list[tuple[int, str]] = []
    for quantity, user in checks:
        decision = ledger.when_checked(quantity=quantity, user_id=user)
        everyone = sum(units for units, _ in taken)
        own = sum(units for units, who in taken if who == user)
        used = [own if scope == "user" else everyone for scope in scopes]
        fits = all(used[index] + quantity <= maximum for index, maximum in enumerate(maxima))
        assert decision.allowed is fits
        if fits:
            taken.append((quantity, user))
        for state in decision.limits:
            assert isinstance(state.available, int)
            assert state.available >= 0
