"""From the journal to the ledger over HTTP: the second way beside NATS, or the only one.

A hold ends when its time is over, whether its outcome waits in a journal or not. While NATS is away the ledger would
give the share of a finished operation to another one; so an outcome must not wait for NATS as long as a hold lasts.
"""

import asyncio
import time
from typing import Final

import structlog

from contracts.client.errors import LedgerRefused, LedgerUnavailable
from contracts.client.http_transport import HttpTransport
from contracts.client.journal import Journal, JournalUnavailableError
from contracts.client.republish import merge_ranges
from contracts.events import INT8_MAX

ROWS_MAX: Final = 500
LOOK_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 5.0
#: Events that the ledger could not read stay in the journal, and are shown to it again after so long: it may be newer.
REFUSED_AGAIN_SECONDS: Final = 60.0

_log = structlog.stdlib.get_logger(__name__)

_UNAVAILABLE: Final = (JournalUnavailableError, LedgerUnavailable, LedgerRefused)


class _Place:
    """How far a delivery has come."""

    def __init__(self) -> None:
        self.sent = 0
        self._all_again_at = 0.0

    def next(self) -> int:
        """From which sequence on to send: after what was sent last, and now and then all that is unconfirmed."""
        if time.monotonic() >= self._all_again_at:
            self.sent, self._all_again_at = 0, time.monotonic() + REFUSED_AGAIN_SECONDS
        return self.sent + 1


class HttpDelivery:
    def __init__(self, journal: Journal, http: HttpTransport) -> None:
        self._journal = journal
        self._http = http

    async def run_after(self, after_seconds: float) -> None:
        """Beside NATS, until cancelled: sends what is unconfirmed once the oldest was so for ``after_seconds``.

        Events may arrive over NATS as well: the ledger takes each only once.
        """
        oldest, since = 0, time.monotonic()
        place = _Place()
        while True:
            await asyncio.sleep(min(LOOK_SECONDS, after_seconds))
            try:
                first, _ = await self._journal.outbox_ends()
                if first != oldest:
                    oldest, since = first, time.monotonic()
                elif first and time.monotonic() - since >= after_seconds:
                    begin = max(first, place.next())
                    place.sent = await self._deliver(begin)
                    if place.sent >= begin:
                        _log.info("delivered_over_http", first=begin, last=place.sent)
            except _UNAVAILABLE as error:
                _log.warning("http_delivery_waits", reason=str(error))
                await asyncio.sleep(PAUSE_SECONDS)

    async def run_at_once(self) -> None:
        """As the only way, until cancelled: sends everything as soon as it is in the journal."""
        place = _Place()
        while True:
            self._journal.outbox_grew.clear()
            try:
                place.sent = await self._deliver(place.next())
            except _UNAVAILABLE as error:
                _log.warning("http_delivery_waits", reason=str(error))
                place.sent = 0
                await asyncio.sleep(LOOK_SECONDS)
                continue
            try:
                async with asyncio.timeout(LOOK_SECONDS):  # should a notice ever be missed
                    await self._journal.outbox_grew.wait()
            except TimeoutError:
                continue

    async def _deliver(self, first: int) -> int:
        """Everything that is unconfirmed now, from this sequence on, in portions; the last sequence that was sent."""
        sent = first - 1
        while rows := await self._journal.outbox(sent + 1, INT8_MAX, ROWS_MAX):
            refused = await self._http.record_events([row.body for row in rows])
            committed = [row.sequence for index, row in enumerate(rows) if index not in refused]
            await self._journal.confirm(merge_ranges([(sequence, sequence) for sequence in committed]))
            if refused:
                _log.error("events_refused", events=len(refused), first=next(iter(refused.values())).detail)
            sent = rows[-1].sequence
        return sent
