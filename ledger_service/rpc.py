"""The ledger as a NATS service: the same calls, the same JSON, the same answers as over HTTP."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final

import structlog
from nats.aio.client import Client
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import EndpointConfig

from contracts import spans
from contracts.problems import TOO_LARGE, ProblemError
from contracts.subjects import SERVICE_NAME
from contracts.tracing import TRACEPARENT, parse_traceparent
from ledger_service.calls import NATS_ENDPOINTS, Calls, problem_of

log = structlog.get_logger()

SERVICE_VERSION: Final = "1.0.0"
#: What headers and subject of an answer may take of the server's maximum.
_HEADER_BYTES: Final = 1024


async def serve_calls(connection: Client, calls: Calls, stack: AsyncExitStack) -> None:
    """Answers NATS_ENDPOINTS until the stack closes; several ledgers share the work.

    An error is a service error whose code is the HTTP status, with the problem as its data.
    """
    replies = _Replies(connection.max_payload)
    sending = asyncio.create_task(replies.send())
    stack.callback(sending.cancel)

    def handler(call: Callable[[Calls, bytes], Awaitable[bytes]]) -> Callable[[Request], Awaitable[None]]:
        async def on_request(request: Request) -> None:
            # nats.micro awaits one handler after another; only the batcher may make a check wait for others.
            try:
                answering = asyncio.ensure_future(call(calls, request.data))
                if spans.enabled():
                    _tell_answer(request, answering)
                replies.expect(request, answering)
            except Exception as error:  # noqa: BLE001 - whoever asked must hear of it
                replies.add(request, error)

        return on_request

    service = await add_service(connection, name=SERVICE_NAME, version=SERVICE_VERSION)
    stack.push_async_callback(service.stop)
    for endpoint in NATS_ENDPOINTS:
        config = EndpointConfig(name=endpoint.name, subject=endpoint.subject, handler=handler(endpoint.call))
        await service.add_endpoint(config)


def _tell_answer(request: Request, answering: asyncio.Future[bytes]) -> None:
    began_at_ns = time.time_ns()
    parent = parse_traceparent((request.headers or {}).get(TRACEPARENT, ""))
    about = {"rpc.system": "nats", "rpc.method": request.subject}

    def on_done(answered: asyncio.Future[bytes]) -> None:
        failed = answered.cancelled() or answered.exception() is not None
        spans.record(request.subject, spans.SERVER, parent, began_at_ns, about, failed=failed)

    answering.add_done_callback(on_done)


class _Replies:
    """Sends answers one after another. A batch of checks is answered in one go: a task for each would cost more than
    the sending."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max - _HEADER_BYTES
        self._expected: set[asyncio.Future[bytes]] = set()
        self._answered: deque[tuple[Request, bytes | Exception]] = deque()
        self._some = asyncio.Event()

    def expect(self, request: Request, answering: asyncio.Future[bytes]) -> None:
        """Answers the request once this is done, with what it ends in."""

        def on_done(answering: asyncio.Future[bytes]) -> None:
            self._expected.discard(answering)
            if not answering.cancelled():  # else the ledger stops
                error = answering.exception()
                self.add(request, error if isinstance(error, Exception) else answering.result())

        self._expected.add(answering)
        answering.add_done_callback(on_done)

    def add(self, request: Request, answer: bytes | Exception) -> None:
        self._answered.append((request, answer))
        self._some.set()

    async def send(self) -> None:
        """Sends until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            while self._answered:
                try:
                    await self._respond(*self._answered.popleft())
                except Exception as error:  # noqa: BLE001 - the next answers are others'
                    # Nobody to answer, or no connection: the caller asks again, and a hold nobody knows of expires.
                    log.warning("answer_lost", error=str(error) or type(error).__name__)

    async def _respond(self, request: Request, answer: bytes | Exception) -> None:
        if isinstance(answer, bytes) and len(answer) > self._bytes_max:
            detail = f"the answer has {len(answer)} bytes, too many for NATS: ask for less at once, or over HTTP"
            answer = ProblemError(TOO_LARGE, detail)
        if isinstance(answer, bytes):
            await request.respond(answer)
        else:
            refusal = problem_of(answer)
            await request.respond_error(str(refusal.status), refusal.detail, refusal.model_dump_json().encode())
