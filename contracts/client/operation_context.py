"""What surrounds one paid operation: its check and its record before, its outcome after, however that ends."""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Final
from uuid import UUID

import structlog

from contracts import spans
from contracts.client.allowances import Draw
from contracts.client.background import Background
from contracts.client.checks import Checks
from contracts.client.errors import (
    LedgerUnavailable,
    OperationDenied,
    OutcomeNotRecorded,
    RecordingUnavailable,
    TokenRefused,
)
from contracts.client.leases import Leases
from contracts.client.operation import Operation, Outcome
from contracts.client.planning import Plan
from contracts.client.recording import Recorder, recovered
from contracts.client.recovery import InDoubt, Recover, Recovery
from contracts.client.releases import Releases
from contracts.client.repeats import Repeats
from contracts.client.usage_events import (
    Failure,
    operation_failed,
)
from contracts.events import OperationRequested
from contracts.identifiers import uuid7
from contracts.limits import Decision
from contracts.problems import ProblemError
from contracts.tracing import current, extension_of

CANCELLED: Final = "cancelled"

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Parts:
    """What all operations of a client share."""

    checks: Checks
    recorder: Recorder
    releases: Releases
    leases: Leases
    repeats: Repeats
    background: Background
    recover: Recover | None


class OperationContext:
    """Check, requested, the body, outcome. Enter it once."""

    def __init__(self, plan: Plan, parts: Parts) -> None:
        self._plan = plan
        self._parts = parts
        self._operation: Operation | None = None
        self._draw: Draw | None = None
        self._taking_back = False

    async def __aenter__(self) -> Operation:
        operation_id = self._plan.check.operation_id
        self._parts.repeats.start(operation_id)
        started = time.monotonic()
        try:
            decision = await self._admit()
            requested = await self._record_requested(decision)
        except BaseException:
            if not self._taking_back:  # which does so, once it knows what it has come to
                self._parts.repeats.forget(operation_id)
                self._end_draw(delivered=True)
            raise
        self._operation = Operation(
            decision, requested, self._parts.checks, self._parts.recorder, started, self._plan.hold_seconds
        )
        return self._operation

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        operation = self._operation
        assert operation is not None
        said = operation.conclude(error, self._plan.doubtful)
        # In a task of its own, so that a caller that is cancelled, even twice, does not stop it.
        try:
            await asyncio.shield(self._parts.background.start(self._record_outcome(operation, said)))
        except OutcomeNotRecorded:
            if error is None or isinstance(error, Exception):
                raise
            return  # a cancellation has to go on; the event is in the log
        if error is None and operation.said_nothing:
            raise RuntimeError(f"operation {operation.operation_id} ended without an outcome; it is recorded in doubt")

    async def _admit(self) -> Decision:
        check = self._plan.check
        try:
            with spans.span("limit check", spans.CLIENT, {"ledger.operation_id": str(check.operation_id)}):
                decision = await self._parts.checks.check(check)
        except TokenRefused:
            raise
        except LedgerUnavailable as error:
            _log.warning("ledger_unavailable", operation_id=str(check.operation_id), reason=error.reason)
            if error.outcome_unknown:
                self._release()
            # Should the ledger hold it as well, that is more held, and never less.
            self._draw = self._parts.leases.admit(check, self._plan.hold_seconds)
            if self._draw is None:
                raise
            _log.info("admitted_under_lease", operation_id=str(check.operation_id), lease_id=str(self._draw.lease_id))
            return self._draw.decision
        except asyncio.CancelledError:
            self._release()
            raise
        if not decision.allowed:
            raise OperationDenied(decision)
        self._parts.leases.offered(check, decision)
        return decision

    async def _record_requested(self, decision: Decision) -> OperationRequested:
        draft = self._plan.requested
        estimate = draft.data.estimated_cost or decision.estimated_cost or 0
        data = draft.data.model_copy(update={"estimated_cost": estimate})
        lease_id = None if self._draw is None else self._draw.lease_id
        own = {"time": datetime.now(UTC), "data": data, "leaseid": lease_id, **extension_of(current())}
        requested = draft.model_copy(update=own)
        beginning = self._parts.background.start(self._parts.recorder.begin(requested))
        try:
            await asyncio.shield(beginning)
        except RecordingUnavailable as error:
            _log.error("recording_unavailable", operation_id=str(requested.data.operation_id), reason=error.reason)
            self._release()
            raise
        except asyncio.CancelledError:
            self._taking_back = True
            self._parts.background.start(self._take_back(requested, beginning))
            raise
        return requested

    async def _take_back(self, requested: OperationRequested, beginning: "asyncio.Task[None]") -> None:
        """The caller went away before its call. Its id is free again only where nothing was recorded under it."""
        operation_id = requested.data.operation_id
        try:
            await beginning
        except ProblemError as error:
            if isinstance(error, RecordingUnavailable):  # else somebody else runs under this id, and holds it
                self._release()
            self._end_draw(delivered=True)
            self._parts.repeats.forget(operation_id)
            return
        failure = Failure(CANCELLED, "cancelled before the call")
        event = operation_failed(requested, failure, event_id=uuid7(), now=datetime.now(UTC), duration_ms=0)
        try:
            await self._finish(event)
        finally:
            self._over(operation_id)

    async def _record_outcome(self, operation: Operation, said: Outcome | InDoubt) -> None:
        try:
            if isinstance(said, InDoubt):
                recover = self._parts.recover or _known_only(said)
                said = await recovered(recover, operation.asked, operation.noted)
            operation.outcome = said
            await self._finish(said)
        finally:
            self._over(operation.operation_id)

    async def _finish(self, outcome: Outcome) -> None:
        if self._draw is not None:
            self._draw.settle(outcome)
        await self._parts.recorder.finish(outcome)
        self._end_draw(delivered=True)

    def _over(self, operation_id: UUID) -> None:
        self._end_draw(delivered=False)
        self._parts.repeats.finish(operation_id)

    def _end_draw(self, *, delivered: bool) -> None:
        if self._draw is not None:
            self._draw.end(delivered=delivered)

    def _release(self) -> None:
        if self._plan.release_if_lost:
            check = self._plan.check
            self._parts.releases.start(check.operation_id, check.account_id, self._plan.hold_seconds)


def _known_only(doubt: InDoubt) -> Recover:
    async def recover(requested: OperationRequested, note: str | None) -> Recovery:
        del requested, note
        return doubt

    return recover
