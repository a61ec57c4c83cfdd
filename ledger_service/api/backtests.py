"""What-if: proposed limits, tried on what the usage log has."""

from typing import Final

from fastapi import APIRouter, Request, Response

from contracts.access.errors import Forbidden
from contracts.access.guard import bound_account
from contracts.access.rules import not_your_account
from contracts.backtests import Backtest, BacktestLine
from ledger_service.api.access import LedgerRoute
from ledger_service.api.bodies import json_body, read_model
from ledger_service.api.lines import LinesResponse
from ledger_service.services import services

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["what-if"])

BODY_BYTES_MAX: Final = 1024 * 1024


@router.post(
    "/limits:backtest",
    status_code=200,
    response_class=LinesResponse,
    responses={200: {"model": BacktestLine}},
    openapi_extra=json_body(Backtest),
)
async def backtest_limits(request: Request) -> Response:
    """Replays the usage log of a time against proposed limits: what would have been denied, and the cost saved.

    Changes nothing. Answers lines of JSON: ``{"progress": …}`` every half second, then ``{"result": …}``; or, where it
    breaks off in the middle, ``{"problem": …}``. A client that goes away ends it. One at a time in each process.
    """
    wanted = _within(await read_model(request, Backtest, BODY_BYTES_MAX), bound_account(request))
    wired = await services(request)
    return LinesResponse(await wired.backtests.start(wanted))


def _within(wanted: Backtest, only: str | None) -> Backtest:
    """What a token that is bound to an account may try: on its own account, and no plan that may be others'."""
    if only is None:
        return wanted
    if wanted.account_id not in (None, only):
        raise not_your_account()
    if wanted.plan_id is not None:
        raise Forbidden("the token is bound to an account, and stored plans are for all: send plan or limits instead")
    return wanted.model_copy(update={"account_id": only})
