"""Corrections of what was recorded."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from contracts.access.guard import bound_account, principal_of_request
from contracts.access.rules import not_your_account
from contracts.adjustments import Adjustment, AdjustmentStored
from ledger_service.adjusting import adjust, try_adjustment
from ledger_service.api.access import LedgerRoute
from ledger_service.api.bodies import json_body, read_model
from ledger_service.api.moments import writing
from ledger_service.calls import CHECK_BYTES_MAX
from ledger_service.services import Services, services

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["corrections"])

Wired = Annotated[Services, Depends(services)]
AUTHOR_MAX = 128


def author_of(request: Request) -> str:
    """Who calls, as the log is told."""
    return principal_of_request(request).subject[:AUTHOR_MAX] or "unnamed"


@router.post("/adjustments", openapi_extra=json_body(Adjustment))
async def record_adjustment(
    request: Request,
    wired: Wired,
    response: Response,
    dry_run: Annotated[bool, Query(description="only say what would be recorded")] = False,
) -> AdjustmentStored:
    """Corrects what was recorded, by an event of its own: nothing that was recorded changes.

    Limits count it at once, in the windows of what it corrects. The same ``adjustment_id`` with the same body: the same
    answer, and no second effect. The author is whoever the token is of. With ``dry_run`` the answer, or the problem, is
    the same, and nothing is recorded.
    """
    wanted = await read_model(request, Adjustment, CHECK_BYTES_MAX)
    only = bound_account(request)
    if only not in (None, wanted.account_id):
        raise not_your_account()
    if dry_run:
        async with wired.writes.acquire() as connection:
            return await try_adjustment(connection, wanted, author_of(request))
    async with writing(wired.writes, response) as connection:
        return await adjust(connection, wanted, author_of(request))
