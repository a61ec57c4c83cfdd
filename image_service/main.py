"""The one place that wires: settings in, a running service out."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog
import uvicorn
from fastapi import FastAPI

from contracts.http_problems import install_problems
from contracts.problems import CONTENT_TYPE
from image_service.admission import Admission
from image_service.api import ImageApi, add_operation_routes
from image_service.background import Background, stop
from image_service.config import Settings
from image_service.health import add_health_routes
from image_service.http_delivery import HttpDelivery
from image_service.images import Bounds
from image_service.journal import Journal, JournalUnavailableError
from image_service.ledger_client import LedgerClient
from image_service.logs import configure_logs
from image_service.metering import Metering
from image_service.operation_log import OperationLog
from image_service.operations import OPERATIONS
from image_service.outcomes import OutcomeStore
from image_service.providers.registry import Providers, build
from image_service.recording import OutcomeRecorder, recover
from image_service.relay import Relay, RelaySettings
from image_service.runs import Runs

SWEEP_SECONDS: Final = 300.0
SWITCH_SECONDS: Final = 0.001
RESTART_SECONDS: Final = 5.0
#: For what still runs once the requests are over; operations had the server's time to end before.
DRAIN_SECONDS: Final = 5.0

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class _Parts:
    """What lives as long as the service."""

    settings: Settings
    journal: Journal
    outcomes: OutcomeStore
    ledger: LedgerClient
    providers: Providers
    background: Background
    recorder: OutcomeRecorder
    relay: Relay
    http_delivery: HttpDelivery
    examiners: ThreadPoolExecutor


def create_app(settings: Settings, providers: Providers | None = None) -> FastAPI:
    """The service as an ASGI app. Opens the journal: raises JournalUnavailableError where that cannot be done."""
    parts = _make_parts(settings, build(settings) if providers is None else providers)
    app = FastAPI(
        title="Image service",
        version="1",
        summary="Image operations within limits, every one recorded.",
        lifespan=_lifespan(parts),
        redoc_url=None,
    )
    install_problems(app, {})
    add_operation_routes(app, _make_api(parts), OPERATIONS)
    add_health_routes(app, journal=parts.journal, ledger=parts.ledger, nats_connected=lambda: parts.relay.is_connected)
    _document_problems(app)
    return app


def run() -> int:
    """Serve until SIGTERM or SIGINT, then stop cleanly; the process's exit code."""
    settings = Settings()
    configure_logs()
    # Pictures are made in threads of this process; the event loop gets its turn that much sooner.
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        app = create_app(settings)
    except (JournalUnavailableError, OSError) as error:
        _log.critical("cannot_start", reason=str(error))
        return 1
    # uvicorn raises the signal again once it has stopped; with these handlers that ends nothing half-way.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=round(settings.shutdown_seconds),
        )
    )
    server.run()
    return 0 if server.started else 1


def _make_parts(settings: Settings, providers: Providers) -> _Parts:
    journal = Journal(settings.data_dir / "journal.db", settings.journal_bytes_max)
    background = Background()
    ledger = LedgerClient(
        settings.ledger_url,
        connect_timeout_seconds=settings.ledger_connect_timeout_seconds,
        timeout_seconds=settings.ledger_timeout_seconds,
    )
    return _Parts(
        settings=settings,
        journal=journal,
        outcomes=OutcomeStore(settings.data_dir / "outcomes"),
        ledger=ledger,
        providers=providers,
        background=background,
        recorder=OutcomeRecorder(journal, background),
        relay=Relay(
            journal,
            RelaySettings(settings.nats_url, settings.confirm_after_seconds, settings.nats_stall_seconds),
        ),
        http_delivery=HttpDelivery(journal, ledger, settings.http_delivery_after_seconds),
        examiners=ThreadPoolExecutor(settings.local_threads, thread_name_prefix="examine"),
    )


def _make_api(parts: _Parts) -> ImageApi:
    settings = parts.settings
    metering = Metering(
        ledger=parts.ledger,
        journal=parts.journal,
        outcomes=parts.outcomes,
        providers=parts.providers,
        recorder=parts.recorder,
        background=parts.background,
        operation_log=OperationLog(console=settings.console),
        hold_seconds=settings.hold_seconds,
        provider_timeout_seconds=settings.provider_timeout_seconds,
    )
    return ImageApi(
        runs=Runs(
            metering,
            parts.journal,
            parts.outcomes,
            parts.background,
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
    )


def _lifespan(parts: _Parts) -> Any:  # Any: starlette's own type for it is generic over the app and not exported
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        # Read before the first request: from then on there are intents that are not left over but running.
        left = await parts.journal.unfinished()
        parts.background.start(recover(left, parts.providers, parts.recorder))
        services = [
            asyncio.create_task(_for_ever("relay", parts.relay.run)),
            asyncio.create_task(_for_ever("http_delivery", parts.http_delivery.run)),
            asyncio.create_task(_sweep_for_ever(parts)),
        ]
        yield
        await parts.background.drain(min(DRAIN_SECONDS, parts.settings.shutdown_seconds))
        for service in services:
            await stop(service)
        await parts.ledger.close()
        parts.providers.close()
        parts.examiners.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(parts.journal.close)

    return lifespan


async def _for_ever(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Each expects every error that it can have; one that it does not must not end it for good."""
    while True:
        try:
            await run()
        except Exception as error:  # noqa: BLE001  see above
            _log.error("restarting", part=name, exc_info=error)
        await asyncio.sleep(RESTART_SECONDS)


async def _sweep_for_ever(parts: _Parts) -> None:
    retention = parts.settings.outcome_retention_seconds
    while True:
        try:
            await parts.journal.sweep(retention)
            await asyncio.to_thread(parts.outcomes.sweep, retention)
        except (JournalUnavailableError, OSError) as error:
            _log.warning("sweep_failed", reason=str(error))
        await asyncio.sleep(min(SWEEP_SECONDS, retention))


def _document_problems(app: FastAPI) -> None:
    """Errors are problem+json; FastAPI would document them with the routes' own content type."""
    original = app.openapi

    def openapi() -> dict[str, Any]:  # Any: the OpenAPI document, as FastAPI has it
        document = original()
        for path in document["paths"].values():
            for operation in path.values():
                for status, response in operation["responses"].items():
                    content = response.get("content", {})
                    if int(status) >= 400 and "application/json" in content:
                        content[CONTENT_TYPE] = content.pop("application/json")
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it
