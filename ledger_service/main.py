"""The ledger process: the only place that wires its parts together."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import structlog
import uvicorn
from fastapi import FastAPI
from nats.aio.client import Client

from contracts.access.authenticator import Memory, make_access
from contracts.access.guard import document_access, require_rules
from contracts.garbage import spare_what_lasts
from contracts.http_bounds import BoundedBodies, bounded_protocol, bounds_for
from contracts.http_documents import document_headers, document_problems
from contracts.http_problems import install_problems
from contracts.http_tracing import NO_TELEMETRY, TracedRequests
from contracts.problems import MOMENT_UNSETTLED, POSITION_NOT_REACHED, POSITION_UNKNOWN
from contracts.settings_reading import WrongSettingsError, read_settings, unknown_variables
from contracts.spans import export_spans
from contracts.version import VERSION
from contracts.web.pages import page_routes
from contracts.web.problem_pages import shown_by
from ledger_service.analytics import Analytics
from ledger_service.api import (
    accounts,
    adjustments,
    analytics,
    backtests,
    changes,
    checks,
    credit_grants,
    dead_letters,
    denials,
    events,
    exports,
    health,
    leases,
    limits,
    metrics,
    operations,
    periods,
    prices,
    reports,
    repricings,
    resale_prices,
    seals,
    sources,
    standings,
    statements,
    status,
    tokens,
    usage,
    usage_entries,
    webhooks,
)
from ledger_service.api.access import RULES
from ledger_service.api.bodies import body_bytes_max
from ledger_service.api.documents import EVERYWHERE, OWN
from ledger_service.api.moments import HEADERS
from ledger_service.calls import STORE_ERRORS, Calls, store_unavailable
from ledger_service.config import Settings
from ledger_service.database_url import is_safe
from ledger_service.domain.webhooks import Policy, Shares
from ledger_service.event_intake import EventIntake
from ledger_service.exporting import Exports
from ledger_service.ingest import Ingest
from ledger_service.leases import Leases
from ledger_service.limit_checks import LimitChecks
from ledger_service.line_streams import Backtests, Repricings
from ledger_service.live import Live
from ledger_service.logs import configure_logs
from ledger_service.metrics import Metrics
from ledger_service.moves import Moves
from ledger_service.nearest_limits import Nearest
from ledger_service.pages import PAGES, SITE
from ledger_service.reservations import Reservations
from ledger_service.rpc import serve_calls
from ledger_service.seal_keys import find_or_make_signing_key, trusted_keys
from ledger_service.seal_publishing import CheckpointFile, CheckpointStream
from ledger_service.sealing import SealChain, Sealing
from ledger_service.service_tokens import ServiceTokens, hashing_key
from ledger_service.services import Services
from ledger_service.starting import await_server, hide_what_was_said, say_cannot_start, saying_why
from ledger_service.store import connections
from ledger_service.store import exports as export_store
from ledger_service.store import seals as seal_store
from ledger_service.store.analytics import open_analytics_pool
from ledger_service.store.migrations import check_schema
from ledger_service.store.pool import CHECK_TIMEOUT_SECONDS, Pool, open_hot_pool, open_pool
from ledger_service.store.prices import CatalogueCache
from ledger_service.store.privileges import may_rewrite
from ledger_service.store.terms import TermsCache
from ledger_service.store.timeline import Timeline
from ledger_service.stream import check_seals_stream, check_stream, connect_nats
from ledger_service.stream_gaps import StreamGaps
from ledger_service.webhook_targets import Sender, Targets
from ledger_service.workers.denials import count_denials_of_days
from ledger_service.workers.expiry import expire_holds
from ledger_service.workers.freshness import Freshness
from ledger_service.workers.holes import find_holes
from ledger_service.workers.notifications import Announcer
from ledger_service.workers.sealer import Sealer
from ledger_service.workers.webhooks import Deliverer, follow, purge

log = structlog.get_logger()

#: Longer than clients keep idle connections (httpx: 5 s), else the two ends race: a request meets a closed one.
KEEP_ALIVE_SECONDS: Final = 75
CANCEL_AGAIN_SECONDS: Final = 0.5
STOP_SECONDS_MAX: Final = 10

_ROUTES: Final = (
    checks,
    leases,
    events,
    accounts,
    limits,
    credit_grants,
    prices,
    resale_prices,
    usage,
    usage_entries,
    analytics,
    exports,
    seals,
    backtests,
    reports,
    dead_letters,
    adjustments,
    repricings,
    periods,
    statements,
    standings,
    denials,
    changes,
    tokens,
    webhooks,
    status,
    sources,
    operations,
    health,
    metrics,
)


def create_app(settings: Settings) -> FastAPI:
    """The HTTP application; its parts start and stop with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            with saying_why():
                app.state.services = await _start(settings, stack)
            app.state.access = app.state.services.access
            yield

    app = FastAPI(
        title="Usage ledger", version="1", lifespan=lifespan, telemetry=NO_TELEMETRY, docs_url=None, redoc_url=None
    )
    app.add_middleware(BoundedBodies, bytes_max=body_bytes_max)
    app.add_middleware(TracedRequests)
    for module in _ROUTES:
        # Not include_router(), which makes every route anew: that was half of a start, and there is nothing to add.
        app.router.routes.extend(module.router.routes)
    app.router.routes.extend(page_routes(PAGES, SITE))
    require_rules(app)
    install_problems(app, dict.fromkeys(STORE_ERRORS, store_unavailable), shown_by(SITE))
    document_problems(app, EVERYWHERE, OWN)
    document_access(app, RULES)
    document_headers(app, "as_of", HEADERS, (POSITION_UNKNOWN, POSITION_NOT_REACHED, MOMENT_UNSETTLED))
    return app


