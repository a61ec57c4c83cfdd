"""Looks for holes in the numbers of sources; each is kept, and told, once."""

import asyncio
from datetime import UTC, datetime
from typing import Final

import structlog

from ledger_service.domain.holes import Hole, missing_since, overdue
from ledger_service.store.holes import add_holes, read_gaps
from ledger_service.store.pool import TRANSIENT, Pool

log = structlog.get_logger()

#: Looked at, at most; those behind them get their turn once these are kept.
GAPS_MAX: Final = 1_000


async def find_holes(pool: Pool, interval_seconds: float, hole_seconds: float) -> None:
    """Every interval; until cancelled. What is missing is a hole once this process has missed it for so long."""
    known: dict[Hole, datetime] = {}
    while True:
        try:
            async with pool.acquire() as connection:
                now = datetime.now(UTC)
                known = missing_since(await read_gaps(connection, GAPS_MAX), known, now)
                found = overdue(known, now, hole_seconds)
                if found and await add_holes(connection, found):
                    log.warning("holes_found", holes=len(found), source=found[0][0].source, first=found[0][0].first)
        except TRANSIENT as error:
            log.warning("holes_unknown", error=str(error) or type(error).__name__)
        await asyncio.sleep(interval_seconds)
