"""The only way an operation runs: within the ledger client's context. Nothing else ever hands out a provider."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import structlog

from contracts.client import InDoubt, LedgerClient, LedgerUnavailable, Operation, OperationDenied, Recover, Recovery
from contracts.events import OperationFailed, OperationRequested
from contracts.limits import Decision
from contracts.money import format_nanos
from contracts.problems import (
    LEDGER_UNAVAILABLE,
    LIMIT_EXCEEDED,
    OPERATION_FAILED,
    RECORDING_UNAVAILABLE,
    Problem,
    ProblemError,
)
from image_service.calls import Call
from image_service.operation_log import OperationLog, Report, Status
from image_service.outcomes import Completed, OutcomeStore
from image_service.providers.base import Provider, ProviderError, ProviderResult
from image_service.providers.registry import Providers

#: What ends a call without an answer of its provider: whatever it is, only the provider can say what is owed.
_DOUBTFUL: Final = (Exception,)

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


class Metering:
    """Ties ledger and providers together. Safe for any number of operations at once."""

    def __init__(
        self,
        *,
        ledger: LedgerClient,
        outcomes: OutcomeStore,
        providers: Providers,
        operation_log: OperationLog,
        provider_timeout_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._outcomes = outcomes
        self._providers = providers
        self._operation_log = operation_log
        self._provider_timeout_seconds = provider_timeout_seconds

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
        metered = MeteredOperation(provider, call)
        operation: Operation | None = None
        try:
            async with self._context(call) as operation:
                try:
                    async with asyncio.timeout(self._provider_timeout_seconds):
                        yield metered
                    result = metered.result
                except ProviderError as error:
                    _say_failed(operation, error)
                    raise
                _say_completed(operation, result)
                if call.keep:
                    await self._keep(metered.completed)
        except (ProviderError, TimeoutError) as error:
            if operation is None or not isinstance(operation.outcome, OperationFailed):
                raise
            raise operation_problem(operation.outcome) from error
        except ProblemError as error:
            if operation is None:
                self._not_started(call, error, started)
            raise
        finally:
            if operation is not None:
                self._report_outcome(call, operation, started)

    def _context(self, call: Call) -> AbstractAsyncContextManager[Operation]:
        selection, caller = call.selection, call.caller
        return self._ledger.operation(
            operation_id=call.operation_id,
            account_id=caller.account_id,
            user_id=caller.user_id,
            project_id=caller.project_id,
            api_key_id=caller.api_key_id,
            operation=call.operation,
            provider=selection.provider,
            model=selection.model,
            quantity=selection.quantity,
            estimated_cost=format_nanos(selection.estimated_cost_nanos),
            endpoint=call.endpoint,
            request_bytes=call.request_bytes,
            doubtful=_DOUBTFUL,
            # With a key, the repeat takes the same operation_id, and with it the hold that may have been placed.
            release_if_lost=not call.keep,
        )

    def _not_started(self, call: Call, error: ProblemError, started: float) -> None:
        if isinstance(error, OperationDenied):
            self._report(call, "denied", error.decision, started, error_code=LIMIT_EXCEEDED.code)
        elif isinstance(error, LedgerUnavailable):
            self._report(call, "refused", None, started, error_code=LEDGER_UNAVAILABLE.code)
        elif error.kind is RECORDING_UNAVAILABLE and call.keep:
            # The key is given up then, and so is the hold.
            self._ledger.release_later(call.operation_id, call.caller.account_id)

    async def _keep(self, completed: Completed) -> None:
        try:
            await asyncio.to_thread(self._outcomes.save, completed)
        except OSError as error:
            # The caller has its result all the same; only a repeat will have to be told that it is gone.
            _log.error("outcome_not_kept", operation_id=str(completed.operation_id), reason=str(error))

    def _report_outcome(self, call: Call, operation: Operation, started: float) -> None:
        outcome = operation.outcome
        if outcome is None:  # cut off while its provider was asked what became of it
            return
        status: Status = "completed"
        code = None
        if isinstance(outcome, OperationFailed):
            status, code = "failed", outcome.data.error.code
        self._report(call, status, operation.decision, started, cost_nanos=outcome.data.cost, error_code=code)

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


def operation_problem(failed: OperationFailed) -> ProblemError:
    """What the caller of a failed operation is told, then and on every repeat."""
    data = failed.data
    return ProblemError(
        OPERATION_FAILED,
        f"{data.provider}: {data.error.message}",
        operation_id=str(data.operation_id),
        provider=data.provider,
        model=data.model,
        error={"code": data.error.code, "message": data.error.message},
    )


def kept_problem(failed: OperationFailed) -> Problem:
    return operation_problem(failed).problem


def recovery_from(providers: Providers) -> Recover:
    """Asks the provider what became of a call that nobody waits for any more."""

    async def recover(requested: OperationRequested, job_id: str | None) -> Recovery:
        provider = providers.find(requested.data.provider)
        if provider is None:
            return InDoubt(f"the provider {requested.data.provider} is no longer configured")
        return await provider.recover(requested.data.model, job_id)

    return recover


def _say_failed(operation: Operation, error: ProviderError) -> None:
    operation.failed(
        error.code,
        error.message,
        cost=format_nanos(error.cost_nanos),
        status_code=error.status_code,
        retry_count=error.retry_count,
    )


def _say_completed(operation: Operation, result: ProviderResult) -> None:
    operation.completed(
        cost=format_nanos(result.cost_nanos),
        status_code=result.status_code,
        retry_count=result.retry_count,
        response_bytes=sum(len(image.data) for image in result.images),
    )
