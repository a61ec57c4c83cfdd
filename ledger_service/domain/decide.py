"""The limit check, decided purely: limits and balances in, a decision out."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from contracts.limits import Decision, Denial, Limit, LimitCheck, LimitState, Meter, Mode, Plan, Reservation, Scope
from contracts.money import format_nanos
from contracts.operations import OPERATION_TYPES
from ledger_service.domain.counters import ACCOUNT_SCOPE_KEY, Balance, Counted, CounterKey, counted_by, scope_key, share
from ledger_service.domain.periods import Calendar, Period, period_of

LIMIT_EXCEEDED: Final = "limit_exceeded"
UNKNOWN_ACCOUNT: Final = "unknown_account"
UNKNOWN_PLAN: Final = "unknown_plan"
UNKNOWN_OPERATION: Final = "unknown_operation"
UNPRICED_MODEL: Final = "unpriced_model"


@dataclass(frozen=True, slots=True)
class Terms:
    """What an account may do: the plan it is on (None where there is none by that id), and its calendar."""

    plan_id: str | None
    plan: Plan | None
    calendar: Calendar


@dataclass(frozen=True, slots=True)
class Claim:
    """One limit that applies to a check: the counter to compare with, and how much the check asks of it."""

    limit: Limit
    counted: Counted
    key: CounterKey
    period: Period
    amount: int


def claims_of(check: LimitCheck, terms: Terms, now: datetime) -> list[Claim]:
    """The limits of the account's plan that apply to this check, in the plan's order."""
    claims = []
    for limit in terms.plan.limits if terms.plan else ():
        counted, key = counted_by(limit), scope_key(limit.scope, check)
        if key is None or not counted.selects(check):
            continue
        claims.append(_claim(limit, counted, check.account_id, key, terms, now, share(limit.meter, check)))
    return claims


def claims_of_account(account_id: str, terms: Terms, now: datetime) -> list[Claim]:
    """All limits on the account as a whole, asking for nothing: to show how they stand."""
    return [
        _claim(limit, counted_by(limit), account_id, ACCOUNT_SCOPE_KEY, terms, now, 0)
        for limit in (terms.plan.limits if terms.plan else ())
        if limit.scope is Scope.ACCOUNT
    ]


def _claim(
    limit: Limit, counted: Counted, account_id: str, key: str, terms: Terms, now: datetime, amount: int
) -> Claim:
    period = period_of(limit.window, now, terms.calendar)
    return Claim(
        limit, counted, CounterKey(account_id, key, period.end, period.start, counted.counter_id), period, amount
    )


def decide(
    check: LimitCheck,
    terms: Terms,
    claims: list[Claim],
    balances: Mapping[CounterKey, Balance],
    now: datetime,
    ttl_seconds: int,
) -> Decision:
    """Allowed if every hard limit that applies has room for the check's share. Changes nothing: see hold().

    The limits in the answer show the state after the decision, an allowed check's own hold included.
    """
    denial = _denial(check, terms, claims, balances)
    allowed = denial is None
    return Decision.model_construct(
        operation_id=check.operation_id,
        allowed=allowed,
        reservation=Reservation.model_construct(expires_at=now + timedelta(seconds=ttl_seconds)) if allowed else None,
        denial=denial,
        limits=[limit_state(claim, balances[claim.key], claim.amount if allowed else 0) for claim in claims],
        decided_at=now,
        plan_id=terms.plan_id,
    )


def hold(claims: list[Claim], balances: Mapping[CounterKey, Balance]) -> None:
    """Adds an allowed check's shares to what is held. Two limits over one counter hold it once."""
    for key, amount in {claim.key: claim.amount for claim in claims}.items():
        balances[key].held += amount


def limit_state(claim: Claim, balance: Balance, own_share: int) -> LimitState:
    """One limit as people see it; money as decimal strings."""
    limit, held = claim.limit, balance.held + own_share
    available = limit.maximum_amount - balance.settled - held
    is_cost = limit.meter is Meter.COST
    return LimitState.model_construct(
        limit_id=limit.limit_id,
        scope=limit.scope,
        meter=limit.meter,
        window=limit.window,
        period=claim.period.name,
        mode=limit.mode,
        maximum=limit.maximum,
        settled=format_nanos(balance.settled) if is_cost else balance.settled,
        held=format_nanos(held) if is_cost else held,
        available=format_nanos(available) if is_cost else available,
    )


def _denial(
    check: LimitCheck, terms: Terms, claims: list[Claim], balances: Mapping[CounterKey, Balance]
) -> Denial | None:
    if terms.plan_id is None:
        return _refuse(UNKNOWN_ACCOUNT, f"account {check.account_id} is not registered and there is no default plan")
    if terms.plan is None:
        return _refuse(UNKNOWN_PLAN, f"account {check.account_id} is on plan {terms.plan_id}, which does not exist")
    if check.operation not in OPERATION_TYPES:
        return _refuse(UNKNOWN_OPERATION, f"{check.operation} is no operation; known are {', '.join(OPERATION_TYPES)}")
    for claim in claims:
        limit = claim.limit
        if limit.mode is not Mode.HARD:
            continue
        if limit.meter is Meter.COST and check.estimated_cost is None:
            return _refuse(
                UNPRICED_MODEL,
                f"limit {limit.limit_id} is on cost, and the check names no estimated_cost for {check.model}",
                limit.limit_id,
            )
        balance = balances[claim.key]
        # A share of nothing is let through at exactly the maximum, but maximum 0 means not allowed.
        if balance.settled + balance.held + claim.amount > limit.maximum_amount or limit.maximum_amount == 0:
            return _refuse(LIMIT_EXCEEDED, _no_room(claim, balance), limit.limit_id)
    return None


def _no_room(claim: Claim, balance: Balance) -> str:
    limit = claim.limit

    def amount(value: int) -> str:
        return f"${format_nanos(value)}" if limit.meter is Meter.COST else str(value)

    unit = "" if limit.meter is Meter.COST else f" {limit.meter.value}"
    return (
        f"limit {limit.limit_id} allows {amount(limit.maximum_amount)}{unit} in {claim.period.name}: "
        f"{amount(balance.settled)} settled, {amount(balance.held)} held, {amount(claim.amount)} asked"
    )


def _refuse(code: str, message: str, limit_id: str | None = None) -> Denial:
    return Denial.model_construct(code=code, message=message, limit_id=limit_id)
