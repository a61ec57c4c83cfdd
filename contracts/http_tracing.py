"""The trace of an HTTP request, for both services."""

from typing import TYPE_CHECKING, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts import spans
from contracts.tracing import CURRENT, TRACEPARENT, TraceContext, parse_traceparent

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

#: For FastAPI: spans and metrics are ours. It would look for a provider of its own at every request, which takes a
#: thirtieth of an operation's time.
NO_TELEMETRY: "Final[TelemetryConfig]" = {"tracing": False, "metrics": False, "logs": False}

_HEADER: Final = TRACEPARENT.encode()
_TRACED: Final = "/v1/"


class TracedRequests:
    """ASGI layer: what a request does belongs to the trace that its header names; where spans are exported, it is one
    of them, in that trace or a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_TRACED):
            await self._app(scope, receive, send)
            return
        parent = _trace_in(scope)
        if spans.enabled():
            await self._within_span(scope, receive, send, parent)
        elif parent is None:
            await self._app(scope, receive, send)
        else:
            token = CURRENT.set(parent)
            try:
                await self._app(scope, receive, send)
            finally:
                CURRENT.reset(token)

    async def _within_span(self, scope: Scope, receive: Receive, send: Send, parent: TraceContext | None) -> None:
        with spans.span(scope["method"], spans.SERVER, {"http.request.method": scope["method"]}, parent=parent) as span:

            async def telling(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.say("http.response.status_code", message["status"])
                await send(message)

            try:
                await self._app(scope, receive, telling)
            finally:
                route = getattr(scope.get("route"), "path", None)
                if route is not None:
                    span.name(f"{scope['method']} {route}")
                    span.say("http.route", route)


def _trace_in(scope: Scope) -> TraceContext | None:
    for name, value in scope["headers"]:
        if name == _HEADER:
            return parse_traceparent(value.decode("latin-1"))
    return None
