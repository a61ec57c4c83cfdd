"""Whether the process lives, and whether it can do its work."""

import asyncio
from typing import Annotated, Final

import asyncpg
from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from ledger_service.api.access import LedgerRoute
from ledger_service.services import Services, services
from ledger_service.store.pool import UNAVAILABLE

router = APIRouter(route_class=LedgerRoute, tags=["health"])

_DOWN: Final[tuple[type[Exception], ...]] = (*UNAVAILABLE, asyncpg.PostgresError)
PROBE_TIMEOUT_SECONDS: Final = 2.0


@router.get("/livez")
async def livez() -> dict[str, str]:
    return {"status": "alive"}


@router.get("/readyz", responses={503: {"description": "Names what does not answer"}})
async def readyz(wired: Annotated[Services, Depends(services)]) -> JSONResponse:
    """200 when the database and NATS answer, else 503 that names what does not."""
    parts = {"database": await _database_answers(wired), "nats": wired.nats.is_connected}
    ready = all(parts.values())
    return JSONResponse(
        {"status": "ready" if ready else "not ready", **{name: "ok" if ok else "down" for name, ok in parts.items()}},
        status_code=200 if ready else 503,
        headers={} if ready else {"Retry-After": "1"},
    )


async def _database_answers(wired: Services) -> bool:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_SECONDS), wired.reads.acquire() as connection:
            await connection.execute("select 1")
    except _DOWN:
        return False
    return True
