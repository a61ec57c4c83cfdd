"""How limits stand, for who looks at them: an account's, with what holds them, and the fullest of all accounts."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from contracts.identifiers import Name
from contracts.problems import NOT_FOUND, ProblemError
from contracts.standings import LimitStandings, NearestLimits, OpenHold, OpenHolds
from ledger_service.api.access import LedgerRoute
from ledger_service.api.moments import Demanded, reading
from ledger_service.domain.decide import claims_of_account
from ledger_service.limit_standings import standings_of
from ledger_service.page_cursors import decode_row_cursor, encode_cursor
from ledger_service.services import Services, services
from ledger_service.standings import balances_for, make_missing
from ledger_service.store.accounts import find_account
from ledger_service.store.standings import list_holds
from ledger_service.store.terms import read_terms

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["limits of an account"])

Wired = Annotated[Services, Depends(services)]


@router.get("/accounts/{account_id}/limits:standing")
async def read_standings(account_id: Name, wired: Wired, demand: Demanded, response: Response) -> LimitStandings:
    """How each limit stands in its present period, and when it is reached if use goes on as it did: limits on the
    account, then those on the users, projects and keys who used most. Without ``as_of`` where a plan has such limits.
    """
    async with reading(wired, demand) as read:
        if await find_account(read.known, account_id) is None:
            raise ProblemError(NOT_FOUND, f"nothing is known of account {account_id}")
        terms = (await read_terms(read.known, [account_id], read.terms, wired.default_plan_id))[account_id]
        claims = claims_of_account(account_id, terms, read.now)
        balances = await balances_for(read.known, claims, is_past=read.as_of is not None)
        standings = await standings_of(read.known, account_id, terms, claims, balances, read.now)
    await make_missing(wired.reads, account_id, balances)
    read.tell(response)
    return standings


@router.get("/accounts/{account_id}/holds")
async def read_holds(
    account_id: Name,
    wired: Wired,
    demand: Demanded,
    response: Response,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> OpenHolds:
    """The operations and leases that hold a share of the account's limits now, oldest first."""
    after = decode_row_cursor(cursor) if cursor else None
    async with reading(wired, demand) as read:
        rows = await list_holds(read.known, account_id, after, limit)
    read.tell(response)
    items = [OpenHold.model_validate(dict(row)) for row in rows]
    more = encode_cursor(rows[-1]["placed_at"], rows[-1]["operation_id"]) if len(rows) == limit else None
    return OpenHolds(items=items, next_cursor=more)


@router.get("/limits:nearest")
async def read_nearest(wired: Wired, limit: Annotated[int, Query(ge=1, le=100)] = 20) -> NearestLimits:
    """The limits on accounts of which most is settled or held, the fullest first, of all accounts.

    As they stood at ``read_at``: a minute ago at most, or more where a look takes more than three seconds. Of periods
    in which the account was checked; limits that allow nothing are left out.
    """
    nearest = await wired.nearest.read()
    return NearestLimits(read_at=nearest.read_at, items=nearest.items[:limit])
