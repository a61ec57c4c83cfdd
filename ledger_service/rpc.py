"""The limit check over NATS request-reply: the same check, the same JSON, the same answers as over HTTP."""

import asyncio
from contextlib import AsyncExitStack
from typing import Final

import nats.errors
import structlog
from nats.aio.client import Client
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import EndpointConfig
from pydantic import ValidationError

from contracts.limits import LimitCheck
from contracts.problems import INTERNAL, STORE_UNAVAILABLE, Problem, ProblemError, invalid, problem
from contracts.subjects import LIMITS_CHECK, SERVICE_NAME
from ledger_service.limit_checks import LimitChecks
from ledger_service.store.pool import UNAVAILABLE, StoreUnavailableError

log = structlog.get_logger()

SERVICE_VERSION: Final = "1.0.0"
_UNAVAILABLE: Final[tuple[type[Exception], ...]] = (StoreUnavailableError, *UNAVAILABLE)


async def serve_limit_checks(connection: Client, limit_checks: LimitChecks, stack: AsyncExitStack) -> None:
    """Answers ``ledger.v1.limits.check`` until the stack closes; several ledgers share the work.

    An error is a service error whose code is the HTTP status, with the problem as its data.
    """
    running: set[asyncio.Task[None]] = set()

    async def on_request(request: Request) -> None:
        # nats.micro awaits one handler after another; only the batcher may make a check wait for others.
        task = asyncio.create_task(_answer(request, limit_checks))
        running.add(task)
        task.add_done_callback(running.discard)

    service = await add_service(connection, name=SERVICE_NAME, version=SERVICE_VERSION)
    stack.push_async_callback(service.stop)
    await service.add_endpoint(EndpointConfig(name="limits-check", subject=LIMITS_CHECK, handler=on_request))


async def _answer(request: Request, limit_checks: LimitChecks) -> None:
    try:
        try:
            await request.respond(await limit_checks.check(LimitCheck.model_validate_json(request.data)))
        except Exception as error:  # noqa: BLE001 - whoever asked must hear of it
            refusal = _problem_of(error)
            await request.respond_error(str(refusal.status), refusal.detail, refusal.model_dump_json().encode())
    except (nats.errors.Error, ValueError) as error:
        # Nobody to answer, or no connection: the caller asks again, and a hold that nobody knows of expires.
        log.warning("answer_lost", error=str(error) or type(error).__name__)


def _problem_of(error: Exception) -> Problem:
    if isinstance(error, ProblemError):
        return error.problem
    if isinstance(error, ValidationError):
        return invalid(error)
    if isinstance(error, _UNAVAILABLE):
        return problem(STORE_UNAVAILABLE, "nothing was lost; try again with the same operation_id")
    log.error("internal_error", exc_info=error)
    return problem(INTERNAL, "the error was logged")
