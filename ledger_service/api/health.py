"""Whether the process lives, and whether it can do its work."""

from typing import Annotated, Final, Literal

import asyncpg
import structlog
from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from contracts.version import VERSION
from ledger_service.api.access import LedgerRoute
from ledger_service.services import Services, services
from ledger_service.store.migrations import MigrationError, check_schema
from ledger_service.store.pool import UNAVAILABLE, acquire_within

log = structlog.get_logger()

router = APIRouter(route_class=LedgerRoute, tags=["health"])

_DOWN: Final[tuple[type[Exception], ...]] = (*UNAVAILABLE, asyncpg.PostgresError)
PROBE_TIMEOUT_SECONDS: Final = 2.0


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"]
    version: str


class Readiness(BaseModel):
    """``database``: ok, down or too new; ``nats``: ok or down."""

    status: Literal["ready", "not ready"]
    database: Literal["ok", "down", "too new"]
    nats: Literal["ok", "down"]


@router.get("/livez")
async def livez() -> Alive:
    return Alive(status="alive", version=VERSION)


@router.get("/readyz", response_model=Readiness, responses={503: {"description": "Names what does not answer"}})
async def readyz(wired: Annotated[Services, Depends(services)]) -> JSONResponse:
    """200 when the database and NATS answer, else 503 that names what does not.

    `too new` is a schema that this version of the ledger cannot work with: it decides and records nothing any more.
    """
    parts = {"database": await _database_state(wired), "nats": "ok" if wired.nats.is_connected else "down"}
    ready = set(parts.values()) == {"ok"}
    return JSONResponse(
        {"status": "ready" if ready else "not ready", **parts},
        status_code=200 if ready else 503,
        headers={} if ready else {"Retry-After": "1"},
    )


async def _database_state(wired: Services) -> str:
    try:
        async with acquire_within(wired.reads, PROBE_TIMEOUT_SECONDS) as connection:
            await check_schema(connection)
    except MigrationError as error:
        log.warning("schema_does_not_fit", reason=str(error))
        return "too new"
    except _DOWN:
        return "down"
    return "ok"