async def _start(settings: Settings, stack: AsyncExitStack) -> Services:
    if settings.otlp_endpoint is not None:
        stop = export_spans("ledger", settings.otlp_endpoint, settings.traces_ratio)
        stack.push_async_callback(asyncio.to_thread, stop)
    url = settings.database_url
    reads = await _open(stack, "database", lambda: open_pool(url, settings.read_connections_max))
    async with reads.acquire() as connection:
        if newer := await check_schema(connection):
            log.warning(
                "schema_is_newer", migrations=newer, reason=f"version {VERSION} does not know them, and works with them"
            )
        if await may_rewrite(connection):
            log.warning("log_can_be_rewritten", reason="LEDGER_DATABASE_URL names a role that may update the log")
        if not is_safe(url):
            log.warning("database_is_not_verified", reason="another machine, and no sslmode=verify-full in the URL")
        service_tokens = ServiceTokens(reads, await hashing_key(connection, settings.token_hash_key))
    access = make_access(settings, service_tokens.find, Memory(settings.token_seconds))
    stack.push_async_callback(access.close)
    long_reads = await _open(stack, "database", lambda: open_analytics_pool(url, settings.analytics_seconds_max))
    timeline = Timeline(_start_anew)
    checking = await _open(
        stack,
        "database",
        lambda: open_hot_pool(
            url, settings.check_writers, "checks", CHECK_TIMEOUT_SECONDS, takes_events=False, timeline=timeline
        ),
    )
    writing = await _open(
        stack, "database", lambda: open_hot_pool(url, settings.ingest_writers, "ingest", timeline=timeline)
    )
    background = await _open(
        stack, "database", lambda: open_hot_pool(url, connections.BACKGROUND, "background", timeline=timeline)
    )

    pages = connections.EXPORTS_MAX * connections.PAGES_AHEAD
    exporting = await _open(stack, "database", lambda: export_store.open_pool(url, pages, settings.billing_account_id))

    connection_to_nats = await await_server("nats", lambda: connect_nats(settings.nats_access, "ledger"))
    stack.push_async_callback(connection_to_nats.close)
    await check_stream(connection_to_nats)
    # Before anything is decided: totals of a database that was put back lack what the stream still has.
    stream_gaps = StreamGaps(background, connection_to_nats)
    await await_server("stream", stream_gaps.close_found)

    told = Metrics(reads)
    limit_checks = LimitChecks(
        checking,
        settings.check_batch_max,
        settings.reservation_ttl_seconds,
        settings.default_plan_id,
        settings.lease_grace_seconds,
        told.checks,
    )
    ingest = Ingest(writing, background, connection_to_nats, settings.ingest_batch_events_max, told.ingest)
    event_intake = EventIntake(background, ingest.confirm, told.ingest)
    calls = Calls(
        limit_checks,
        Reservations(background, settings.reservation_ttl_seconds),
        Moves(background, limit_checks),
        Leases(background, limit_checks),
    )
    await serve_calls(connection_to_nats, calls, stack)
    freshness = Freshness(connection_to_nats)
    live = Live(reads)
    stack.callback(live.stop)
    await ingest.start()
    stack.push_async_callback(ingest.give_back)
    _run(
        stack,
        *(limit_checks.run() for _ in range(settings.check_writers)),
        event_intake.run(),
        *(ingest.write() for _ in range(settings.ingest_writers)),
        ingest.keep_asking(),
        ingest.confirm_active(settings.confirm_interval_seconds),
        stream_gaps.watch(settings.confirm_interval_seconds),
        freshness.watch(),
        live.run(),
        count_denials_of_days(reads),
        expire_holds(background, settings.expiry_interval_seconds, told.holds_expired),
    )
    targets = await _start_telling(settings, connection_to_nats, stack, told)
    chain = await _start_sealing(settings, connection_to_nats, stack, told)
    told.watch(freshness, lambda: connection_to_nats.is_connected, None if chain is None else chain.origin)
    terms = TermsCache(is_exact=True)
    return Services(
        reads=reads,
        writes=background,
        analytics=Analytics(long_reads, settings.analytics_seconds_max, frozenset(settings.metadata_dimensions)),
        access=access,
        tokens=service_tokens,
        calls=calls,
        event_intake=event_intake,
        backtests=Backtests(url),
        repricings=Repricings(url),
        exports=Exports(exporting, settings.export_page_rows),
        terms=terms,
        nearest=Nearest(reads, terms, settings.default_plan_id),
        prices=CatalogueCache(),
        metrics=told,
        live=live,
        nats=connection_to_nats,
        freshness=freshness,
        targets=targets,
        seals=chain,
        default_plan_id=settings.default_plan_id,
    )


