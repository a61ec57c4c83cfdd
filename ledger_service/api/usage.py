"""What an account used: summary with limits, and the usage log."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from contracts.identifiers import Name
from contracts.moments import Moment
from contracts.periods import Month, first_day
from contracts.problems import NOT_FOUND, ProblemError
from contracts.usage_answers import UsageLogPage, UsageSummary
from ledger_service.api.access import LedgerRoute
from ledger_service.api.moments import Demanded, at_once, reading
from ledger_service.api.usage_filters import Chosen
from ledger_service.domain.counters import Balance, CounterKey
from ledger_service.domain.decide import Claim, claims_of_account, limit_state, standing
from ledger_service.page_cursors import decode_row_cursor
from ledger_service.services import Services, services
from ledger_service.standings import balances_for, make_missing
from ledger_service.store.accounts import find_account
from ledger_service.store.archives import refuse_archived, usage_log_begins
from ledger_service.store.terms import TermsCache, read_terms
from ledger_service.store.usage import (
    WALKED_MAX,
    Present,
    RowKey,
    read_present,
    read_summary,
    read_usage_log,
    sum_usage_log,
)
from ledger_service.usage_views import Json, json_response, usage_log_view, usage_view

router = APIRouter(route_class=LedgerRoute, prefix="/v1/accounts/{account_id}", tags=["usage"])

Wired = Annotated[Services, Depends(services)]


@router.get("/usage", response_model=UsageSummary)
async def read_usage(
    account_id: Name,
    wired: Wired,
    demand: Demanded,
    period: Annotated[Month | None, Query(description="a month in UTC: 2026-11")] = None,
    late_after: Annotated[
        Moment | None, Query(description="also how much of it was recorded after that moment")
    ] = None,
) -> Response:
    """Totals of a month (default: the current one) and how each limit on the account stands.

    Limits are shown for the windows that hold now, or, for an earlier month, for those that held at its end. With
    ``late_after``, ``late`` has how much of the totals was recorded after that moment: what a report as of then lacked.
    """
    month = None if period is None else first_day(period)
    if demand.as_of is None and demand.min_position is None and late_after is None:
        seen, present = await at_once(
            wired, lambda connection: read_present(connection, account_id, month, wired.default_plan_id)
        )
        view = _present_view(account_id, present, seen.now, wired.terms)
        if view is not None:
            return seen.tell(json_response(view))
    async with reading(wired, demand) as read:
        month = month or read.now.date().replace(day=1)
        if await find_account(read.known, account_id) is None:
            raise _unknown(account_id)
        is_past = read.as_of is not None
        begins = await usage_log_begins(read.connection)
        if is_past or late_after is not None:
            await refuse_archived(
                read.connection, datetime(month.year, month.month, 1, tzinfo=UTC), "what was known then"
            )
        cells = await (sum_usage_log if is_past else read_summary)(read.known, account_id, month)
        late = None
        if late_after is not None:
            late = await sum_usage_log(read.known, account_id, month, late_after)
        terms = await read_terms(read.known, [account_id], read.terms, wired.default_plan_id)
        moment = _moment_in(month, read.now)
        claims = claims_of_account(account_id, terms[account_id], moment)
        if begins is not None and is_past:
            claims = [claim for claim in claims if all(key.period_start >= begins for key in claim.keys)]
        balances = await balances_for(read.known, claims, is_past=is_past)
        if begins is not None and moment < begins:
            # What the others held is in archives: no counter can be made of it any more.
            claims = [claim for claim in claims if claim not in balances.missing]
            balances = balances._replace(missing=[])
    await make_missing(wired.reads, account_id, balances)
    return read.tell(json_response(usage_view(account_id, month, cells, _limits(claims, balances.of), late)))


def _present_view(account_id: str, present: Present, now: datetime, remembered: TermsCache) -> Json | None:
    """None where more has to be read: terms that changed, or counters that are of other windows or not there yet."""
    if not present.is_known:
        raise _unknown(account_id)
    terms = remembered.remembered(present.terms)
    if terms is None:
        return None
    claims = claims_of_account(account_id, terms, _moment_in(present.month, now))
    if any(key not in present.balances for claim in claims for key in claim.keys):
        return None
    return usage_view(account_id, present.month, present.cells, _limits(claims, present.balances))


def _limits(claims: Iterable[Claim], balances: Mapping[CounterKey, Balance]) -> list[Json]:
    return [limit_state(claim, standing(claim, balances), 0) for claim in claims]


def _unknown(account_id: str) -> ProblemError:
    return ProblemError(NOT_FOUND, f"nothing is known of account {account_id}")


def _moment_in(month: date, now: datetime) -> datetime:
    start = datetime(month.year, month.month, 1, tzinfo=UTC)
    end = (start + timedelta(days=32)).replace(day=1)
    return min(max(now, start), end - timedelta(microseconds=1))


@router.get("/usage-log", response_model=UsageLogPage)
async def list_usage_log(
    account_id: Name,
    wired: Wired,
    demand: Demanded,
    chosen: Chosen,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """The account's finished operations, and adjustments, newest first. ``next_cursor`` goes on where a page ended;
    null: that was all.

    A page looks at 10,000 entries at most. Where it found fewer than ``limit`` among them that pass the filters, maybe
    none, and there are older ones, ``searched_until`` says how far it got, and ``next_cursor`` goes on from there.

    An adjustment stands at the time of what it corrects; ``adjustment`` says what that is, who corrected it, and why.
    What came for a month that was closed already has ``booked_period``: the month in whose totals it is. ``late``: it
    was recorded after the end of the month (UTC) in which it occurred; ``lag_seconds``: how long after it occurred.
    Where there is ``archived_before``, months before that one are in archives: of them, only what came late is here.
    """
    after = RowKey(*decode_row_cursor(cursor)) if cursor else None
    async with reading(wired, demand) as read:
        begins, since = await usage_log_begins(read.connection), chosen.start or chosen.counted_start
        if since is not None:
            await refuse_archived(read.connection, since, "the usage log")
        # What was known at a moment is put together of the whole log: to look at a part of it would take as long.
        walked_max = WALKED_MAX if read.as_of is None else None
        page = await read_usage_log(read.known, account_id, chosen, after, limit, walked_max)
    return read.tell(json_response(usage_log_view(page, begins)))
