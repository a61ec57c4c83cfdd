"""Repricing: what the catalogue as it is now would change of what was recorded, and then the change."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from contracts.access.guard import bound_account
from contracts.access.rules import not_your_account
from contracts.repricings import Repricing, RepricingLine
from ledger_service.api.access import LedgerRoute
from ledger_service.api.adjustments import author_of
from ledger_service.api.bodies import json_body, read_model
from ledger_service.api.lines import LinesResponse
from ledger_service.calls import CHECK_BYTES_MAX
from ledger_service.services import Services, services

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["corrections"])

Wired = Annotated[Services, Depends(services)]


@router.post(
    "/repricings",
    status_code=200,
    response_class=LinesResponse,
    responses={200: {"model": RepricingLine}},
    openapi_extra=json_body(Repricing),
)
async def reprice(request: Request, wired: Wired) -> Response:
    """Rates completed operations again by the prices in force when they were admitted: at first as a dry run.

    With ``dry_run`` false each operation whose cost changes gets a re-rating, an adjustment of its own. The same
    ``repricing_id`` again goes on where the first ended, and adds nothing twice. Answers lines of JSON:
    ``{"progress": …}`` every half second, then ``{"result": …}``, or ``{"problem": …}`` where it breaks off; what was
    done by then stays done. A client that goes away ends it. One at a time in each process.
    """
    wanted = await read_model(request, Repricing, CHECK_BYTES_MAX)
    only = bound_account(request)
    if only is not None:
        if wanted.account_id not in (None, only):
            raise not_your_account()
        wanted = wanted.model_copy(update={"account_id": only})
    return LinesResponse(await wired.repricings.start(wanted, author_of(request)))
