"""The one place that wires: settings in, a running service out."""

import asyncio
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
import uvicorn
from fastapi import FastAPI

from contracts.access.authenticator import Authenticator, Memory, NoAccessControl, make_access
from contracts.access.guard import ACCESS_PROBLEMS, document_access, require_rules
from contracts.client import ClientSettings, JournalUnavailableError, LedgerClient, Recovery
from contracts.client.background import Background, stop
from contracts.client.journal import Journal
from contracts.events import OperationRequested
from contracts.garbage import spare_what_lasts
from contracts.http_bounds import bounded_protocol, bounds_for
from contracts.http_documents import document_problems
from contracts.http_problems import install_problems
from contracts.http_tracing import NO_TELEMETRY, TracedRequests
from contracts.settings_reading import WrongSettingsError, read_settings, unknown_variables
from contracts.spans import export_spans
from contracts.web.pages import page_routes
from contracts.web.problem_pages import shown_by
from image_service.access import RULES, ImageRoute, ask_ledger
from image_service.admission import Admission
from image_service.api import ImageApi, add_operation_routes
from image_service.attempts import Attempts, Times
from image_service.catalogue import add_catalogue_route
from image_service.config import Settings
from image_service.health import add_health_routes
from image_service.images import Bounds
from image_service.in_doubt import add_in_doubt_route
from image_service.logs import configure_logs
from image_service.metering import Metering, kept_problem
from image_service.metrics import Metrics, add_metrics_route
from image_service.operation_log import OperationLog
from image_service.operations import OPERATIONS
from image_service.outcomes import OutcomeStore
from image_service.pages import PAGES, SITE
from image_service.pricing import Pricing
from image_service.providers.registry import Providers, build
from image_service.recoveries import Recoveries
from image_service.results_api import ResultsApi, add_result_routes
from image_service.runs import Runs
from image_service.spool import clear_folder, sweep_folder
from image_service.watching import Watches

SWEEP_SECONDS: Final = 300.0
SWITCH_SECONDS: Final = 0.001
#: For what still runs once the requests are over, at least; beyond, it has what they left of the time to stop.
DRAIN_SECONDS: Final = 5.0

#: Longer than clients keep idle connections (httpx: 5 s), else the two ends race: a request meets a closed one.
KEEP_ALIVE_SECONDS: Final = 75

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class _Parts:
    """What lives as long as the service."""

    settings: Settings
    metrics: Metrics
    ledger: LedgerClient
    journal: Journal
    outcomes: OutcomeStore
    providers: Providers
    background: Background
    examiners: ThreadPoolExecutor
    access: Authenticator | NoAccessControl
    watches: Watches
    pricing: Pricing
    spool_folder: Path


def create_app(settings: Settings, providers: Providers | None = None) -> FastAPI:
    """The service as an ASGI app. Opens the journal: raises JournalUnavailableError where that cannot be done."""
    parts = _make_parts(settings, build(settings) if providers is None else providers)
    app = FastAPI(
        title="Image service",
        version="1",
        summary="Image operations within limits, every one recorded.",
        lifespan=_lifespan(parts),
        telemetry=NO_TELEMETRY,
        docs_url=None,
        redoc_url=None,
    )
    app.router.route_class = ImageRoute
    app.state.access = parts.access
    install_problems(app, {}, shown_by(SITE))
    app.add_middleware(TracedRequests)
    add_operation_routes(app, _make_api(parts), OPERATIONS)
    add_catalogue_route(app, parts.providers)
    add_in_doubt_route(app, parts.journal, parts.ledger)
    add_result_routes(app, ResultsApi(parts.watches, parts.outcomes, parts.journal, settings.outcome_retention_seconds))
    add_health_routes(app, parts.journal, parts.ledger)
    add_metrics_route(app, parts.metrics)
    app.router.routes.extend(page_routes(PAGES, SITE))
    require_rules(app)
    document_problems(app, ACCESS_PROBLEMS)
    document_access(app, RULES)
    return app


