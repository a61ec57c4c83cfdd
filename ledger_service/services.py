"""What the request handlers work with; made once in main.py."""

from dataclasses import dataclass

from fastapi import Request
from nats.aio.client import Client

from contracts.access.authenticator import Authenticator, NoAccessControl
from ledger_service.analytics import Analytics
from ledger_service.calls import Calls
from ledger_service.event_intake import EventIntake
from ledger_service.exporting import Exports
from ledger_service.line_streams import Backtests, Repricings
from ledger_service.live import Live
from ledger_service.metrics import Metrics
from ledger_service.nearest_limits import Nearest
from ledger_service.sealing import SealChain
from ledger_service.service_tokens import ServiceTokens
from ledger_service.store.pool import Pool
from ledger_service.store.prices import CatalogueCache
from ledger_service.store.terms import TermsCache
from ledger_service.webhook_targets import Targets
from ledger_service.workers.freshness import Freshness


@dataclass(frozen=True)
class Services:
    """The running parts of one ledger process."""

    reads: Pool
    #: For what enters the log seldom: connections with a staging table, shared with the background workers.
    writes: Pool
    #: For analytics: long reads, which no other read waits for.
    analytics: Analytics
    access: Authenticator | NoAccessControl
    tokens: ServiceTokens
    calls: Calls
    event_intake: EventIntake
    backtests: Backtests
    repricings: Repricings
    exports: Exports
    terms: TermsCache
    nearest: Nearest
    prices: CatalogueCache
    metrics: Metrics
    live: Live
    nats: Client
    freshness: Freshness
    #: Where webhooks may be sent.
    targets: Targets
    #: None: the log is not sealed.
    seals: SealChain | None
    default_plan_id: str | None


async def services(request: Request) -> Services:
    """FastAPI dependency: the services of the running app. Async, as a plain function would cost a thread hop."""
    found: Services = request.app.state.services
    return found
