"""What the stream holds and the database has lost: found by itself, and read again before anything is decided.

A database that is put back to an earlier state (a backup, a standby that was behind, a disk that lied) does not know
that it was; the consumer of the stream has gone on. So each few seconds the ledger writes into the database how far
the stream was acknowledged, and in which incarnation of the database that was written: another one begins with each
start of its server and each copy of it. In another one everything after the mark is read again: what is in the log is
refused as a duplicate, what was lost comes back.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import nats.errors
import orjson
import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from contracts.problems import Problem
from contracts.subjects import INGEST_CONSUMER, STREAM
from ledger_service.domain.batches import Receipt
from ledger_service.intake import add_to_batch
from ledger_service.recording import Batch, Recorded, record
from ledger_service.store import stream_marks as store
from ledger_service.store.pool import TRANSIENT, Connection, Pool

log = structlog.get_logger()

#: Read and committed together; also the requests that are out at once.
PORTION_MESSAGES: Final = 200
ANSWER_SECONDS_MAX: Final = 10.0
RETRY_SECONDS: Final = 1.0
#: Of accounts and ranges, in a report.
NAMED_MAX: Final = 1_000
_WAITED_OUT: Final[tuple[type[Exception], ...]] = (*TRANSIENT, nats.errors.Error)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Gap:
    """Messages of the stream, by their sequence numbers there, that the database might lack."""

    first: int
    last: int

    @property
    def messages(self) -> int:
        return self.last - self.first + 1


@dataclass
class Reread:
    """What became of a gap."""

    gap: Gap
    log_ended_at: datetime | None
    #: Messages that were there already, as far as anything was lost at all.
    duplicates: int = 0
    #: Messages that came back into the log.
    restored: int = 0
    #: Messages that became dead letters, again or for the first time.
    letters: int = 0
    #: Messages that the stream no longer has.
    gone: int = 0
    #: By source: what came back, as inclusive ranges of its sequence numbers.
    sources: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    #: By account: outcomes that came back and whose limit check did not, as its decision was nowhere else.
    without_decision: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, object]:
        return {
            "stream": {"first": self.gap.first, "last": self.gap.last},
            "log_ended_at": self.log_ended_at and self.log_ended_at.isoformat(),
            "restored": self.restored,
            "duplicates": self.duplicates,
            "dead_letters": self.letters,
            "gone_from_stream": self.gone,
            "sources": {source: ranges[:NAMED_MAX] for source, ranges in sorted(self.sources.items())},
            "outcomes_without_decision": dict(self.without_decision.most_common(NAMED_MAX)),
        }


class StreamGaps:
    """Watches over one database and one stream; several processes may, and one of them reads again at a time."""

    def __init__(self, pool: Pool, connection: Client) -> None:
        self._pool = pool
        self._connection = connection
        self._jetstream = connection.jetstream(timeout=ANSWER_SECONDS_MAX)

    async def watch(self, interval_seconds: float) -> None:
        """Keeps the mark, and closes gaps of databases that were put back under a running ledger; until cancelled."""
        while True:
            await asyncio.sleep(interval_seconds)
            try:
                await self.close_found()
            except _WAITED_OUT as error:
                log.warning("stream_mark_waits", error=str(error) or type(error).__name__)

    async def close_found(self, progress: Progress = lambda _, __: None) -> Reread | None:
        """Reads again what this database may have lost; None where that is nothing. Idempotent.

        Raises what the driver does where the database is away, and nats.errors.Error.
        """
        if await self._find() is None:
            return None
        async with self._pool.acquire() as connection:
            await store.lock(connection)
            try:
                gap = await self._find()  # or another process has closed it meanwhile
                return None if gap is None else await self._close(connection, gap, progress)
            finally:
                await store.unlock(connection)

    async def reread(self, gap: Gap, progress: Progress = lambda _, __: None) -> Reread:
        """Reads these messages again, whatever the mark says. Idempotent; raises as close_found()."""
        async with self._pool.acquire() as connection:
            await store.lock(connection)
            try:
                return await self._close(connection, gap, progress)
            finally:
                await store.unlock(connection)

    async def _find(self) -> Gap | None:
        # First how far the stream is, then the mark: what was acknowledged by now is committed in what we look at then,
        # unless it was put back.
        info = await self._jetstream.consumer_info(STREAM, INGEST_CONSUMER)
        acknowledged = 0 if info.ack_floor is None else info.ack_floor.stream_seq
        async with self._pool.acquire() as connection:
            if await store.is_noted(connection, STREAM, info.created, acknowledged):
                return None
            async with connection.transaction():
                mark = await store.find(connection, STREAM, info.created)
                first = mark.committed_through + 1 if mark.is_same_consumer else 1
                trusted = mark.committed_through < 0
                if trusted or mark.is_same_database or acknowledged < first:
                    await store.note(connection, STREAM, info.created, acknowledged)
                    return None
                return Gap(first, acknowledged)

    async def _close(self, connection: Connection, gap: Gap, progress: Progress) -> Reread:
        done = Reread(gap, await store.log_end(connection))
        log.warning(
            "database_may_be_older_than_stream",
            first=gap.first,
            last=gap.last,
            log_ended_at=done.log_ended_at and done.log_ended_at.isoformat(),
        )
        created = (await self._jetstream.consumer_info(STREAM, INGEST_CONSUMER)).created
        following = asyncio.create_task(_read(self._jetstream, _portion(gap, gap.first)))
        try:
            for first in range(gap.first, gap.last + 1, PORTION_MESSAGES):
                messages = await following
                last = min(first + PORTION_MESSAGES - 1, gap.last)
                following = asyncio.create_task(_read(self._jetstream, _portion(gap, last + 1)))
                await self._record(messages, done)
                progress(last - gap.first + 1, gap.messages)
        finally:
            following.cancel()
        async with connection.transaction():
            await store.note(connection, STREAM, created, gap.last)
            if done.restored or done.letters or done.gone:
                report = orjson.dumps(done.to_json()).decode()
                await store.add_gap(connection, STREAM, gap.first, gap.last, done.log_ended_at, report)
        log.warning(
            "stream_read_again",
            first=gap.first,
            last=gap.last,
            restored=done.restored,
            duplicates=done.duplicates,
            dead_letters=done.letters,
            gone_from_stream=done.gone,
        )
        return done

    async def _record(self, messages: "list[tuple[str, bytes] | None]", done: Reread) -> None:
        batch = Batch()
        for message in messages:
            if message is None:
                done.gone += 1
            else:
                subject, body = message
                add_to_batch(batch, body, "jetstream", subject)
        recorded = await record(self._pool, batch)
        await self._count(batch, recorded, done)

    async def _count(self, batch: Batch, recorded: Recorded, done: Reread) -> None:
        ended, numbers = [], defaultdict(list)
        for submission, receipt in zip(batch.submissions, recorded.receipts, strict=True):
            if isinstance(receipt, Problem) or receipt is not Receipt.ACCEPTED:
                done.duplicates += receipt is Receipt.DUPLICATE
                continue
            event = submission.event
            done.restored += 1
            if event.sourcesequence is not None:
                numbers[event.source].append(event.sourcesequence)
            if event.outcome is not None:
                # Under a lease, its decision is the one that counts.
                ended.append((event.subject, event.leaseid or event.data.operation_id))
        done.letters += len(recorded.letter_codes)
        for source, found in numbers.items():
            done.sources[source] = merged([*done.sources.get(source, []), *((one, one) for one in found)])
        if ended:
            async with self._pool.acquire() as connection:
                done.without_decision.update(await store.without_decision(connection, ended))


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Inclusive ranges, sorted, those that touch as one."""
    together: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if together and first <= together[-1][1] + 1:
            together[-1] = (together[-1][0], max(last, together[-1][1]))
        else:
            together.append((first, last))
    return together


