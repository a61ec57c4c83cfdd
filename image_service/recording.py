"""Outcomes into the journal, whatever it takes; and what a crash left without an outcome."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from contracts.events import OperationCompleted, OperationFailed, OperationRequested
from contracts.identifiers import uuid7
from contracts.problems import OPERATION_FAILED, Problem, ProblemError
from image_service.background import Background
from image_service.journal import Journal, JournalUnavailableError, Unfinished
from image_service.providers.base import InDoubt, ProviderError, Recovery
from image_service.providers.registry import Providers
from image_service.usage_events import error_code, failure_of, operation_failed

RETRY_SECONDS_FIRST: Final = 0.2
RETRY_SECONDS_MAX: Final = 10.0

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Outcome:
    """An outcome event and how to keep it: for repeats of its key or not, and the problem that repeats are told."""

    event: OperationCompleted | OperationFailed
    keep: bool
    problem: Problem | None = None


class OutcomeRecorder:
    """Records outcomes. A journal that cannot take one now delays nobody: it is tried again until it is in.

    What waits here is bounded by the operations in flight, because a journal in that state admits no new ones; after
    a crash meanwhile, the intent in the journal still owes its outcome to recovery.
    """

    def __init__(self, journal: Journal, background: Background) -> None:
        self._journal = journal
        self._background = background

    async def record(self, outcome: Outcome) -> None:
        """Returns when the outcome is durable, or when it is certain that it is not yet, and is being retried."""
        try:
            await self._finish(outcome)
        except JournalUnavailableError as error:
            _log.error("outcome_delayed", operation_id=str(outcome.event.data.operation_id), reason=str(error))
            self._background.start(self._retry(outcome))

    async def _retry(self, outcome: Outcome) -> None:
        pause = RETRY_SECONDS_FIRST
        while True:
            await asyncio.sleep(pause)
            try:
                await self._finish(outcome)
            except JournalUnavailableError:
                pause = min(pause * 2, RETRY_SECONDS_MAX)
            else:
                _log.info("outcome_recorded", operation_id=str(outcome.event.data.operation_id))
                return

    async def _finish(self, outcome: Outcome) -> None:
        problem = None if outcome.problem is None else outcome.problem.model_dump_json()
        await self._journal.finish(outcome.event, keep=outcome.keep, problem=problem)


def operation_problem(requested: OperationRequested, error: ProviderError) -> ProblemError:
    """What the caller of a failed operation is told, then and on every repeat."""
    code = error_code(error.code)
    return ProblemError(
        OPERATION_FAILED,
        f"{requested.data.provider}: {error.message}",
        operation_id=str(requested.data.operation_id),
        provider=requested.data.provider,
        model=requested.data.model,
        error={"code": code, "message": error.message},
    )


def failed_outcome(requested: OperationRequested, error: ProviderError, *, keep: bool, duration_ms: int) -> Outcome:
    event = operation_failed(requested, error, event_id=uuid7(), now=datetime.now(UTC), duration_ms=duration_ms)
    return Outcome(event, keep, operation_problem(requested, error).problem)


async def recovery_of(providers: Providers, requested: OperationRequested, job_id: str | None) -> Recovery:
    """What the provider says of a call that nobody waits for any more."""
    provider = providers.find(requested.data.provider)
    if provider is None:
        return InDoubt(f"the provider {requested.data.provider} is no longer configured")
    return await provider.recover(requested.data.model, job_id)


async def recover(left: list[Unfinished], providers: Providers, recorder: OutcomeRecorder) -> None:
    """Give every operation that a crash left behind its outcome. ``left`` is read before new operations start."""
    for operation in left:
        requested = operation.requested
        recovery = await recovery_of(providers, requested, operation.provider_job_id)
        error = failure_of(recovery, requested)
        elapsed = datetime.now(UTC) - requested.time
        duration_ms = max(0, round(elapsed.total_seconds() * 1000))
        _log.warning("operation_recovered", operation_id=str(requested.data.operation_id), outcome=error.code)
        await recorder.record(failed_outcome(requested, error, keep=operation.keep, duration_ms=duration_ms))
