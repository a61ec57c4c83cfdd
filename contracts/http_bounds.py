"""What one client may take of an HTTP service: bytes of headers and body, the time to send them, connections.

uvicorn bounds none of these on httptools. A proxy in front may do so too, and by address; but a service that is reached
without one must not fall to a slow or endless client.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from contracts.access.rates import neighbourhood
from contracts.http_problems import problem_response
from contracts.problems import (
    CONTENT_TYPE,
    HEADERS_TOO_LARGE,
    MALFORMED_REQUEST,
    OVERLOADED,
    REQUEST_TIMEOUT,
    TOO_LARGE,
    ProblemType,
    problem,
)

log = structlog.get_logger()

#: In the state of a request: what to call once the server stops, and that it does.
_UPGRADE: Final = re.compile(rb"(?<=\r\n)upgrade(?=[ \t]*:)", re.IGNORECASE)
_AT_SHUTDOWN: Final = "usage_ledger.at_shutdown"
_STOPS: Final = "usage_ledger.stops"


@dataclass(frozen=True)
class Bounds:
    """Of one process. They hold before anything of a request is looked at."""

    #: Request line and headers together.
    head_bytes_max: int = 32 * 1024
    #: From the connection, or a further request's first byte, to the end of its headers.
    head_seconds_max: float = 15.0
    #: A body of which less than this comes in body_seconds is given up, unless it is we who do not read on.
    body_bytes_min: int = 4 * 1024
    body_seconds: float = 15.0
    #: Of a body that was answered before its end: read and dropped, as many clients read no answer until they are done.
    dropped_bytes_max: int = 32 * 1024 * 1024
    #: A client that takes nothing of an answer for so long is cut off: what makes the answer is held up by it.
    reader_seconds_max: float = 60.0
    #: After a refusal the client gets so long to read it.
    linger_seconds: float = 2.0
    connections_max: int = 2_000
    #: Of those, from one address (of IPv6: a /64).
    connections_per_address_max: int = 1_000


def bounds_for(
    connections_max: int, per_address_max: int, slow_client_seconds: float, slow_reader_seconds: float = 60.0
) -> Bounds:
    """The usual ones, with what services have settings for."""
    return Bounds(
        reader_seconds_max=slow_reader_seconds,
        connections_max=connections_max,
        connections_per_address_max=per_address_max,
        head_seconds_max=slow_client_seconds,
        body_seconds=slow_client_seconds,
    )


def bounded_protocol(bounds: Bounds) -> type[HttpToolsProtocol]:
    """The protocol class for ``uvicorn.Config(http=…)``."""

    class Bounded(_BoundedProtocol):
        _bounds = bounds
        _open: ClassVar[dict[str, int]] = {}

    return Bounded


class _BoundedProtocol(HttpToolsProtocol):
    """Timers run only while something is awaited: a request that comes in one piece costs a few comparisons."""

    _bounds: Bounds
    #: Connections by address.
    _open: ClassVar[dict[str, int]]
    _address: str | None = None
    _in_head = True
    _in_body = False
    _arrived_bytes = 0
    #: Of the piece that has just arrived: a request ended in it.
    _has_ended = False
    _head_bytes = 0
    _head_too_large = False
    _body_bytes = 0
    _dropped_bytes = 0
    _refused = False
    #: Being answered; uvicorn's own `cycle` is the one that came last, which may wait behind it.
    _served: RequestResponseCycle | None = None
    _timer: Any = None  # asyncio's handle, of which only cancel() is called
    _reader_timer: Any = None  # as above

    def connection_made(self, transport: Any) -> None:  # Any: asyncio's transport, as uvicorn has it
        super().connection_made(transport)
        bounds, opened = self._bounds, 0
        if self.client is not None:
            self._address = neighbourhood(self.client[0])
            opened = self._open[self._address] = self._open.get(self._address, 0) + 1
        if len(self.connections) > bounds.connections_max:
            self._refuse(OVERLOADED, f"{bounds.connections_max} connections are open")
        elif opened > bounds.connections_per_address_max:
            self._refuse(OVERLOADED, f"{bounds.connections_per_address_max} connections are open from this address")
        else:
            self._wait(self._bounds.head_seconds_max, self._on_head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._reader_goes_on()
        if self._address is not None:
            left = self._open.pop(self._address) - 1
            if left:
                self._open[self._address] = left
        self._end_served()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # Any: an ASGI app, as uvicorn has it
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader_goes_on()
        self._reader_timer = self.loop.call_later(self._bounds.reader_seconds_max, self._on_reader_timeout)

    def resume_writing(self) -> None:
        self._reader_goes_on()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return  # what still comes is nobody's
        if not self._in_body and (b"pgrade" in data or b"PGRADE" in data):
            data = _without_upgrade(data)
        self._arrived_bytes, self._has_ended = len(data), False
        super().data_received(data)
        self._watch(len(data))

    def _watch(self, arrived_bytes: int) -> None:
        """Waits for what is yet to come."""
        if self._refused:
            return
        if self._in_head:
            # Where another request ended in the same piece, most of it may be that one's body.
            self._head_bytes += 1 if self._has_ended else arrived_bytes
            if self._head_bytes > self._bounds.head_bytes_max:
                self._refuse_head()
            elif self._timer is None:
                self._wait(self._bounds.head_seconds_max, self._on_head_timeout)
        elif self._in_body and self._timer is None:
            self._watch_body()
        elif self._timer is None and self._is_idle():
            # Line breaks before a request begin none, and yet end uvicorn's wait for one.
            self._wait(self._bounds.head_seconds_max, self.transport.close)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        # Counted only where what came with them is large enough: that is almost never.
        if self._head_bytes + self._arrived_bytes > self._bounds.head_bytes_max:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > self._bounds.head_bytes_max:
                self._head_too_large = True
                raise ValueError("headers too large")  # ends the parser, which ends in send_400_response
        self._in_head, self._in_body, self._body_bytes, self._dropped_bytes = False, True, 0, 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self.cycle.response_complete:
            self._dropped_bytes += len(body)
            if self._dropped_bytes > self._bounds.dropped_bytes_max:
                self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body, self._has_ended = False, True
        self._stop_waiting()
        super().on_message_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            # uvicorn forgets this one where the answer came first: the connection would stay for ever.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def shutdown(self) -> None:
        """What uvicorn calls for each connection once the server stops: it waits for answers that have begun."""
        super().shutdown()
        cycle = self._served
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
            state = cycle.scope["state"]
            state[_STOPS] = True
            end: Callable[[], None] | None = state.get(_AT_SHUTDOWN)
            if end is not None:
                end()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls where the parser, or a callback above, gives up."""
        if self._head_too_large:
            self._refuse_head()
        else:
            self._refuse(MALFORMED_REQUEST, msg)

    def _is_idle(self) -> bool:
        return (
            not (self._in_head or self._in_body or self._refused)
            and self.cycle.response_complete
            and self.timeout_keep_alive_task is None
            and not self.transport.is_closing()
        )

    def _end_served(self) -> None:
        """Tells whoever answers that nobody listens any more; what waits behind it is nobody's."""
        self.pipeline.clear()
        if self._served is not None and not self._served.response_complete:
            self._served.disconnected = True
            self._served.message_event.set()

    def _watch_body(self) -> None:
        before = self._body_bytes

        def look() -> None:
            self._timer = None
            ours = self.flow.read_paused or self.cycle.waiting_for_100_continue
            if self._body_bytes - before < self._bounds.body_bytes_min and not ours:
                self._refuse(REQUEST_TIMEOUT, "the body does not come")
            else:
                self._watch_body()

        self._wait(self._bounds.body_seconds, look)

    def _on_head_timeout(self) -> None:
        if self._head_bytes:
            self._refuse(REQUEST_TIMEOUT, f"the headers took more than {self._bounds.head_seconds_max:g} seconds")
        else:
            self.transport.close()

    def _on_reader_timeout(self) -> None:
        self._reader_timer = None
        log.info("client_cut_off", detail="it takes nothing of its answer", client=self.client)
        # Not close(), which waits for what the client does not take.
        self.transport.abort()

    def _reader_goes_on(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _is_behind(self) -> bool:
        """Whether what is refused comes after a request whose answer is yet to come: it would be taken for that one."""
        served = self._served
        return served is not None and not served.response_started and not (self._in_body and served is self.cycle)

    def _end_after_served(self) -> None:
        assert self._served is not None
        self._served.keep_alive = False
        self.pipeline.clear()
        self._stop_waiting()

    def _has_begun_to_answer(self) -> bool:
        """What has begun cannot be taken back: then only the end of the connection tells."""
        served = self._served
        return served is not None and served.response_started and (self._in_body or not served.response_complete)

    def _refuse_head(self) -> None:
        self._refuse(HEADERS_TOO_LARGE, f"request line and headers may have {self._bounds.head_bytes_max} bytes")

    def _refuse(self, kind: ProblemType, detail: str) -> None:
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        log.info("client_refused", code=kind.code, detail=detail, client=self.client)
        if self._is_behind():
            self._end_after_served()
            return
        if not self._has_begun_to_answer():
            body = problem(kind, detail).model_dump_json().encode()
            self.transport.write(
                b"%bcontent-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
                % (STATUS_LINE[kind.status], CONTENT_TYPE.encode(), len(body), body)
            )
        self._end_served()
        self._unset_keepalive_if_required()
        self._stop_waiting()
        if kind is OVERLOADED:
            self.transport.close()
        else:
            # Closed at once, with bytes of it unread, the connection is reset, and the client never sees the answer.
            self.flow.resume_reading()
            self._wait(self._bounds.linger_seconds, self.transport.close)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._timer = self.loop.call_later(seconds, then)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _without_upgrade(data: bytes) -> bytes:
    """Requests as if they asked for no other protocol (RFC 9110, 7.8: that may be ignored). The parser would take what
    follows for that protocol: clients that offer HTTP/2, as Java's do by themselves, would lose their bodies."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"Ignored", head) + end + rest


def at_shutdown(scope: Scope, end: Callable[[], None]) -> None:
    """Of a request that has no end of its own: what to call once the server stops, so that it ends. Called at once
    where it stops already."""
    state = scope["state"]
    state[_AT_SHUTDOWN] = end
    if state.get(_STOPS):
        end()


class BoundedBodies:
    """ASGI layer: bodies are refused where they say that they are too large, and where they turn out to be.

    Before FastAPI reads one: its own models are read after the whole body is in memory.
    """

    def __init__(self, app: ASGIApp, bytes_max: Callable[[str], int]) -> None:
        self._app = app
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        bytes_max = self._bytes_max(scope["path"])
        if declared is None:
            await self._app(scope, _counted(receive, bytes_max), send)
        elif int(declared) <= bytes_max:
            await self._app(scope, receive, send)  # the parser holds it to what it declared
        else:
            response = problem_response(problem(TOO_LARGE, _too_large(bytes_max)), TOO_LARGE)
            await response(scope, receive, send)


def _counted(receive: Receive, bytes_max: int) -> Receive:
    received = 0

    async def counting() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > bytes_max:
            # One that FastAPI lets through wherever it reads a body; see http_problems.
            raise HTTPException(TOO_LARGE.status, _too_large(bytes_max))
        return message

    return counting


def _too_large(bytes_max: int) -> str:
    return f"at most {bytes_max} bytes a request"
