"""What the image service tells Prometheus: counted where it happens, or read when it is scraped."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import structlog
from fastapi import FastAPI, Response

from contracts.client import (
    InDoubt,
    JournalUnavailableError,
    LedgerClient,
    RecoveredCompletion,
    RecoveredFailure,
    Recovery,
)
from contracts.client.journal import Journal
from contracts.metrics import CONTENT_TYPE, Distribution, Metric, Reading, Tally, write
from contracts.money import NANOS_PER_DOLLAR
from contracts.version import VERSION
from image_service import metric_names as names
from image_service.operation_log import Report
from image_service.providers.base import ProviderError
from image_service.providers.registry import Providers

#: The journal is read for so long at most; what takes longer is left out.
READ_TIMEOUT_SECONDS: Final = 2.0

_log = structlog.stdlib.get_logger(__name__)


class Metrics:
    """The metrics of one image service. Money is a float here alone: what Prometheus has are rates."""

    def __init__(self, journal: Journal, ledger: LedgerClient, providers: Providers) -> None:
        self._journal = journal
        self._ledger = ledger
        self._providers = providers
        self._operations = Tally(names.OPERATIONS)
        self._operation_seconds = Distribution(names.OPERATION_SECONDS)
        self._denials = Tally(names.DENIALS)
        self._failures = Tally(names.FAILURES)
        self._recoveries = Tally(names.RECOVERIES, ("completed",), ("failed",), ("in_doubt",))
        self._provider_seconds = Distribution(names.PROVIDER_SECONDS)
        self._provider_calls = Tally(names.PROVIDER_CALLS)
        self._provider_errors = Tally(names.PROVIDER_ERRORS)
        self._provider_cost = Tally(names.PROVIDER_COST)
        self._instruments = (
            self._operations, self._operation_seconds, self._denials, self._failures, self._recoveries,
            self._provider_seconds, self._provider_calls, self._provider_errors, self._provider_cost,
        )  # fmt: skip

    def reported(self, report: Report) -> None:
        """An operation ended."""
        operation = report.call.operation.name
        self._operations.add(operation, report.status)
        if report.status == "denied":
            denial = None if report.decision is None else report.decision.denial
            self._denials.add("unknown" if denial is None else str(denial.code))
        elif report.status != "refused":
            self._operation_seconds.observe(report.duration_ms / 1000, operation)
            provider = report.provider or report.call.selection.provider
            self._provider_cost.add(provider, operation, amount=report.cost_nanos / NANOS_PER_DOLLAR)
            if report.error_code is not None:
                self._failures.add(report.error_code)

    def recovered(self, recovery: Recovery) -> None:
        """A provider was asked what became of a call."""
        match recovery:
            case RecoveredCompletion():
                self._recoveries.add("completed")
            case RecoveredFailure():
                self._recoveries.add("failed")
            case InDoubt():
                self._recoveries.add("in_doubt")

    @contextmanager
    def provider_call(self, provider: str, operation: str) -> Iterator[None]:
        """Around one call of a provider."""
        began = time.monotonic()
        try:
            yield
        except BaseException as error:
            self._provider_errors.add(provider, _code_of(error))
            raise
        finally:
            self._provider_calls.add(provider)
            self._provider_seconds.observe(time.monotonic() - began, provider, operation)

    async def exposition(self) -> bytes:
        """The text that Prometheus scrapes. What the journal does not say in time is not in it."""
        readings: dict[Metric, Reading] = {
            names.OUTCOMES_WAITING: len(self._ledger.outcomes_waiting),
            names.BUILD_INFO: {(VERSION,): 1.0},
            names.NATS_CONNECTED: float(self._ledger.nats_connected),
            names.PROVIDER_AVAILABLE: {(one.name,): float(one.available) for one in self._providers.all()},
            **await self._of_journal(),
        }
        return write(self._instruments, readings)

    async def _of_journal(self) -> Mapping[Metric, Reading]:
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                depth = await self._journal.depth()
        except (JournalUnavailableError, TimeoutError) as error:
            _log.warning("metrics_without_journal", reason=str(error) or type(error).__name__)
            return {}
        oldest = depth.oldest_unix_seconds
        return {
            names.IN_FLIGHT: depth.unfinished_operations,
            names.UNCONFIRMED: depth.unconfirmed_events,
            names.UNCONFIRMED_AGE: 0 if oldest is None else max(0.0, time.time() - oldest),
            names.JOURNAL_BYTES: depth.used_bytes,
            names.JOURNAL_BYTES_MAX: depth.max_bytes,
        }


def add_metrics_route(app: FastAPI, metrics: Metrics) -> None:
    @app.get(
        "/metrics",
        tags=["health"],
        summary="For Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def read_metrics() -> Response:
        """Prometheus' text format. Gauges of what is in the journal are left out while it cannot be read."""
        return Response(await metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})


def _code_of(error: BaseException) -> str:
    match error:
        case ProviderError():
            return error.code
        case TimeoutError():
            return "timeout"
        case asyncio.CancelledError():
            return "cancelled"
        case _:
            return "internal"
