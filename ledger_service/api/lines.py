"""Answers that come line by line."""

from typing import Final

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ledger_service.line_streams import LineStream

CONTENT_TYPE: Final = "application/x-ndjson"


class LinesResponse(StreamingResponse):
    """Stops the work however the response ends: read to its end, given up by the client, or by the server."""

    media_type = CONTENT_TYPE

    def __init__(self, stream: LineStream) -> None:
        super().__init__(stream.lines())
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.stop()
