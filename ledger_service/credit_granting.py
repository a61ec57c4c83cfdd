"""Credit grants: what may be granted, each change as an event in the log, and how grants stand."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from pydantic_core import PydanticCustomError

from contracts.credits import (
    GRANTS_PER_ACCOUNT_MAX,
    CreditGrant,
    CreditGrantState,
    CreditGrantStored,
    format_amount,
    parse_amount,
)
from contracts.limits import COUNT_MAX, Limit, Meter
from contracts.money import MAXIMUM_NANOS_MAX
from contracts.problems import NOT_FOUND, ProblemError, broken_rule
from ledger_service.administration import log_change
from ledger_service.domain.counters import Balance, CounterKey, counted_by
from ledger_service.domain.credits import (
    STRETCHES_MAX,
    Grant,
    GrantState,
    credit_line,
    granted_at_most,
    stretches_needed,
)
from ledger_service.domain.decide import Claim, claims_of_account
from ledger_service.domain.ledger_events import CREDIT_GRANT_CHANGED
from ledger_service.domain.terms import Terms
from ledger_service.store.accounts import change_limits
from ledger_service.store.credit_grants import drop_stale_counters, list_grants, put_grant, to_grant
from ledger_service.store.pool import Connection
from ledger_service.store.terms import TermsCache, lock_terms


async def change_grant(
    connection: Connection, account_id: str, grant_id: str, grant: CreditGrant, default_plan_id: str | None
) -> CreditGrantStored:
    """Gives credit, or changes a grant. Idempotent: the same grant again changes nothing and is no event.

    Raises ProblemError where the account has no such credit limit, an amount does not fit it, the grant was ended, or
    the account's grants would become too many, too much, or too dear to look at on every check.
    """
    async with connection.transaction():
        terms, now = await _locked_terms(connection, account_id, default_plan_id)
        limit = _credit_limit(terms, grant.limit_id)
        stored = {one.grant_id: one for one in await list_grants(connection, account_id)}
        before = stored.get(grant_id)
        wanted = _complete(account_id, grant_id, grant, limit, before)
        if before is not None:
            if wanted == before.model_copy(update={"version": wanted.version}):
                return before
            _refuse_changing(before, wanted)
        elif len(stored) >= GRANTS_PER_ACCOUNT_MAX:
            raise broken_rule("grant_id", "grants_max", f"an account has at most {GRANTS_PER_ACCOUNT_MAX} grants")
        others = tuple(one for one in terms.grants if one.grant_id != grant_id)
        _refuse_too_dear(limit, (*others, to_grant(wanted)), terms, now)
        await _write(connection, wanted, limit, others, terms, now)
    return wanted


async def end_grant(
    connection: Connection, account_id: str, grant_id: str, default_plan_id: str | None
) -> CreditGrantStored:
    """Ends a grant now. What it was used for stays so, what is left lapses. Idempotent.

    Raises ProblemError (not_found).
    """
    async with connection.transaction():
        terms, now = await _locked_terms(connection, account_id, default_plan_id)
        stored = {one.grant_id: one for one in await list_grants(connection, account_id)}
        before = stored.get(grant_id)
        if before is None:
            raise ProblemError(NOT_FOUND, f"account {account_id} has no credit grant {grant_id}")
        if before.ended_at is not None or (before.expires_at is not None and before.expires_at <= now):
            return before
        ended = before.model_copy(
            update={"version": before.version + 1, "ended_at": max(now.astimezone(UTC), before.valid_from)}
        )
        limit = next((one for one in _credit_limits(terms) if one.limit_id == before.limit_id), None)
        others = tuple(one for one in terms.grants if one.grant_id != grant_id)
        await _write(connection, ended, limit, others, terms, now)
    return ended


def credit_claims(account_id: str, terms: Terms, now: datetime) -> list[Claim]:
    """The account's credit limits, asking for nothing."""
    return [claim for claim in claims_of_account(account_id, terms, now) if claim.credit is not None]


def grant_states(
    stored: Iterable[CreditGrantStored], claims: Iterable[Claim], balances: Mapping[CounterKey, Balance]
) -> list[CreditGrantState]:
    """Every grant, and how it stands in these claims."""
    states: dict[tuple[str, str], GrantState] = {}
    for claim in claims:
        if claim.credit is not None:
            for grant_id, state in claim.credit.grant_states(balances, claim.limit.maximum_amount).items():
                states[claim.limit.limit_id, grant_id] = state
    return [_shown(one, states) for one in stored]


