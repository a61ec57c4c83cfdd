"""Ends holds whose time is over. A late outcome still counts."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from ledger_service.store.accounts import lock_accounts
from ledger_service.store.decisions import OperationKey, close_holds, find_due
from ledger_service.store.pool import TRANSIENT, Pool

log = structlog.get_logger()

PORTION_MAX: Final = 500


async def expire_holds(pool: Pool, interval_seconds: float, on_expired: Callable[[int], None] = lambda _: None) -> None:
    """Every interval, expires what is due, in bounded portions, and tells how many that were; until cancelled."""
    while True:
        try:
            while len(await expire_portion(pool, on_expired)) == PORTION_MAX:
                pass
        except TRANSIENT as error:
            log.warning("expiry_waits", error=str(error) or type(error).__name__)
        await asyncio.sleep(interval_seconds)


async def expire_portion(pool: Pool, on_expired: Callable[[int], None] = lambda _: None) -> list[OperationKey]:
    """Expires up to PORTION_MAX holds and answers which were due; several processes may do so at once."""
    async with pool.acquire() as connection:
        due = await find_due(connection, PORTION_MAX)
        if due:
            async with connection.transaction():
                await lock_accounts(connection, {key.account_id for key in due})
                ended = await close_holds(connection, due, "expired", only_due=True)
            on_expired(len(ended))
        return due