async def first_since(connection: Client, moment: datetime) -> int:
    """The sequence number of the first message that the stream got at this moment or later; the next one if none."""
    jetstream = connection.jetstream(timeout=ANSWER_SECONDS_MAX)
    state = (await jetstream.stream_info(STREAM)).state
    low, high = max(state.first_seq, 1), state.last_seq + 1
    while low < high:
        middle = (low + high) // 2
        try:
            found = await jetstream.get_msg(STREAM, middle)
        except NotFoundError:
            # Taken out by somebody; its neighbours will do.
            low = middle + 1
            continue
        if found.time is not None and found.time < moment:
            low = middle + 1
        else:
            high = middle
    return low


def _portion(gap: Gap, first: int) -> range:
    return range(first, min(first + PORTION_MESSAGES, gap.last + 1))


async def _read(jetstream: JetStreamContext, sequences: range) -> "list[tuple[str, bytes] | None]":
    """Subject and body of each; None of those that are no longer there."""

    async def one(sequence: int) -> tuple[str, bytes] | None:
        while True:
            try:
                message = await jetstream.get_msg(STREAM, sequence)
            except NotFoundError:
                return None
            except (nats.errors.Error, OSError) as error:
                # NATS is away: the gap waits for it, and with it whoever would decide on totals that lack something.
                log.warning("reading_again_waits", sequence=sequence, error=str(error) or type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return message.subject or "", message.data or b""

    return list(await asyncio.gather(*(one(sequence) for sequence in sequences)))
