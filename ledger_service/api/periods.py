"""Periods that close."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from contracts.identifiers import Name
from contracts.periods import ClosePeriod, Month, PeriodClosing, PeriodClosings
from ledger_service.api.access import LedgerRoute
from ledger_service.api.adjustments import author_of
from ledger_service.api.bodies import json_body, read_model
from ledger_service.api.moments import Demanded, reading, writing
from ledger_service.calls import CHECK_BYTES_MAX
from ledger_service.closing import close_period
from ledger_service.services import Services, services
from ledger_service.store.periods import list_closings

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["periods"])

Wired = Annotated[Services, Depends(services)]
_CLOSINGS_MAX: Final = 1000


@router.put("/periods/{period}:close", openapi_extra=json_body(ClosePeriod))
async def close_for_all(period: Month, request: Request, wired: Wired, response: Response) -> PeriodClosing:
    """Closes a month in UTC that is over, and all before it, for all accounts: its totals never change again.

    What comes later for it, and corrections of it, are booked in the first month that is open. Limits count by their
    own windows, as before. Closed already: no change, and the answer is what closed it.
    """
    return await _close(wired, None, period, request, response)


@router.put("/accounts/{account_id}/periods/{period}:close", openapi_extra=json_body(ClosePeriod))
async def close_for_account(
    account_id: Name, period: Month, request: Request, wired: Wired, response: Response
) -> PeriodClosing:
    """The same for one account."""
    return await _close(wired, account_id, period, request, response)


@router.get("/accounts/{account_id}/periods")
async def read_closings(account_id: Name, wired: Wired, demand: Demanded, response: Response) -> PeriodClosings:
    """What closed months of the account, the 1,000 earliest. A closing closes all months before it too."""
    async with reading(wired, demand) as read:
        closings = await list_closings(read.known, account_id, _CLOSINGS_MAX)
    read.tell(response)
    return PeriodClosings(closings=closings)


async def _close(
    wired: Services, account_id: str | None, period: str, request: Request, response: Response
) -> PeriodClosing:
    body = await read_model(request, ClosePeriod, CHECK_BYTES_MAX)
    async with writing(wired.reads, response) as connection:
        return await close_period(connection, account_id, period, author_of(request), body.reason)
