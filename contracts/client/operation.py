"""One paid operation: checked, recorded, done by the caller, and its outcome recorded, however that ends."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Final
from uuid import UUID

import structlog
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

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
from contracts.client.planning import Plan, invalid_arguments
from contracts.client.recording import Recorder, recovered
from contracts.client.recovery import InDoubt, Recover, Recovery
from contracts.client.releases import Releases
from contracts.client.repeats import Repeats
from contracts.client.usage_events import (
    Completion,
    Failure,
    operation_completed,
    operation_failed,
)
from contracts.events import OperationCompleted, OperationFailed, OperationRequested
from contracts.identifiers import uuid7
from contracts.limits import Decision
from contracts.money import COST_NANOS_MAX, parse_bounded, parse_nanos
from contracts.problems import ProblemError
from contracts.provider_calls import ProviderCall
from contracts.tracing import current, extension_of

CALLER_ERROR: Final = "caller_error"
CANCELLED: Final = "cancelled"

_log = structlog.stdlib.get_logger(__name__)

Outcome = OperationCompleted | OperationFailed


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


class Operation:
    """An admitted and recorded operation, within its context. Say once how it ended: `completed`, `failed` or
    `in_doubt`; nothing of that is sent before the context ends.

    Money is a decimal string (``"0.03"``). Bad arguments raise ProblemError, naming field and rule.
    """

    def __init__(
        self, decision: Decision, requested: OperationRequested, checks: Checks, recorder: Recorder, started: float
    ) -> None:
        #: The allowed decision, with the limits as they stand now, this operation's share held.
        self.decision = decision
        #: What was recorded before the provider is called.
        self.requested = requested
        #: The recorded outcome, once the context has ended.
        self.outcome: Outcome | None = None
        self._checks = checks
        self._started = started
        self._said: Outcome | InDoubt | None = None
        self._fallback: InDoubt | None = None
        self._billed_nanos: int | None = None
        self._ended = False
        self._recorder = recorder
        #: What was noted last.
        self.noted: str | None = None

    @property
    def operation_id(self) -> UUID:
        return self.requested.data.operation_id

    @property
    def lease_id(self) -> UUID | None:
        """The lease that admitted it, where the ledger could not be reached."""
        return self.requested.leaseid

    def completed(
        self,
        *,
        cost: str,
        quantity: int | None = None,
        actual_provider: str | None = None,
        actual_model: str | None = None,
        status_code: int | None = None,
        retry_count: int = 0,
        response_bytes: int = 0,
        provider_calls: Sequence[ProviderCall] = (),
    ) -> None:
        """The provider delivered, and billed ``cost``. ``quantity``, ``actual_…``: where they are not as requested.
        ``provider_calls``: with the job ids by which the provider's invoice is reconciled; costs add up to ``cost``."""

        def make() -> OperationCompleted:
            said = (actual_provider, actual_model, status_code, retry_count, response_bytes, tuple(provider_calls))
            completion = Completion(parse_nanos(cost), quantity, *said)
            return operation_completed(
                self.requested, completion, event_id=uuid7(), now=datetime.now(UTC), duration_ms=self._duration_ms()
            )

        self._say(make)

    def failed(
        self,
        code: str,
        message: str,
        *,
        cost: str = "0",
        actual_provider: str | None = None,
        actual_model: str | None = None,
        status_code: int | None = None,
        retry_count: int = 0,
        provider_calls: Sequence[ProviderCall] = (),
    ) -> None:
        """The provider did not deliver; ``cost`` is what it billed all the same.

        ``message`` is kept for ever and read by others: no prompt in it.
        """

        def make() -> OperationFailed:
            said = (actual_provider, actual_model, status_code, retry_count, tuple(provider_calls))
            return self._failure(Failure(code, message, parse_nanos(cost), *said))

        self._say(make)

    def in_doubt(self, message: str) -> None:
        """Nobody can say whether the call was done and billed: it is recorded as failed with the code
        ``outcome_unknown`` at its estimate, unless the client's ``recover`` knows better."""
        self._say(lambda: InDoubt(message))

    def billed(self, cost: str) -> None:
        """The provider bills this, whatever happens to the answer: what an exception in the body is recorded at."""
        self._refuse_when_ended()
        try:
            self._billed_nanos = parse_bounded(cost, 0, COST_NANOS_MAX)
        except PydanticCustomError as error:
            self._fallback = InDoubt("the caller reported a cost that is not valid")
            raise invalid_arguments(error) from error

    async def note(self, note: str) -> None:
        """Keep with the journalled intent what finds the call again after a restart, such as the provider's job id, in
        place of any earlier note: ``recover`` is given it. Durable when it returns; without a journal, for as long as
        this process lives. Raises RecordingUnavailable: then the call goes on, and is harder to find.
        """
        self.noted = note
        await self._recorder.note(self.operation_id, note)

    async def extend(self, ttl_seconds: int) -> datetime:
        """Keep the hold for so long from now; when it ends. For calls that outlast it.

        Raises LedgerUnavailable, and LedgerRefused where the hold is over already. Under a lease its share is held for
        as long as the lease's, which no operation moves.
        """
        if self.lease_id is not None:
            assert self.decision.reservation is not None, "it was allowed"
            return self.decision.reservation.expires_at
        return await self._checks.extend(self.operation_id, ttl_seconds, self.requested.data.account_id)

    def _say(self, make: Callable[[], Outcome | InDoubt]) -> None:
        self._refuse_when_ended()
        if self._said is not None:
            raise RuntimeError(f"operation {self.operation_id} has an outcome already")
        try:
            self._said = make()
        except (ValidationError, PydanticCustomError) as error:
            # Whatever it was, the call was made.
            self._fallback = InDoubt("the caller reported an outcome that is not valid")
            raise invalid_arguments(error) from error

    def _refuse_when_ended(self) -> None:
        if self._ended:
            raise RuntimeError(
                f"operation {self.operation_id} has ended: its outcome is recorded, and stays what it is"
            )

    def _failure(self, failure: Failure) -> OperationFailed:
        return operation_failed(
            self.requested, failure, event_id=uuid7(), now=datetime.now(UTC), duration_ms=self._duration_ms()
        )

    def _duration_ms(self) -> int:
        return round((time.monotonic() - self._started) * 1000)

    @property
    def said_nothing(self) -> bool:
        return self._said is None and self._fallback is None

    def conclude(self, error: BaseException | None, doubtful: tuple[type[BaseException], ...]) -> Outcome | InDoubt:
        """What the operation comes to, now that its context ends, with this exception or without."""
        self._ended = True
        if self._said is not None:
            return self._said
        # The type alone: an exception's text may quote the prompt.
        message = "the caller's code " + ("said no outcome" if error is None else f"raised {type(error).__name__}")
        if error is not None and self._billed_nanos is not None:
            return self._failure(Failure(CALLER_ERROR, message, self._billed_nanos))
        if self._fallback is not None:
            return self._fallback
        if error is None or not isinstance(error, Exception) or isinstance(error, doubtful):
            return InDoubt(message)
        return self._failure(Failure(CALLER_ERROR, message))


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
        self._operation = Operation(decision, requested, self._parts.checks, self._parts.recorder, started)
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
                said = await recovered(recover, operation.requested, operation.noted)
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
