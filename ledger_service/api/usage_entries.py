"""One entry of the usage log, with all that belongs to it."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response

from contracts.explained_answers import LoggedEntry
from contracts.identifiers import Name
from contracts.limits import LimitCheck, Meter
from contracts.money import format_nanos
from contracts.problems import NOT_FOUND, ProblemError, broken_rule
from ledger_service.api.access import LedgerRoute
from ledger_service.api.moments import Demanded, Read, reading
from ledger_service.domain.decide import claims_of, limit_state, standing
from ledger_service.services import Services, services
from ledger_service.standings import balances_for
from ledger_service.store.archives import usage_log_begins
from ledger_service.store.terms import read_terms
from ledger_service.store.usage import Entry, find_accounts, read_entry
from ledger_service.usage_views import Json, entry_view, json_response

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["usage"])

Wired = Annotated[Services, Depends(services)]


@router.get("/usage-log/{operation_id}", response_model=LoggedEntry)
async def read_usage_log_entry(
    operation_id: UUID,
    wired: Wired,
    demand: Demanded,
    account_id: Annotated[
        Name | None, Query(description="needed unless limit checks of one account had the operation_id")
    ] = None,
) -> Response:
    """A finished operation, or an adjustment: its ``entry`` of the usage log, every correction of it, and what it
    ``comes_to`` with those.

    ``events``: those of the log that the entry, its decision and its corrections are made of, as they were received.
    ``limits``: those that cover it by today's plan and overrides, each in the window in which it counts, with how much
    of it counts there, and how that window stands now.
    """
    async with reading(wired, demand) as read:
        account = account_id or await _account_of(read, operation_id)
        entry = await read_entry(read.known, account, operation_id)
        begins = await usage_log_begins(read.connection)
        if entry is None:
            archived = "" if begins is None else f"; what is from before {begins:%Y-%m} is in archives"
            raise ProblemError(NOT_FOUND, f"account {account} has no finished operation {operation_id}{archived}")
        limits = await _limits(read, wired, entry)
    return read.tell(json_response({**entry_view(entry), "limits": limits}))


async def _account_of(read: Read, operation_id: UUID) -> str:
    accounts = await find_accounts(read.known, operation_id)
    if len(accounts) != 1:
        # An operation id is its account's own, and who reports without a check is in no index by operation alone.
        reason = "several accounts have this operation_id" if accounts else "no limit check names its account"
        raise broken_rule("query.account_id", "missing", f"{reason}: say which account is meant")
    return accounts[0]


async def _limits(read: Read, wired: Services, entry: Entry) -> list[Json]:
    """Of what came to nothing in a meter, the limits on that meter count nothing."""
    row, amounts = entry.row, entry.amounts
    counted = {Meter.CALLS: amounts.calls, Meter.UNITS: amounts.units, Meter.COST: amounts.cost_nanos}
    check = LimitCheck.model_construct(
        operation_id=row["operation_id"],
        account_id=row["account_id"],
        user_id=row["user_id"],
        project_id=row["project_id"],
        api_key_id=row["api_key_id"],
        operation=row["operation"],
        provider=row["provider"],
        model=row["model"],
        quantity=amounts.units,
        estimated_cost=amounts.cost_nanos,
    )
    terms = await read_terms(read.known, [check.account_id], read.terms, wired.default_plan_id)
    begins = await usage_log_begins(read.connection)
    claims = [
        claim
        for claim in claims_of(check, terms[check.account_id], row["counted_at"])
        if counted[claim.limit.meter] and (begins is None or all(key.period_start >= begins for key in claim.keys))
    ]
    balances = await balances_for(read.known, claims, is_past=read.as_of is not None)
    return [
        {**limit_state(claim, standing(claim, balances.of), 0), "counted": _shown(claim.limit.meter, counted)}
        for claim in claims
    ]


def _shown(meter: Meter, counted: dict[Meter, int]) -> int | str:
    return format_nanos(counted[meter]) if meter is Meter.COST else counted[meter]
