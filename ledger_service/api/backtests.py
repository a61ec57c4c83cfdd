"""What-if: proposed limits, tried on what the usage log has."""

from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from contracts.backtests import Backtest, BacktestLine
from ledger_service.api.bodies import json_body, read_model
from ledger_service.backtest_streams import BacktestStream
from ledger_service.services import services

router = APIRouter(prefix="/v1", tags=["what-if"])

CONTENT_TYPE: Final = "application/x-ndjson"
BODY_BYTES_MAX: Final = 1024 * 1024


class _Lines(StreamingResponse):
    """Stops the backtest however the response ends: read to its end, given up by the client, or by the server."""

    media_type = CONTENT_TYPE

    def __init__(self, stream: BacktestStream) -> None:
        super().__init__(stream.lines())
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.stop()


@router.post(
    "/limits:backtest",
    status_code=200,
    response_class=_Lines,
    responses={200: {"model": BacktestLine}},
    openapi_extra=json_body(Backtest),
)
async def backtest_limits(request: Request) -> Response:
    """Replays the usage log of a time against proposed limits: what would have been denied, and the cost saved.

    Changes nothing. Answers lines of JSON: ``{"progress": …}`` every half second, then ``{"result": …}``; or, where it
    breaks off in the middle, ``{"problem": …}``. A client that goes away ends it. One at a time in each process.
    """
    wanted = await read_model(request, Backtest, BODY_BYTES_MAX)
    wired = await services(request)
    return _Lines(await wired.backtests.start(wanted))