async def _locked_terms(connection: Connection, account_id: str, default_plan_id: str | None) -> tuple[Terms, datetime]:
    # A cache of its own: what is read in a transaction that changes it must not be kept.
    terms, now = await lock_terms(connection, [account_id], TermsCache(), default_plan_id)
    return terms[account_id], now


def _credit_limits(terms: Terms) -> list[Limit]:
    """Credit limits of the plan and of overrides, whether these hold now or not; an override's before the plan's."""
    limits = [override.limit for override in terms.overrides] + (terms.plan.limits if terms.plan else [])
    return [limit for limit in limits if limit.credit]


def _credit_limit(terms: Terms, limit_id: str) -> Limit:
    for limit in _credit_limits(terms):
        if limit.limit_id == limit_id:
            return limit
    raise broken_rule(
        "limit_id", "credit_limit", f"neither the account's plan nor an override has a limit {limit_id} with credit"
    )


def _complete(
    account_id: str, grant_id: str, grant: CreditGrant, limit: Limit, before: CreditGrantStored | None
) -> CreditGrantStored:
    """The grant in the limit's meter, its amounts written as we write them."""
    amount = _amount("amount", limit.meter, grant.amount, least=1)
    rollover = grant.rollover_maximum
    if rollover is not None:
        rollover = _amount("rollover_maximum", limit.meter, rollover, least=0)
    return CreditGrantStored.model_validate(
        {
            **grant.model_dump(),
            "amount": amount,
            "rollover_maximum": rollover,
            "account_id": account_id,
            "grant_id": grant_id,
            "version": before.version + 1 if before else 1,
            "meter": limit.meter,
            "ended_at": before.ended_at if before else None,
        }
    )


def _amount(field: str, meter: Meter, amount: int | str, least: int) -> int | str:
    try:
        return format_amount(meter, parse_amount(meter, amount, least))
    except PydanticCustomError as error:
        raise broken_rule(field, error.type, error.message()) from None


def _refuse_changing(before: CreditGrantStored, wanted: CreditGrantStored) -> None:
    if before.ended_at is not None:
        message = f"{before.grant_id} was ended at {before.ended_at.isoformat()}; give credit under another grant_id"
        raise broken_rule("grant_id", "ended", message)
    if before.limit_id != wanted.limit_id:
        message = f"{before.grant_id} is on {before.limit_id}; end it, and give credit under another grant_id"
        raise broken_rule("limit_id", "other_limit", message)


def _refuse_too_dear(limit: Limit, grants: tuple[Grant, ...], terms: Terms, now: datetime) -> None:
    most = MAXIMUM_NANOS_MAX if limit.meter is Meter.COST else COUNT_MAX
    if granted_at_most(limit, grants, terms.calendar, now) > most:
        message = (
            f"the grants of limit {limit.limit_id} come to at most {format_amount(limit.meter, most)} together, "
            "renewals of ten years included"
        )
        raise broken_rule("amount", "granted_max", message)
    stretches = stretches_needed(limit, grants, terms.calendar, now)
    if stretches > STRETCHES_MAX:
        message = (
            f"beginnings, ends and renewals of the grants of limit {limit.limit_id} would cut time into {stretches} "
            f"stretches within ten years; {STRETCHES_MAX} are the most that a limit check looks at"
        )
        raise broken_rule("valid_from", "stretches_max", message)


async def _write(
    connection: Connection,
    wanted: CreditGrantStored,
    limit: Limit | None,
    others: tuple[Grant, ...],
    terms: Terms,
    now: datetime,
) -> None:
    await change_limits(connection, wanted.account_id)
    await put_grant(connection, wanted)
    await log_change(connection, CREDIT_GRANT_CHANGED, wanted.account_id, wanted)
    if limit is not None:
        grants = (*others, to_grant(wanted))
        line = credit_line(limit, counted_by(limit), wanted.account_id, grants, terms.calendar, now)
        await drop_stale_counters(connection, line.keys)


def _shown(stored: CreditGrantStored, states: Mapping[tuple[str, str], GrantState]) -> CreditGrantState:
    state = states.get((stored.limit_id, stored.grant_id))
    amounts: dict[str, int | str] = {}
    if state is not None:
        amounts = {name: format_amount(stored.meter, amount) for name, amount in state._asdict().items()}
    return CreditGrantState.model_validate({**stored.model_dump(), **amounts})
