"""Counts the denials of days that are over, each day once."""

import asyncio
from typing import Final

import structlog

from ledger_service.store.denials import count_days
from ledger_service.store.pool import TRANSIENT, Pool

log = structlog.get_logger()

INTERVAL_SECONDS: Final = 600.0


async def count_denials_of_days(pool: Pool) -> None:
    """Every ten minutes; until cancelled. Each ledger process does so: whoever comes second finds nothing to do."""
    while True:
        try:
            async with pool.acquire() as connection:
                while until := await count_days(connection):
                    log.info("denials_counted", until=until.isoformat())
        except TRANSIENT as error:
            log.warning("denials_not_counted", error=str(error) or type(error).__name__)
        await asyncio.sleep(INTERVAL_SECONDS)
