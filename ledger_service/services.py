"""What the request handlers work with; made once in main.py."""

from dataclasses import dataclass

from fastapi import Request
from nats.aio.client import Client

from ledger_service.event_intake import EventIntake
from ledger_service.limit_checks import LimitChecks
from ledger_service.store.accounts import PlanCache
from ledger_service.store.pool import Pool


@dataclass(frozen=True)
class Services:
    """The running parts of one ledger process."""

    reads: Pool
    limit_checks: LimitChecks
    event_intake: EventIntake
    plans: PlanCache
    nats: Client
    default_plan_id: str | None
    ttl_seconds: int


async def services(request: Request) -> Services:
    """FastAPI dependency: the services of the running app. Async, as a plain function would cost a thread hop."""
    found: Services = request.app.state.services
    return found
