"""The second way to the ledger: events that stay unconfirmed go over HTTP.

A hold ends when its time is over, whether its outcome waits in a journal or not. While NATS is away the ledger would
give the share of a finished operation to another one; so an outcome must not wait for NATS as long as a hold lasts.
"""

import asyncio
import time
from typing import Final

import structlog

from image_service.journal import Journal, JournalUnavailableError
from image_service.ledger_client import LedgerClient, LedgerRefusedError, LedgerUnavailableError

ROWS_MAX: Final = 500
LOOK_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 5.0

_log = structlog.stdlib.get_logger(__name__)


class HttpDelivery:
    """Sends the oldest events over HTTP once the first of them was not confirmed for ``after_seconds``.

    They may arrive over NATS as well: the ledger takes each only once.
    """

    def __init__(self, journal: Journal, ledger: LedgerClient, after_seconds: float) -> None:
        self._journal = journal
        self._ledger = ledger
        self._after_seconds = after_seconds

    async def run(self) -> None:
        """Looks and delivers until cancelled."""
        oldest, since = 0, time.monotonic()
        while True:
            await asyncio.sleep(min(LOOK_SECONDS, self._after_seconds))
            try:
                first, _ = await self._journal.outbox_ends()
                if first != oldest:
                    oldest, since = first, time.monotonic()
                elif first and time.monotonic() - since >= self._after_seconds:
                    await self._deliver(first)
            except (JournalUnavailableError, LedgerUnavailableError, LedgerRefusedError) as error:
                _log.warning("http_delivery_waits", reason=str(error))
                await asyncio.sleep(PAUSE_SECONDS)

    async def _deliver(self, first: int) -> None:
        """Everything that is unconfirmed now, oldest first, in portions."""
        _, last = await self._journal.outbox_ends()
        while rows := await self._journal.outbox(first, last, ROWS_MAX):
            refused = await self._ledger.record_events([row.body for row in rows])
            committed = [row.sequence for index, row in enumerate(rows) if index not in refused]
            await self._journal.confirm((sequence, sequence) for sequence in committed)
            _log.info("delivered_over_http", events=len(committed), refused=len(refused))
            first = rows[-1].sequence + 1
