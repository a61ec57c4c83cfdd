"""The ledger as a NATS service: the same calls, the same JSON, the same answers as over HTTP."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final

import nats.errors
import structlog
from nats.aio.client import Client
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import EndpointConfig

from contracts.problems import INTERNAL, TOO_LARGE, Problem, ProblemError, problem
from contracts.subjects import SERVICE_NAME
from ledger_service.calls import NATS_ENDPOINTS, STORE_ERRORS, Calls, store_unavailable

log = structlog.get_logger()

SERVICE_VERSION: Final = "1.0.0"
#: What headers and subject of an answer may take of the server's maximum.
_HEADER_BYTES: Final = 1024


async def serve_calls(connection: Client, calls: Calls, stack: AsyncExitStack) -> None:
    """Answers NATS_ENDPOINTS until the stack closes; several ledgers share the work.

    An error is a service error whose code is the HTTP status, with the problem as its data.
    """
    running: set[asyncio.Task[None]] = set()

    def handler(call: Callable[[Calls, bytes], Awaitable[bytes]]) -> Callable[[Request], Awaitable[None]]:
        async def on_request(request: Request) -> None:
            # nats.micro awaits one handler after another; only the batcher may make a check wait for others.
            task = asyncio.create_task(_answer(request, call(calls, request.data), connection.max_payload))
            running.add(task)
            task.add_done_callback(running.discard)

        return on_request

    service = await add_service(connection, name=SERVICE_NAME, version=SERVICE_VERSION)
    stack.push_async_callback(service.stop)
    for endpoint in NATS_ENDPOINTS:
        config = EndpointConfig(name=endpoint.name, subject=endpoint.subject, handler=handler(endpoint.call))
        await service.add_endpoint(config)


async def _answer(request: Request, answering: Awaitable[bytes], bytes_max: int) -> None:
    try:
        try:
            answer = await answering
            if len(answer) > bytes_max - _HEADER_BYTES:
                detail = f"the answer has {len(answer)} bytes, too many for NATS: ask for less at once, or over HTTP"
                raise ProblemError(TOO_LARGE, detail)
            await request.respond(answer)
        except Exception as error:  # noqa: BLE001 - whoever asked must hear of it
            refusal = _problem_of(error)
            await request.respond_error(str(refusal.status), refusal.detail, refusal.model_dump_json().encode())
    except (nats.errors.Error, ValueError) as error:
        # Nobody to answer, or no connection: the caller asks again, and a hold that nobody knows of expires.
        log.warning("answer_lost", error=str(error) or type(error).__name__)


def _problem_of(error: Exception) -> Problem:
    if isinstance(error, ProblemError):
        return error.problem
    if isinstance(error, STORE_ERRORS):
        return store_unavailable(error).problem
    log.error("internal_error", exc_info=error)
    return problem(INTERNAL, "the error was logged")
