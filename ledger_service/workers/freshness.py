"""How far behind the stream the log may be: what producers were told is kept, and is not counted yet."""

import asyncio
import time
from typing import Final

import nats.errors
import structlog
from nats.aio.client import Client

from contracts.subjects import INGEST_CONSUMER, STREAM
from ledger_service.looks import Looks

log = structlog.get_logger()

INTERVAL_SECONDS: Final = 1.0
ANSWER_SECONDS_MAX: Final = 5.0


class Freshness:
    """Looks at the stream now and then: how long it was at a moment. Once ingest has acknowledged that much, all that
    the stream had at that moment is committed: whoever reads then, sees it.

    Each process has one of its own; what other processes ingest counts as well.
    """

    def __init__(self, connection: Client) -> None:
        self._jetstream = connection.jetstream(timeout=ANSWER_SECONDS_MAX)
        self.looks = Looks()

    @property
    def complete_at(self) -> float | None:
        """All that the stream had at this moment (time.monotonic) is committed; None: not known yet. To be asked before
        a snapshot is taken. Stands still while the stream cannot be reached."""
        return self.looks.complete_at

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._look()
            except (nats.errors.Error, OSError, TimeoutError) as error:
                log.warning("freshness_unknown", error=str(error) or type(error).__name__)
            await asyncio.sleep(INTERVAL_SECONDS)

    async def _look(self) -> None:
        looked_at = time.monotonic()
        last = (await self._jetstream.stream_info(STREAM)).state.last_seq
        info = await self._jetstream.consumer_info(STREAM, INGEST_CONSUMER)
        acknowledged = 0 if info.ack_floor is None else info.ack_floor.stream_seq
        self.saw(looked_at, last, acknowledged)

    def saw(self, looked_at: float, last: int, acknowledged: int) -> None:
        """At ``looked_at`` the stream had messages up to ``last``; since, those up to ``acknowledged`` were
        committed."""
        self.looks.saw(looked_at, last, acknowledged)
