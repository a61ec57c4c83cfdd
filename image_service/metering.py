"""The only way an operation runs: within the ledger client's context. Nothing else ever hands out a provider."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import Final

import structlog

from contracts.client import LedgerClient, LedgerUnavailable, Operation, OperationDenied
from contracts.events import OperationCompleted, OperationFailed
from contracts.limits import Decision
from contracts.money import format_nanos
from contracts.problems import LEDGER_UNAVAILABLE, LIMIT_EXCEEDED, RECORDING_UNAVAILABLE, Problem, ProblemError
from image_service.attempts import Attempts, Delivery
from image_service.calls import Call
from image_service.operation_log import OperationLog, Report, Status
from image_service.outcomes import Completed, Failed, Outcome, OutcomeStore, failure_problem
from image_service.watching import Watch

#: What ends a call without an answer of its provider: whatever it is, only the provider can say what is owed.
_DOUBTFUL: Final = (Exception,)

_log = structlog.stdlib.get_logger(__name__)


class Metering:
    """Ties ledger and providers together. Safe for any number of operations at once."""

    def __init__(
        self,
        *,
        ledger: LedgerClient,
        outcomes: OutcomeStore,
        attempts: Attempts,
        operation_log: OperationLog,
    ) -> None:
        self._ledger = ledger
        self._outcomes = outcomes
        self._attempts = attempts
        self._operation_log = operation_log

    async def run(self, call: Call, watch: Watch) -> Completed:
        """Run one operation within its limits.

        Raises ProblemError: limit_exceeded (with the decision), ledger_unavailable or recording_unavailable, with
        nothing started and nothing recorded; operation_failed where no provider did it. An outcome is recorded however
        the calls end, cancellation included.
        """
        started = time.monotonic()
        operation: Operation | None = None
        delivery: Delivery | None = None
        completed: Completed | None = None
        try:
            async with self._context(call) as operation:
                watch.decision = operation.decision
                watch.begun.set()
                watch.progress(None, "running")
                delivery = await self._attempts.run(call, operation, watch)
                _say_completed(operation, delivery)
                completed = await self._keep_completed(call, watch, delivery)
        except ProblemError as error:
            if operation is None:
                self._not_started(call, error, started)
            raise
        except Exception as error:
            # The outcome that was recorded: what the provider said, before or after it was asked again.
            if operation is None or operation.outcome is None:
                raise
            return await self._as_recorded(call, watch, operation, error)
        finally:
            if operation is not None:
                self._report_outcome(call, operation, started)
            # What is not kept belongs to the reply now.
            if delivery is not None and (completed is None or completed.kept_at is not None):
                await delivery.attempt.discard()
        return completed

    # --- the record

    def _context(self, call: Call) -> AbstractAsyncContextManager[Operation]:
        first = call.selection.first
        cost = first.quote.cost_nanos
        return self._ledger.operation(
            operation_id=call.operation_id,
            account_id=call.caller.account_id,
            user_id=call.caller.user_id,
            project_id=call.caller.project_id,
            api_key_id=call.caller.api_key_id,
            operation=call.operation.name,
            provider=first.provider,
            model=first.model.name,
            quantity=first.quote.quantity,
            estimated_cost=None if cost is None else format_nanos(cost),
            attributes=None if cost is not None else dict(first.quote.attributes),
            endpoint=call.operation.path,
            request_bytes=call.request_bytes,
            doubtful=_DOUBTFUL,
            # With a key, the repeat takes the same operation_id, and with it the hold that may have been placed.
            release_if_lost=not call.has_key,
        )

    def _not_started(self, call: Call, error: ProblemError, started: float) -> None:
        if isinstance(error, OperationDenied):
            self._report_refusal(call, "denied", error.decision, started, LIMIT_EXCEEDED.code)
        elif isinstance(error, LedgerUnavailable):
            self._report_refusal(call, "refused", None, started, LEDGER_UNAVAILABLE.code)
        elif error.kind is RECORDING_UNAVAILABLE and call.has_key:
            # The key is given up then, and so is the hold.
            self._ledger.release_later(call.operation_id, call.caller.account_id)

    async def _keep_completed(self, call: Call, watch: Watch, delivery: Delivery) -> Completed:
        candidate, result = delivery.candidate, delivery.result
        completed = Completed(
            call.operation_id,
            call.caller.account_id,
            call.operation.name,
            candidate.provider,
            candidate.model.name,
            delivery.cost_nanos,
            result.artifacts,
            result.seed,
        )
        kept = await self._keep(call, watch, completed)
        return kept if isinstance(kept, Completed) else completed

    async def _as_recorded(self, call: Call, watch: Watch, operation: Operation, error: Exception) -> Completed:
        """What is recorded of an operation whose call raised. Raises ProblemError where that is a failure."""
        if isinstance(operation.outcome, OperationCompleted):
            found = await asyncio.to_thread(self._outcomes.load, call.operation_id)
            if isinstance(found, Completed):
                return found
            raise error
        assert isinstance(operation.outcome, OperationFailed)
        problem = operation_problem(operation.outcome)
        await self._keep(
            call, watch, Failed(call.operation_id, call.caller.account_id, call.operation.name, problem.problem)
        )
        raise problem from error

    async def _keep(self, call: Call, watch: Watch, outcome: Outcome) -> Outcome:
        if not call.keep and not watch.wanted:
            watch.unkept = True
            return outcome
        try:
            return await asyncio.to_thread(self._outcomes.save, outcome)
        except OSError as error:
            # The caller has its result all the same; only a repeat will have to be told that it is gone.
            watch.unkept = True
            _log.error("outcome_not_kept", operation_id=str(call.operation_id), reason=str(error))
            return outcome

    def _report_outcome(self, call: Call, operation: Operation, started: float) -> None:
        outcome = operation.outcome
        if outcome is None:  # cut off while its provider was asked what became of it
            return
        status: Status = "completed"
        code = None
        if isinstance(outcome, OperationFailed):
            status, code = "failed", outcome.data.error.code
        duration_ms = round((time.monotonic() - started) * 1000)
        data = outcome.data
        self._operation_log.write(
            Report(call, status, operation.decision, data.cost, duration_ms, code, data.actual_provider, data.model)
        )

    def _report_refusal(
        self, call: Call, status: Status, decision: Decision | None, started: float, error_code: str
    ) -> None:
        duration_ms = round((time.monotonic() - started) * 1000)
        self._operation_log.write(Report(call, status, decision, 0, duration_ms, error_code))


def operation_problem(failed: OperationFailed) -> ProblemError:
    """What the caller of a failed operation is told, then and on every repeat."""
    data = failed.data
    return failure_problem(data.operation_id, data.actual_provider, data.model, data.error.code, data.error.message)


def kept_problem(failed: OperationFailed) -> Problem:
    return operation_problem(failed).problem


def _say_completed(operation: Operation, delivery: Delivery) -> None:
    operation.completed(
        cost=format_nanos(delivery.cost_nanos),
        quantity=delivery.quantity,
        actual_provider=delivery.candidate.provider,
        actual_model=delivery.candidate.model.name,
        status_code=delivery.result.status_code,
        retry_count=delivery.retry_count,
        response_bytes=sum(artifact.content.size_bytes for artifact in delivery.result.artifacts),
        provider_calls=delivery.calls,
    )