async def _start_telling(
    settings: Settings, connection_to_nats: Client, stack: AsyncExitStack, told: Metrics
) -> Targets:
    """What happened goes to webhooks and on NATS."""
    url, seconds = settings.database_url, settings.webhook_interval_seconds
    pool = await _open(stack, "database", lambda: open_pool(url, connections.TELLING, "webhooks"))
    targets = Targets(settings.webhook_insecure_hosts)
    sender = Sender(targets, settings.webhook_timeout_seconds)
    stack.push_async_callback(sender.close)
    policy = Policy(tuple(settings.webhook_retry_seconds), settings.webhook_disable_seconds)
    deliverer = Deliverer(pool, sender, policy, Shares(settings.webhooks_in_flight_max), told.webhook_tried)
    _run(
        stack,
        find_holes(pool, settings.confirm_interval_seconds, settings.hole_seconds),
        follow(pool, seconds),
        Announcer(pool, connection_to_nats).run(seconds),
        deliverer.run(seconds),
        purge(pool, settings.webhook_keep_seconds),
    )
    return targets


async def _start_sealing(
    settings: Settings, connection_to_nats: Client, stack: AsyncExitStack, told: Metrics
) -> SealChain | None:
    key = find_or_make_signing_key(settings)
    if key is None:
        log.warning("log_is_not_sealed", reason="neither LEDGER_SEALS_KEY_FILE nor LEDGER_SEALS_KEY is set")
        return None
    await check_seals_stream(connection_to_nats)
    chain = SealChain(key, trusted_keys(settings))
    pool = await _open(stack, "database", lambda: seal_store.open_pool(settings.database_url))
    file = CheckpointFile(settings.seals_file, chain) if settings.seals_file else None
    sealer = Sealer(pool, Sealing(chain), CheckpointStream(connection_to_nats, chain), file, told.seals_diverged)
    _run(stack, sealer.run(settings.seals_interval_seconds))
    log.info("log_is_sealed", key=str(key.verifier))
    return chain


async def _open(stack: AsyncExitStack, what: str, opening: Callable[[], Awaitable[Pool]]) -> Pool:
    pool = await await_server(what, opening)

    async def close() -> None:
        # A graceful close waits for work in flight; the database may be gone, so not for ever.
        try:
            await asyncio.wait_for(pool.close(), STOP_SECONDS_MAX / 2)
        except TimeoutError:
            pool.terminate()

    stack.push_async_callback(close)
    return pool


def _run(stack: AsyncExitStack, *workers: Coroutine[object, None, None]) -> None:
    tasks = [asyncio.create_task(worker) for worker in workers]

    def on_end(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            # A ledger with a dead worker must not look alive: stop, and let the supervisor start a whole one.
            log.error("worker_died", exc_info=task.exception())
            os.kill(os.getpid(), signal.SIGTERM)

    for task in tasks:
        task.add_done_callback(on_end)

    async def stop() -> None:
        # More than once: asyncio.wait_for of Python 3.11 drops a cancellation that comes just as it ends.
        left = set(tasks)
        while left:
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_SECONDS)

    stack.push_async_callback(stop)


def _start_anew() -> None:
    log.error("database_is_another", reason="a standby took over, or a backup: the supervisor is to start this anew")
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    configure_logs()
    hide_what_was_said()
    try:
        settings = read_settings(Settings)
    except WrongSettingsError as error:
        say_cannot_start(str(error))
        sys.exit(1)
    if unknown := unknown_variables(Settings):
        log.warning("settings_are_unknown", names=unknown, reason="no setting reads these variables")
    app = create_app(settings)
    spare_what_lasts()
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=bounded_protocol(
            bounds_for(
                settings.connections_max,
                settings.connections_per_address_max,
                settings.slow_client_seconds,
                settings.slow_reader_seconds,
            )
        ),
        access_log=False,
        log_config=None,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS_MAX,
    )
