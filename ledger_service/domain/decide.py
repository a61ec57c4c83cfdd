"""The limit check, decided purely: limits and balances in, a decision out."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from contracts.leases import LeaseCheck
from contracts.limits import Limit, LimitCheck, Meter, Mode, PriceRef
from contracts.money import format_nanos
from contracts.operations import OPERATION_TYPES
from ledger_service.domain.counters import (
    ACCOUNT_SCOPE_KEY,
    Balance,
    Counted,
    CounterKey,
    scope_keys,
    shares_of,
)
from ledger_service.domain.credits import CreditLine, credit_line
from ledger_service.domain.leases import lease_of
from ledger_service.domain.periods import BEGINNING, END_OF_TIME, Period, period_of
from ledger_service.domain.terms import Applied, Override, Terms, limits_for, limits_of_account

Json = dict[str, Any]  # a JSON object on its way to orjson: with ten thousands a second, models would cost too much

LIMIT_EXCEEDED: Final = "limit_exceeded"
UNKNOWN_ACCOUNT: Final = "unknown_account"
UNKNOWN_PLAN: Final = "unknown_plan"
UNKNOWN_OPERATION: Final = "unknown_operation"
LEASE_NOT_ALLOWED: Final = "lease_not_allowed"
UNPRICED_MODEL: Final = "unpriced_model"


# Neither tuples nor frozen: to make one of either takes several times as long, and a check makes a dozen.
@dataclass(slots=True)
class Claim:
    """One limit that applies to a check: the counter to compare with, and how much the check asks of it.

    A credit limit looks at one counter for each stretch of time between changes of its grants; ``key`` is the current
    one's, where a hold is placed.
    """

    applied: Applied
    key: CounterKey
    period: Period
    amount: int
    credit: CreditLine | None = None

    @property
    def limit(self) -> Limit:
        return self.applied.limit

    @property
    def counted(self) -> Counted:
        return self.applied.counted

    @property
    def keys(self) -> tuple[CounterKey, ...]:
        """Every counter that the claim looks at."""
        return (self.key,) if self.credit is None else self.credit.keys


@dataclass(slots=True)
class Verdict:
    """A decision: ``body`` is it as callers get it (contracts.limits.Decision)."""

    allowed: bool
    decided_at: datetime
    expires_at: datetime | None
    body: Json


@dataclass(slots=True)
class Standing:
    """How a limit stands: its maximum at the moment, and what is settled and held of it."""

    maximum: int
    settled: int
    held: int

    @property
    def used(self) -> int:
        return self.settled + self.held


def claims_of(check: LimitCheck, terms: Terms, now: datetime) -> list[Claim]:
    """The limits that apply to this check, in the plan's order."""
    account_id, keys, shares = check.account_id, scope_keys(check), shares_of(check)
    return [
        _claim(applied, account_id, key, terms, now, shares[applied.limit.meter])
        for applied in limits_for(check, terms, now)
        if (key := keys[applied.limit.scope]) is not None
    ]


def claims_of_account(account_id: str, terms: Terms, now: datetime) -> list[Claim]:
    """All limits on the account as a whole, asking for nothing: to show how they stand."""
    return [_claim(applied, account_id, ACCOUNT_SCOPE_KEY, terms, now, 0) for applied in limits_of_account(terms, now)]


def _claim(applied: Applied, account_id: str, key: str, terms: Terms, now: datetime, amount: int) -> Claim:
    limit, counted = applied.limit, applied.counted
    if limit.credit:
        credit = credit_line(limit, counted, account_id, terms.grants, terms.calendar, now)
        current = credit.keys[-1]
        period = Period(current.period_start, current.period_end, limit.window.value)
        return Claim(applied, current, period, amount, credit)
    period = period_of(limit.window, now, terms.calendar)
    counter = CounterKey(account_id, key, period.end, period.start, counted.counter_id)
    return Claim(applied, counter, period, amount)


def standing(claim: Claim, balances: Mapping[CounterKey, Balance]) -> Standing:
    """How the claim's limit stands, from its counters."""
    if claim.credit is not None:
        return Standing(*claim.credit.standing(balances, claim.limit.maximum_amount))
    balance = balances[claim.key]
    return Standing(claim.applied.limit.maximum_amount, balance.settled, balance.held)


