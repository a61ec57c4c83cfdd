"""Where an operation's events go: into the journal, whatever it takes; or to the ledger at once."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol
from uuid import UUID

import structlog

from contracts import spans
from contracts.client.background import Background
from contracts.client.delivery import EventDelivery
from contracts.client.errors import LedgerRefused, LedgerUnavailable, OutcomeNotRecorded, RecordingUnavailable
from contracts.client.journal import AlreadyBegunError, Journal, JournalUnavailableError, Unfinished
from contracts.client.recovery import InDoubt, Recover, Recovery
from contracts.client.usage_events import Completion, operation_completed, operation_failed, outcome_of
from contracts.events import OperationCompleted, OperationFailed, OperationRequested, event_to_json
from contracts.identifiers import uuid7
from contracts.problems import INTERNAL, OPERATION_IN_PROGRESS, Problem, ProblemError, problem
from contracts.tracing import trace_of

RETRY_SECONDS_FIRST: Final = 0.2
RETRY_SECONDS_MAX: Final = 10.0
RECOVERIES_AT_ONCE_MAX: Final = 64

_log = structlog.stdlib.get_logger(__name__)

#: What the callers of a failed operation are told; kept in the journal for repeats of its idempotency key.
ProblemOf = Callable[[OperationFailed], Problem]


class Recorder(Protocol):
    @property
    def source(self) -> str:
        """Of the events."""
        ...

    @property
    def waiting(self) -> frozenset[UUID]:
        """Operations whose outcome is known and not recorded yet."""
        ...

    async def begin(self, requested: OperationRequested) -> None:
        """Raises RecordingUnavailable: then nothing may be started. ProblemError: it runs already."""
        ...

    async def note(self, operation_id: UUID, note: str) -> None:
        """Keep what finds the call again after a restart. Raises RecordingUnavailable."""
        ...

    async def finish(self, outcome: OperationCompleted | OperationFailed) -> None:
        """Raises OutcomeNotRecorded."""
        ...


class JournalRecorder:
    """A journal that cannot take an outcome now delays nobody: it is tried again until it is in.

    What waits here is bounded by the operations in flight, because a journal in that state admits no new ones; after
    a crash meanwhile, the intent in the journal still owes its outcome to recovery.
    """

    def __init__(self, journal: Journal, background: Background, problem_of: ProblemOf | None) -> None:
        self._journal = journal
        self._background = background
        self._problem_of = problem_of
        self._waiting: set[UUID] = set()

    @property
    def waiting(self) -> frozenset[UUID]:
        return frozenset(self._waiting)

    @property
    def source(self) -> str:
        return self._journal.source

    async def begin(self, requested: OperationRequested) -> None:
        try:
            await self._journal.begin(requested)
        except JournalUnavailableError as error:
            raise RecordingUnavailable(str(error)) from error
        except AlreadyBegunError as error:
            raise ProblemError(OPERATION_IN_PROGRESS, str(error)) from error

    async def note(self, operation_id: UUID, note: str) -> None:
        try:
            await self._journal.note(operation_id, note)
        except JournalUnavailableError as error:
            raise RecordingUnavailable(str(error)) from error

    async def finish(self, outcome: OperationCompleted | OperationFailed) -> None:
        """Returns when the outcome is durable, or when it is certain that it is not yet, and is being retried."""
        try:
            await self._finish(outcome)
        except JournalUnavailableError as error:
            _log.error("outcome_delayed", operation_id=str(outcome.data.operation_id), reason=str(error))
            self._waiting.add(outcome.data.operation_id)
            self._background.start(self._retry(outcome))

    async def _retry(self, outcome: OperationCompleted | OperationFailed) -> None:
        pause = RETRY_SECONDS_FIRST
        while True:
            await asyncio.sleep(pause)
            try:
                await self._finish(outcome)
            except JournalUnavailableError:
                pause = min(pause * 2, RETRY_SECONDS_MAX)
            else:
                self._waiting.discard(outcome.data.operation_id)
                _log.info("outcome_recorded", operation_id=str(outcome.data.operation_id))
                return

    async def _finish(self, outcome: OperationCompleted | OperationFailed) -> None:
        problem = None
        if self._problem_of is not None and isinstance(outcome, OperationFailed):
            problem = _told(self._problem_of, outcome).model_dump_json()
        await self._journal.finish(outcome, problem=problem)


def _told(problem_of: ProblemOf, outcome: OperationFailed) -> Problem:
    try:
        return problem_of(outcome)
    except Exception as error:  # noqa: BLE001  a service's own code; what was billed is to be recorded all the same
        _log.error("problem_not_made", operation_id=str(outcome.data.operation_id), exc_info=error)
        return problem(INTERNAL, f"the operation failed: {outcome.data.error.code}")


class DirectRecorder:
    """Without a journal: each event is with the ledger, or with the broker, before the operation goes on."""

    def __init__(self, delivery: EventDelivery, source: str) -> None:
        self._delivery = delivery
        self.source = source
        self.waiting: frozenset[UUID] = frozenset()

    async def begin(self, requested: OperationRequested) -> None:
        try:
            await self._delivery.deliver([requested])
        except LedgerUnavailable as error:
            raise RecordingUnavailable(error.reason) from error
        except LedgerRefused as refused:
            raise RecordingUnavailable(str(refused)) from refused

    async def note(self, operation_id: UUID, note: str) -> None:
        """Nothing outlasts this process, so there is nothing to find again."""
        del operation_id, note

    async def finish(self, outcome: OperationCompleted | OperationFailed) -> None:
        try:
            await self._delivery.deliver([outcome])
        except (LedgerUnavailable, LedgerRefused) as error:
            # Also in the log: the caller may have been cancelled, and then hears of nothing.
            _log.error("outcome_not_recorded", reason=str(error), outcome=event_to_json(outcome).decode())
            raise OutcomeNotRecorded(outcome, str(error)) from error


async def recovered(
    recover: Recover, requested: OperationRequested, note: str | None
) -> OperationCompleted | OperationFailed:
    """The outcome of an operation that nobody answers for any more."""
    about = {"ledger.operation_id": str(requested.data.operation_id)}
    try:
        with spans.span("recover", spans.CLIENT, about, parent=trace_of(requested)):
            recovery = await recover(requested, note)
    except (Exception, asyncio.CancelledError) as error:  # a service's own code; the operation needs its outcome
        if _is_cancelled():
            raise
        _log.error("recovery_failed", operation_id=str(requested.data.operation_id), exc_info=error)
        recovery = InDoubt("what became of the call could not be found out")
    try:
        return _event_of(recovery, requested)
    except Exception as error:  # noqa: BLE001  numbers that no event may have, or no numbers
        _log.error("recovery_invalid", operation_id=str(requested.data.operation_id), reason=repr(error))
        return _event_of(InDoubt("what was found out of the call is not valid"), requested)


def _is_cancelled() -> bool:
    """Whether the task is to end; else a CancelledError is that of something it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _event_of(recovery: Recovery, requested: OperationRequested) -> OperationCompleted | OperationFailed:
    now = datetime.now(UTC)
    duration_ms = round((now - requested.time).total_seconds() * 1000)
    outcome = outcome_of(recovery, requested)
    if isinstance(outcome, Completion):
        return operation_completed(requested, outcome, event_id=uuid7(), now=now, duration_ms=duration_ms)
    return operation_failed(requested, outcome, event_id=uuid7(), now=now, duration_ms=duration_ms)


async def recover_left(left: list[Unfinished], recover: Recover, recorder: Recorder) -> None:
    """Give every operation that a crash left behind its outcome. ``left`` is read before new operations start.

    Several at once: one whose provider is still at it must not keep the others waiting.
    """
    places = asyncio.Semaphore(RECOVERIES_AT_ONCE_MAX)

    async def recover_one(operation: Unfinished) -> None:
        async with places:
            outcome = await recovered(recover, operation.requested, operation.note)
        code = outcome.data.error.code if isinstance(outcome, OperationFailed) else "completed"
        _log.warning("operation_recovered", operation_id=str(outcome.data.operation_id), outcome=code)
        await recorder.finish(outcome)

    async with asyncio.TaskGroup() as tasks:
        for operation in left:
            tasks.create_task(recover_one(operation))


async def unknown(requested: OperationRequested, note: str | None) -> InDoubt:
    """For services that cannot ask their provider."""
    del requested, note
    return InDoubt("the process ended, or the call was given up, before its outcome was known")