def run(make_providers: Callable[[Settings], Providers] = build) -> int:
    """Serve until SIGTERM or SIGINT, then stop cleanly; the process's exit code."""
    configure_logs()
    try:
        settings = read_settings(Settings)
    except WrongSettingsError as error:
        _log.critical("cannot_start", reason=str(error))
        return 1
    if unknown := unknown_variables(Settings):
        _log.warning("settings_are_unknown", names=unknown, reason="no setting reads these variables")
    # Pictures are made in threads of this process; the event loop gets its turn that much sooner.
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        app = create_app(settings, make_providers(settings))
    except (JournalUnavailableError, OSError, ValueError) as error:
        _log.critical("cannot_start", reason=str(error))
        return 1
    spare_what_lasts()
    # uvicorn raises the signal again once it has stopped; with these handlers that ends nothing half-way.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server = _Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            http=bounded_protocol(
                bounds_for(settings.connections_max, settings.connections_per_address_max, settings.slow_client_seconds)
            ),
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=round(settings.shutdown_seconds),
        )
    )
    server.run()
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    """Says since when it stops: its requests may take all of that time, or none of it."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.stopping_since = time.monotonic()  # type: ignore[union-attr]  # run() gave it a FastAPI
        await super().shutdown(sockets)


def _drain_seconds(app: FastAPI, shutdown_seconds: float) -> float:
    """For operations whose callers did not wait: they are as dear as any other."""
    now = time.monotonic()
    left = shutdown_seconds - (now - getattr(app.state, "stopping_since", now))
    return max(left, min(DRAIN_SECONDS, shutdown_seconds))


def _make_parts(settings: Settings, providers: Providers) -> _Parts:
    outcomes, watches = OutcomeStore(settings.data_dir / "outcomes"), Watches()
    spool_folder = settings.data_dir / "spool"
    recoveries = Recoveries(
        providers, outcomes, watches, spool_folder=spool_folder, doubt_seconds=settings.doubt_seconds
    )

    async def recover(requested: OperationRequested, note: str | None) -> Recovery:
        found = await recoveries.recover(requested, note)
        metrics.recovered(found)
        return found

    ledger = LedgerClient(_client_settings(settings), recover, kept_problem)
    assert ledger.journal is not None, "its settings name one"
    metrics = Metrics(ledger.journal, ledger, providers)
    recoveries.pricing = pricing = Pricing(ledger)
    # Only now: the journal's lock says that the folder is ours alone.
    clear_folder(spool_folder)
    return _Parts(
        settings=settings,
        metrics=metrics,
        ledger=ledger,
        journal=ledger.journal,
        outcomes=outcomes,
        providers=providers,
        background=Background(),
        examiners=ThreadPoolExecutor(settings.local_threads, thread_name_prefix="examine"),
        access=make_access(settings, ask_ledger(ledger), Memory(settings.token_seconds, settings.token_away_seconds)),
        watches=watches,
        pricing=pricing,
        spool_folder=spool_folder,
    )


def _client_settings(settings: Settings) -> ClientSettings:
    return ClientSettings(
        source="image-service",
        ledger_url=settings.ledger_url,
        nats_url=settings.nats_url,
        nats_nkey_path=settings.nats_nkey_file,
        nats_ca_path=settings.nats_ca_file,
        nats_inbox_prefix=settings.nats_inbox_prefix,
        token=settings.ledger_token,
        check_transport=settings.check_transport,
        journal_path=settings.data_dir / "journal.db",
        hold_seconds=settings.hold_seconds,
        connect_timeout_seconds=settings.ledger_connect_timeout_seconds,
        timeout_seconds=settings.ledger_timeout_seconds,
        drain_seconds=min(DRAIN_SECONDS, settings.shutdown_seconds),
        # What is in the journal stays there, and goes out at the next start.
        flush_seconds=0,
        http_delivery_after_seconds=settings.http_delivery_after_seconds,
        confirm_after_seconds=settings.confirm_after_seconds,
        nats_stall_seconds=settings.nats_stall_seconds,
        journal_bytes_max=settings.journal_bytes_max,
        journal_reserve_bytes=settings.journal_reserve_bytes,
    )


def _make_api(parts: _Parts) -> ImageApi:
    settings = parts.settings
    times = Times(settings.provider_timeout_seconds, settings.long_provider_timeout_seconds, settings.hold_seconds)
    metering = Metering(
        ledger=parts.ledger,
        outcomes=parts.outcomes,
        attempts=Attempts(parts.providers, parts.pricing, times, parts.spool_folder, parts.metrics),
        operation_log=OperationLog(console=settings.console, on_report=parts.metrics.reported),
    )
    return ImageApi(
        runs=Runs(
            metering,
            parts.journal,
            parts.outcomes,
            parts.background,
            parts.watches,
            repeat_wait_seconds=settings.repeat_wait_seconds,
            hold_seconds=settings.hold_seconds,
        ),
        providers=parts.providers,
        admission=Admission(
            operations_max=settings.operations_in_flight_max, upload_bytes_max=settings.upload_memory_bytes_max
        ),
        examiners=parts.examiners,
        bounds=Bounds(settings.pixels_max, settings.edge_pixels_max),
        upload_bytes_max=settings.upload_bytes_max,
        spool_folder=parts.spool_folder,
        patience_seconds=settings.patience_seconds,
    )


def _lifespan(parts: _Parts) -> Any:  # Any: starlette's own type for it is generic over the app and not exported
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        stop_spans = _export_spans(parts.settings)
        await parts.ledger.start()
        sweep = asyncio.create_task(_sweep_for_ever(parts))
        yield
        await parts.background.drain(_drain_seconds(app, parts.settings.shutdown_seconds))
        await stop(sweep)
        await parts.access.close()
        await parts.ledger.close()
        await parts.providers.close()
        parts.examiners.shutdown(wait=False, cancel_futures=True)
        if stop_spans is not None:
            await asyncio.to_thread(stop_spans)

    return lifespan


def _export_spans(settings: Settings) -> Callable[[], None] | None:
    if settings.otlp_endpoint is None:
        return None
    return export_spans("image-service", settings.otlp_endpoint, settings.traces_ratio)


async def _sweep_for_ever(parts: _Parts) -> None:
    retention = parts.settings.outcome_retention_seconds
    sweeps: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: parts.journal.sweep(retention),
        lambda: asyncio.to_thread(parts.outcomes.sweep, retention),
        lambda: asyncio.to_thread(sweep_folder, parts.spool_folder, 2 * parts.settings.doubt_seconds),
    )
    while True:
        # Each by itself: a journal without room on the disk must not keep what would make some.
        for sweep in sweeps:
            try:
                await sweep()
            except (JournalUnavailableError, OSError) as error:
                _log.warning("sweep_failed", reason=str(error))
        await asyncio.sleep(min(SWEEP_SECONDS, retention))