def decide(
    check: LimitCheck,
    terms: Terms,
    claims: list[Claim],
    balances: Mapping[CounterKey, Balance],
    now: datetime,
    ttl_seconds: int,
    price: PriceRef | None = None,
) -> Verdict:
    """Allowed if every hard limit that applies has room for the check's share. Changes nothing.

    The limits in the answer show the state after the decision, an allowed check's own hold included.
    """
    standings = [standing(claim, balances) for claim in claims]
    denial = _denial(check, terms, claims, standings)
    allowed = denial is None
    expires_at = now + timedelta(seconds=ttl_seconds) if allowed else None
    body: Json = {
        "operation_id": check.operation_id,
        "allowed": allowed,
        "reservation": {"expires_at": expires_at} if allowed else None,
        "denial": denial,
        "limits": [
            limit_state(claim, stands, claim.amount if allowed else 0)
            for claim, stands in zip(claims, standings, strict=True)
        ],
        "decided_at": now,
        "plan_id": terms.plan_id,
    }
    # What says nothing is left out: it would be written to the log with each of millions of decisions.
    if terms.plan_version is not None:
        body["plan_version"] = terms.plan_version
    if check.estimated_cost is not None:
        body["estimated_cost"] = format_nanos(check.estimated_cost)
    if price is not None:
        body["price"] = price.model_dump(mode="json")
    offer = lease_of(check, terms) if allowed else None
    if offer is not None:
        body["lease"] = offer.model_dump()
    return Verdict(allowed, now, expires_at, body)


def has_room(maximum: int, used: int, amount: int) -> bool:
    """Whether a limit takes so much more. A share of nothing is let through at exactly the maximum, but maximum 0 means
    not allowed."""
    return used + amount <= maximum and maximum != 0


def limit_state(claim: Claim, stands: Standing, own_share: int) -> Json:
    """One limit as people see it (contracts.limits.LimitState); money as decimal strings."""
    applied = claim.applied
    maximum, settled, held = stands.maximum, stands.settled, stands.held + own_share
    state: Json = applied.shown.copy()
    state["period"] = claim.period.name
    if applied.limit.meter is Meter.COST:
        state["maximum"] = format_nanos(maximum)
        state["settled"] = format_nanos(settled)
        state["held"] = format_nanos(held)
        state["available"] = format_nanos(maximum - settled - held)
    else:
        state["maximum"] = maximum
        state["settled"] = settled
        state["held"] = held
        state["available"] = maximum - settled - held
    if applied.override is not None:
        state["override"] = _override_ref(applied.override)
    return state


def _override_ref(override: Override) -> Json:
    return {
        "scope_id": override.scope_id,
        "version": override.version,
        "valid_from": None if override.valid_from <= BEGINNING else override.valid_from,
        "valid_until": None if override.valid_until >= END_OF_TIME else override.valid_until,
    }


def _denial(check: LimitCheck, terms: Terms, claims: list[Claim], standings: list[Standing]) -> Json | None:
    if terms.plan_id is None:
        return refuse(UNKNOWN_ACCOUNT, f"account {check.account_id} is not registered and there is no default plan")
    if terms.plan is None:
        return refuse(UNKNOWN_PLAN, f"account {check.account_id} is on plan {terms.plan_id}, which does not exist")
    if check.operation not in OPERATION_TYPES:
        return refuse(UNKNOWN_OPERATION, f"{check.operation} is no operation; known are {', '.join(OPERATION_TYPES)}")
    if isinstance(check, LeaseCheck) and lease_of(check, terms) is None:
        return refuse(LEASE_NOT_ALLOWED, f"the fail mode of plan {terms.plan_id} for this caller is closed")
    for claim, stands in zip(claims, standings, strict=True):
        limit = claim.applied.limit
        if limit.mode is not Mode.HARD:
            continue
        if limit.meter is Meter.COST and check.estimated_cost is None:
            return refuse(
                UNPRICED_MODEL,
                f"limit {limit.limit_id} is on cost; the check names no estimated_cost, there is no price for "
                f"{check.operation} with {check.model} of {check.provider}, and the plan names no ceiling",
                limit.limit_id,
            )
        if not has_room(stands.maximum, stands.settled + stands.held, claim.amount):
            return refuse(LIMIT_EXCEEDED, _no_room(claim, stands), limit.limit_id)
    return None


def _no_room(claim: Claim, stands: Standing) -> str:
    limit = claim.limit

    def amount(value: int) -> str:
        return f"${format_nanos(value)}" if limit.meter is Meter.COST else str(value)

    unit = "" if limit.meter is Meter.COST else f" {limit.meter.value}"
    return (
        f"limit {limit.limit_id} allows {amount(stands.maximum)}{unit} in {claim.period.name}: "
        f"{amount(stands.settled)} settled, {amount(stands.held)} held, {amount(claim.amount)} asked"
    )


def refuse(code: str, message: str, limit_id: str | None = None) -> Json:
    """A denial (contracts.limits.Denial); ``limit_id`` where a limit is the reason."""
    return {"code": code, "message": message, "limit_id": limit_id}
