"""Backtests of random histories, against plain loops over everything that was admitted so far."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from contracts.limits import LimitCheck, Plan
from contracts.money import format_nanos
from ledger_service.domain.backtest import COMPLETED, DENIED, AccountReplay, Operation, Proposal, Refusal, openings_of
from ledger_service.domain.counters import Balance, CounterKey
from ledger_service.domain.decide import claims_of, decide
from ledger_service.domain.periods import Calendar
from tests.builders import Body, limit, plan
from tests.holding import hold
from tests.oracle import maximum, window_bounds

START = datetime(2026, 3, 28, 12, tzinfo=UTC)  # clocks change in the night, and the month soon after
OPERATION_ID = UUID("019aa9c1-5b00-7123-9abc-def012345678")
ZONES = ["UTC", "Europe/Berlin", "America/St_Johns"]

# --- histories


def operations(first: datetime = START) -> st.SearchStrategy[list[Operation]]:
    """In order of admission, many at once and some at the same moment."""
    one = st.builds(
        Operation,
        account_id=st.just("acme"),
        operation_id=st.just(OPERATION_ID),
        user_id=st.sampled_from(["ada", "bob"]),
        project_id=st.sampled_from([None, "p1", "p2"]),
        api_key_id=st.sampled_from([None, "k1"]),
        operation=st.sampled_from(["generate", "edit", "levitate"]),
        requested_provider=st.sampled_from(["near", "far"]),
        provider=st.sampled_from(["near", "far"]),
        model=st.sampled_from(["m", "n"]),
        quantity=st.integers(1, 3),
        cost_nanos=st.integers(0, 5),
        held_cost_nanos=st.none() | st.integers(0, 5),
        outcome=st.sampled_from([COMPLETED, COMPLETED, COMPLETED, "failed", DENIED]),
        admitted_at=st.integers(0, 5 * 24 * 60).map(lambda minutes: first + timedelta(minutes=minutes // 7 * 7)),
        occurred_at=st.just(first),
    )
    lasting = st.tuples(one, st.sampled_from([-1, 0, 0, 1, 20, 300, 2000])).map(
        lambda pair: pair[0]._replace(occurred_at=pair[0].admitted_at + timedelta(minutes=pair[1]))
    )
    return st.lists(lasting, max_size=40).map(lambda found: sorted(found, key=lambda one: one.admitted_at))


def limits(**fixed: Any) -> st.SearchStrategy[Body]:
    """Any limit, small enough to be reached."""

    def selector(operation: list[str], provider: list[str], model: list[str]) -> Body:
        return {"operation": operation, "provider": provider, "model": model}

    choices: Body = {
        "meter": st.sampled_from(["calls", "units", "cost"]),
        "scope": st.sampled_from(["account", "user", "project", "api_key"]),
        "window": st.sampled_from(["minute", "hour", "day", "month", "billing_period", "lifetime"]),
        "amount": st.integers(0, 12),
        "mode": st.sampled_from(["hard", "hard", "soft"]),
        "selector": st.builds(
            selector,
            st.sampled_from([[], [], ["generate"], ["edit", "generate"]]),
            st.sampled_from([[], [], ["near"]]),
            st.sampled_from([[], [], ["m"]]),
        ),
        **{name: st.just(value) for name, value in fixed.items()},
    }

    def finish(fields: Body) -> Body:
        amount = fields.pop("amount")
        return {**fields, "maximum": format_nanos(amount) if fields["meter"] == "cost" else amount}

    return st.fixed_dictionaries(choices).map(finish)


def plans(**fixed: Any) -> st.SearchStrategy[list[Body]]:
    return st.lists(limits(**fixed), max_size=5).map(
        lambda found: [limit(f"l{number}", **fields) for number, fields in enumerate(found)]
    )


calendars = st.builds(
    Calendar, st.sampled_from(ZONES), st.sampled_from([date(2026, 1, 31), date(2026, 3, 29), date(2026, 1, 1)])
)


def proposal(*bodies: Body) -> Proposal:
    return Proposal(Plan.model_validate(plan(*bodies)), "tried")


def replay(
    history: list[Operation],
    tried: Proposal,
    calendar: Calendar,
    openings: dict[tuple[str, str], int] | None = None,
) -> list[Refusal | None]:
    running = AccountReplay("acme", tried, calendar, START, openings or {})
    return [running.decide(operation) for operation in history]


# --- the oracle


def asked(meter: str, operation: Operation) -> int:
    held = operation.cost_nanos if operation.held_cost_nanos is None else operation.held_cost_nanos
    return {"calls": 1, "units": operation.quantity, "cost": held}[meter]


def used(meter: str, operation: Operation) -> int:
    if operation.outcome == DENIED:
        return asked(meter, operation)
    if operation.outcome == "failed" and meter != "cost":
        return 0
    return {"calls": 1, "units": operation.quantity, "cost": operation.cost_nanos}[meter]


def who(body: Body, operation: Operation) -> str | None:
    names = {"user": operation.user_id, "project": operation.project_id, "api_key": operation.api_key_id}
    return names.get(body.get("scope", "account"), "account")


def selects(body: Body, operation: Operation, provider: str) -> bool:
    facts = {"operation": operation.operation, "provider": provider, "model": operation.model}
    return all(not wanted or facts[name] in wanted for name, wanted in body.get("selector", {}).items())


@dataclass
class Oracle:
    """Remembers what was admitted; counts all of it anew for every question."""

    limits: list[Body]
    calendar: Calendar
    admitted: list[Operation] = field(default_factory=list)

    def amount(self, body: Body, operation: Operation) -> int:
        """What the limit that this operation meets has settled and held at its admission."""
        now = operation.admitted_at
        start, end = window_bounds(body["window"], now, self.calendar.time_zone, self.calendar.billing_anchor)
        total = 0
        for earlier in self.admitted:
            if not start <= earlier.admitted_at < end or who(body, earlier) != who(body, operation):
                continue
            if earlier.occurred_at <= now or earlier.occurred_at <= earlier.admitted_at:
                total += used(body["meter"], earlier) if selects(body, earlier, earlier.provider) else 0
            else:
                total += asked(body["meter"], earlier) if selects(body, earlier, earlier.requested_provider) else 0
        return total

    def decide(self, operation: Operation) -> Refusal | None:
        refusal = self.refusal(operation)
        if refusal is None:
            self.admitted.append(operation)
        return refusal

    def refusal(self, operation: Operation) -> Refusal | None:
        if operation.operation == "levitate":
            return Refusal("unknown_operation", None)
        for body in self.limits:
            if body.get("mode") == "soft" or who(body, operation) is None:
                continue
            if not selects(body, operation, operation.requested_provider):
                continue
            if operation.outcome == DENIED and operation.cost_nanos == 0 and body["meter"] == "cost":
                return Refusal("unpriced_model", body["limit_id"])
            if self.amount(body, operation) + asked(body["meter"], operation) > maximum(body) or maximum(body) == 0:
                return Refusal("limit_exceeded", body["limit_id"])
        return None


# --- the rules


@given(history=operations(), bodies=plans(), calendar=calendars)
def test_every_operation_is_decided_as_by_plain_loops(
    history: list[Operation], bodies: list[Body], calendar: Calendar
) -> None:
    # A denied check has one provider, no hold, and would have been settled at once.
    history = [
        one._replace(provider=one.requested_provider, held_cost_nanos=None, occurred_at=one.admitted_at)
        if one.outcome == DENIED
        else one
        for one in history
    ]
    oracle = Oracle(bodies, calendar)
    assert replay(history, proposal(*bodies), calendar) == [oracle.decide(one) for one in history]


@given(
    before=operations(START - timedelta(days=4)), after=operations(), bodies=plans(), calendar=calendars,
)  # fmt: skip
def test_what_was_used_before_counts_in_the_periods_that_go_on(
    before: list[Operation], after: list[Operation], bodies: list[Body], calendar: Calendar
) -> None:
    """The opening sums in place of the earlier rows themselves."""
    oracle = Oracle(bodies, calendar)
    # All of it was done, as the usage log says, and its outcome known.
    oracle.admitted = [
        one._replace(occurred_at=one.admitted_at) for one in before if one.admitted_at < START and one.outcome != DENIED
    ]
    after = [one for one in after if one.outcome != DENIED]
    tried = proposal(*bodies)
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for opening in openings_of(tried, calendar, START):
        assert opening.period.start < START < opening.period.end
        for one in oracle.admitted:
            body = {
                "scope": opening.scope.value,
                "selector": {
                    "operation": opening.counted.operations,
                    "provider": opening.counted.providers,
                    "model": opening.counted.models,
                },
            }
            name = who(body, one)
            if name is not None and opening.period.start <= one.admitted_at and selects(body, one, one.provider):
                key = name if opening.scope == "account" else f"{opening.scope.value}:{name}"
                sums[opening.counted.counter_id, key] += used(opening.counted.meter.value, one)
    assert replay(after, tried, calendar, dict(sums)) == [oracle.decide(one) for one in after]


@given(history=operations(), bodies=plans(), calendar=calendars)
def test_what_a_plan_admitted_it_admits_again(history: list[Operation], bodies: list[Body], calendar: Calendar) -> None:
    """A backtest of the very plan that was live denies nothing: the log has only what it had admitted."""
    tried = proposal(*bodies)
    once = replay(history, tried, calendar)
    log = [one for one, refusal in zip(history, once, strict=True) if refusal is None]
    assert replay(log, tried, calendar) == [None] * len(log)


@given(history=operations(), bodies=plans(mode="hard"))
def test_live_checks_of_the_same_operations_decide_the_same(history: list[Operation], bodies: list[Body]) -> None:
    """The functions that live checks call, on checks that are all open at once."""
    far = START + timedelta(days=400)
    history = [
        one._replace(occurred_at=far, provider=one.requested_provider) for one in history if one.outcome != DENIED
    ]
    tried, calendar, live = proposal(*bodies), Calendar(), []
    balances: defaultdict[CounterKey, Balance] = defaultdict(Balance)
    for one in history:
        names = ("operation_id", "account_id", "user_id", "project_id", "api_key_id", "operation", "provider", "model")
        check = LimitCheck.model_validate(
            {name: getattr(one, name) for name in (*names, "quantity")}
            | {"estimated_cost": format_nanos(asked("cost", one))}
        )
        terms = tried.terms(calendar)
        claims = claims_of(check, terms, one.admitted_at)
        verdict = decide(check, terms, claims, balances, one.admitted_at, ttl_seconds=1)
        denial = verdict.body["denial"]
        if verdict.allowed:
            hold(claims, balances)
        live.append(None if denial is None else Refusal(denial["code"], denial["limit_id"]))
    assert replay(history, tried, calendar) == live


@given(history=operations(), body=limits(meter="calls", mode="hard"), calendar=calendars, more=st.integers(0, 5))
def test_a_higher_maximum_of_calls_denies_nothing_that_a_lower_one_admits(
    history: list[Operation], body: Body, calendar: Calendar, more: int
) -> None:
    """True of equal shares under one limit. Not of unequal ones: to deny a large one makes room for many small ones."""
    history = [one._replace(operation="generate", provider=one.requested_provider) for one in history]
    low = replay(history, proposal(limit(**body)), calendar)
    high = replay(history, proposal(limit(**{**body, "maximum": body["maximum"] + more})), calendar)
    assert [one for one, other in zip(low, high, strict=True) if one is None and other is not None] == []


@given(history=operations(), bodies=plans(mode="soft"), calendar=calendars)
def test_soft_limits_deny_nothing(history: list[Operation], bodies: list[Body], calendar: Calendar) -> None:
    history = [one._replace(operation="edit") for one in history]
    assert set(replay(history, proposal(*bodies), calendar)) <= {None}


@given(history=operations(), calendar=calendars, bodies=plans())
def test_a_maximum_of_nothing_denies_everything(
    history: list[Operation], calendar: Calendar, bodies: list[Body]
) -> None:
    refusals = replay(history, proposal(limit("none", maximum=0, window="minute"), *bodies), calendar)
    assert None not in refusals
