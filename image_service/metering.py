"""The only way an operation runs: check, intent, provider, outcome. Nothing else ever hands out a provider."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import structlog

from contracts.events import OperationRequested
from contracts.identifiers import uuid7
from contracts.limits import Decision, LimitCheck
from contracts.money import format_nanos
from contracts.problems import LEDGER_UNAVAILABLE, LIMIT_EXCEEDED, RECORDING_UNAVAILABLE, ProblemError
from image_service.background import Background
from image_service.calls import Call
from image_service.journal import Journal, JournalUnavailableError
from image_service.ledger_client import LedgerClient, LedgerUnavailableError
from image_service.operation_log import OperationLog, Report, Status
from image_service.outcomes import Completed, OutcomeStore
from image_service.providers.base import Provider, ProviderError, ProviderResult
from image_service.providers.registry import Providers
from image_service.recording import Outcome, OutcomeRecorder, failed_outcome, operation_problem, recovery_of
from image_service.usage_events import failure_of, operation_completed, operation_requested

RELEASE_PAUSE_SECONDS_FIRST: Final = 0.5
RELEASE_PAUSE_SECONDS_MAX: Final = 30.0
#: Holds that are being given back at once; beyond that they are left to their end.
RELEASES_MAX: Final = 1000

_log = structlog.stdlib.get_logger(__name__)


class MeteredOperation:
    """An admitted and recorded operation: the provider to call, and where its result goes."""

    def __init__(self, provider: Provider, call: Call) -> None:
        self.provider = provider
        self._call = call
        self._result: ProviderResult | None = None

    def deliver(self, result: ProviderResult) -> None:
        """Hand over what the provider gave. To be called once, within the context."""
        self._result = result

    @property
    def result(self) -> ProviderResult:
        if self._result is None:
            raise RuntimeError("the operation ended without delivering a result")
        return self._result

    @property
    def completed(self) -> Completed:
        """The outcome, once the context has ended well."""
        result, selection = self.result, self._call.selection
        return Completed(
            self._call.operation_id, selection.provider, selection.model, result.cost_nanos, result.images, result.seed
        )


@dataclass(frozen=True)
class _Running:
    """An operation between its intent and its outcome."""

    call: Call
    decision: Decision
    requested: OperationRequested
    started: float

    def duration_ms(self) -> int:
        return round((time.monotonic() - self.started) * 1000)


class Metering:
    """Ties ledger, journal and providers together. Safe for any number of operations at once."""

    def __init__(
        self,
        *,
        ledger: LedgerClient,
        journal: Journal,
        outcomes: OutcomeStore,
        providers: Providers,
        recorder: OutcomeRecorder,
        background: Background,
        operation_log: OperationLog,
        hold_seconds: int,
        provider_timeout_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._journal = journal
        self._outcomes = outcomes
        self._providers = providers
        self._recorder = recorder
        self._background = background
        self._operation_log = operation_log
        self._hold_seconds = hold_seconds
        self._provider_timeout_seconds = provider_timeout_seconds
        self._releases = 0

    @asynccontextmanager
    async def operation(self, call: Call) -> AsyncIterator[MeteredOperation]:
        """Run one operation within its limits; its body calls the provider and delivers the result.

        Raises ProblemError: limit_exceeded (with the decision), ledger_unavailable or recording_unavailable, with
        nothing started and nothing recorded; operation_failed where the provider did not do it. An outcome is
        recorded however the body ends, cancellation included.
        """
        started = time.monotonic()
        provider = self._providers.find(call.selection.provider)
        assert provider is not None, "selections are made from the same registry"
        decision = await self._admit(call, started)
        running = _Running(call, decision, await self._begin(call), started)
        metered = MeteredOperation(provider, call)
        try:
            async with asyncio.timeout(self._provider_timeout_seconds):
                yield metered
            result = metered.result
        except ProviderError as error:
            await self._fail(running, error)
            raise operation_problem(running.requested, error) from error
        except BaseException as error:
            # The body was cancelled, ran out of time or is broken. Only the provider can say what is owed then.
            failure = await asyncio.shield(self._background.start(self._abandon(running)))
            if isinstance(error, TimeoutError):
                raise operation_problem(running.requested, failure) from error
            raise
        await asyncio.shield(self._background.start(self._complete(running, result, metered.completed)))

    async def _admit(self, call: Call, started: float) -> Decision:
        try:
            decision = await self._ledger.check(_limit_check(call, self._hold_seconds))
        except LedgerUnavailableError as error:
            _log.warning("ledger_unavailable", operation_id=str(call.operation_id), reason=str(error))
            # With a key, the repeat takes the same operation_id, and with it the hold that may have been placed.
            if error.outcome_unknown and not call.keep:
                self._background.start(self._release(call.operation_id))
            self._report(call, "refused", None, started, error_code=LEDGER_UNAVAILABLE.code)
            raise ProblemError(LEDGER_UNAVAILABLE, "no limit check, so nothing was started; try again") from error
        if not decision.allowed:
            self._report(call, "denied", decision, started, error_code=LIMIT_EXCEEDED.code)
            reason = decision.denial.message if decision.denial else "a limit has no room"
            raise ProblemError(
                LIMIT_EXCEEDED,
                reason,
                operation_id=str(call.operation_id),
                decision=decision.model_dump(mode="json"),
            )
        return decision

    async def _begin(self, call: Call) -> OperationRequested:
        requested = operation_requested(call, source=self._journal.source, event_id=uuid7(), now=datetime.now(UTC))
        try:
            await self._journal.begin(requested)
        except JournalUnavailableError as error:
            _log.error("recording_unavailable", operation_id=str(call.operation_id), reason=str(error))
            self._background.start(self._release(call.operation_id))
            raise ProblemError(
                RECORDING_UNAVAILABLE, "the operation could not be recorded, so it was not started"
            ) from error
        return requested

    async def _complete(self, running: _Running, result: ProviderResult, completed: Completed) -> None:
        event = operation_completed(
            running.requested,
            result,
            event_id=uuid7(),
            now=datetime.now(UTC),
            duration_ms=running.duration_ms(),
        )
        if running.call.keep:
            await self._keep(completed)
        await self._recorder.record(Outcome(event, running.call.keep))
        self._report(running.call, "completed", running.decision, running.started, cost_nanos=result.cost_nanos)

    async def _fail(self, running: _Running, error: ProviderError) -> None:
        outcome = failed_outcome(running.requested, error, keep=running.call.keep, duration_ms=running.duration_ms())
        await asyncio.shield(self._background.start(self._recorder.record(outcome)))
        self._report(
            running.call,
            "failed",
            running.decision,
            running.started,
            cost_nanos=error.cost_nanos,
            error_code=error.code,
        )

    async def _abandon(self, running: _Running) -> ProviderError:
        failure = failure_of(await recovery_of(self._providers, running.requested, None), running.requested)
        await self._fail(running, failure)
        return failure

    async def _keep(self, completed: Completed) -> None:
        try:
            await asyncio.to_thread(self._outcomes.save, completed)
        except OSError as error:
            # The caller has its result all the same; only a repeat will have to be told that it is gone.
            _log.error("outcome_not_kept", operation_id=str(completed.operation_id), reason=str(error))

    async def _release(self, operation_id: UUID) -> None:
        """Until the hold is given back, or would have ended by itself.

        A ledger that hangs may decide the check long after its caller has gone; no hold now does not mean none soon.
        """
        if self._releases >= RELEASES_MAX:
            return  # it ends by itself
        self._releases += 1
        try:
            await self._release_patiently(operation_id)
        finally:
            self._releases -= 1

    async def _release_patiently(self, operation_id: UUID) -> None:
        until = time.monotonic() + self._hold_seconds
        pause = RELEASE_PAUSE_SECONDS_FIRST
        while time.monotonic() < until:
            try:
                if await self._ledger.release(operation_id):
                    return
            except LedgerUnavailableError as error:
                _log.warning("hold_not_released", operation_id=str(operation_id), reason=str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, RELEASE_PAUSE_SECONDS_MAX)

    def _report(
        self,
        call: Call,
        status: Status,
        decision: Decision | None,
        started: float,
        *,
        cost_nanos: int = 0,
        error_code: str | None = None,
    ) -> None:
        duration_ms = round((time.monotonic() - started) * 1000)
        self._operation_log.write(Report(call, status, decision, cost_nanos, duration_ms, error_code))


def _limit_check(call: Call, hold_seconds: int) -> LimitCheck:
    return LimitCheck.model_validate(
        {
            "operation_id": call.operation_id,
            "account_id": call.caller.account_id,
            "user_id": call.caller.user_id,
            "project_id": call.caller.project_id,
            "api_key_id": call.caller.api_key_id,
            "operation": call.operation,
            "provider": call.selection.provider,
            "model": call.selection.model,
            "quantity": call.selection.quantity,
            "estimated_cost": format_nanos(call.selection.estimated_cost_nanos),
            "ttl_seconds": hold_seconds,
        }
    )
