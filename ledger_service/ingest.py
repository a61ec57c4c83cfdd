"""JetStream → log and projections. Acknowledged only once committed; several writers overlap."""

import asyncio
import time
from typing import Final

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from contracts.events import RecordedRanges
from contracts.subjects import INGEST_CONSUMER, POSITION_HEADER, RECORDED, STREAM
from ledger_service.ingest_spans import tell_commits
from ledger_service.intake import add_to_batch
from ledger_service.metrics import IngestMetrics
from ledger_service.pull import PullSubscription
from ledger_service.recording import Batch, Recorded, record
from ledger_service.store.pool import TRANSIENT, Pool
from ledger_service.store.sources import active_sources

log = structlog.get_logger()

RETRY_SECONDS_FIRST: Final = 0.1
RETRY_SECONDS_MAX: Final = 5.0
#: Sources of which something was committed within this time are confirmed again and again.
ACTIVE_SECONDS: Final = 3600.0
#: Of a source with many holes, in one message: half of what NATS takes.
RANGES_PER_MESSAGE_MAX: Final = 10_000
_ACK: Final = b"+ACK"


class Ingest:
    """Consumes the stream. Delivery is at least once, effect exactly once: the log refuses what it has."""

    def __init__(
        self,
        pool: Pool,
        reads: Pool,
        connection: Client,
        batch_events_max: int,
        metrics: IngestMetrics,
    ) -> None:
        self._pool = pool
        self._reads = reads
        self._connection = connection
        self._metrics = metrics
        self._batch_events_max = batch_events_max
        self._pull = PullSubscription(connection, STREAM, INGEST_CONSUMER, buffer_max=4 * batch_events_max)
        self.keep_asking = self._pull.keep_asking
        self.start = self._pull.start
        self.give_back = self._pull.give_back

    async def write(self) -> None:
        """One writer: takes what has arrived, commits it, acknowledges it; until cancelled."""
        while True:
            messages = await self._pull.take(self._batch_events_max)
            began, began_at_ns = time.perf_counter(), time.time_ns()
            batch = read_batch(messages)
            recorded = await self._record_patiently(batch)
            self._metrics.committed(recorded.accepted, recorded.duplicates, recorded.letter_codes)
            await self._acknowledge(messages)
            tell_commits(batch.submissions, recorded.receipts, began_at_ns)
            await self.confirm(recorded.confirmations, recorded.position)
            self._metrics.batch(len(messages), time.perf_counter() - began)

    async def confirm(self, confirmations: list[RecordedRanges], position: int | None = None) -> None:
        """Tells producers what is committed, and as what. Best effort: it is said again, see confirm_active()."""
        headers = None if position is None else {POSITION_HEADER: str(position)}
        try:
            for confirmation in confirmations:
                for portion in portions(confirmation):
                    await self._connection.publish(RECORDED, portion.model_dump_json().encode(), headers=headers)
        except nats.errors.Error as error:
            log.warning("confirmation_lost", error=str(error))

    async def confirm_active(self, interval_seconds: float) -> None:
        """Repeats the confirmations of active sources, for producers that were away; until cancelled."""
        while True:
            await asyncio.sleep(interval_seconds)
            try:
                async with self._reads.acquire() as connection:
                    confirmations = await active_sources(connection, ACTIVE_SECONDS)
            except TRANSIENT as error:
                log.warning("confirm_waits", error=str(error))
                continue
            await self.confirm(confirmations)

    async def _acknowledge(self, messages: list[Msg]) -> None:
        try:
            for message in messages:
                await self._connection.publish(message.reply, _ACK)
        except nats.errors.Error as error:
            # Committed all the same: they are delivered again, and the log refuses them as duplicates.
            log.warning("acknowledgement_lost", error=str(error))

    async def _record_patiently(self, batch: Batch) -> Recorded:
        # However long the database is away, the batch is neither lost nor dead-lettered; redelivery changes nothing.
        pause = RETRY_SECONDS_FIRST
        while True:
            try:
                return await record(self._pool, batch)
            except TRANSIENT as error:
                log.warning("ingest_waits", error=str(error) or type(error).__name__, retry_seconds=pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_SECONDS_MAX)


def portions(confirmation: RecordedRanges) -> list[RecordedRanges]:
    """As many messages as it takes. Each ends with the last range: by that a journal that was put back to an older copy
    knows that these are not its own numbers."""
    if len(confirmation.recorded) <= RANGES_PER_MESSAGE_MAX:
        return [confirmation]
    *others, last = confirmation.recorded
    return [
        confirmation.model_copy(update={"recorded": [*others[first : first + RANGES_PER_MESSAGE_MAX], last]})
        for first in range(0, len(others), RANGES_PER_MESSAGE_MAX)
    ]


def read_batch(messages: list[Msg]) -> Batch:
    """Decodes messages: events, dead letters, and the sequence numbers of both."""
    batch = Batch()
    for message in messages:
        add_to_batch(batch, message.data, "jetstream", message.subject)
    return batch
