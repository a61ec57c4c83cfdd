"""What one ledger process tells Prometheus: counted where it happens, or read when it is scraped."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar

import structlog

from contracts.metrics import Distribution, Metric, Reading, Tally, write
from contracts.problems import ACCESS_UNAVAILABLE, INTERNAL, OVERLOADED, STORE_UNAVAILABLE
from contracts.version import VERSION
from ledger_service import metric_names as names
from ledger_service.looks import Looks
from ledger_service.store.dead_letters import count_open_by_code
from ledger_service.store.figures import read_standing, read_unsealed
from ledger_service.store.pool import TRANSIENT, Connection, Pool, acquire_within
from ledger_service.store.webhooks import read_figures
from ledger_service.workers.freshness import Freshness

log = structlog.get_logger()

#: However often it is asked, the database is asked no more often than this.
DATABASE_SECONDS: Final = 5.0
#: For all of the reads, which are made at once; what takes longer is left out.
READ_TIMEOUT_SECONDS: Final = 1.5

Read = TypeVar("Read")


class Metrics:
    """The metrics of one ledger process. All counting is safe and cheap from the event loop."""

    def __init__(self, reads: Pool) -> None:
        self.checks = CheckMetrics()
        self.ingest = IngestMetrics()
        self._holds_expired = Tally(names.HOLDS_EXPIRED)
        self._webhooks = Tally(names.WEBHOOK_REQUESTS, ("delivered",), ("failed",), ("given_up",), ("disabled",))
        self._seals_diverged = False
        self._origin: str | None = None
        self._freshness: Freshness | None = None
        self._nats_connected: Callable[[], bool] = lambda: False
        self._database = _FromDatabase(reads)

    def seals_diverged(self, diverged: bool) -> None:
        self._seals_diverged = diverged

    def holds_expired(self, holds: int) -> None:
        self._holds_expired.add(amount=holds)

    def webhook_tried(self, outcome: str) -> None:
        self._webhooks.add(outcome)

    def watch(self, freshness: Freshness, nats_connected: Callable[[], bool], origin: str | None) -> None:
        """From then on told of these, too; ``origin`` of the chain of seals, None: the log is not sealed."""
        self._freshness, self._nats_connected, self._origin = freshness, nats_connected, origin

    async def exposition(self) -> bytes:
        """The text that Prometheus scrapes. What cannot be read from the database now is not in it."""
        counted = (*self.checks.instruments, *self.ingest.instruments, self._holds_expired, self._webhooks)
        return write(counted, await self.readings())

    async def readings(self) -> dict[Metric, Reading]:
        """The gauges, without those that cannot be read from the database now."""
        readings = dict(await self._database.readings(self._origin))
        readings[names.BUILD_INFO] = {(VERSION,): 1.0}
        readings[names.SEALS_DIVERGED] = float(self._seals_diverged)
        readings[names.NATS_CONNECTED] = float(self._nats_connected())
        if self._freshness is not None:
            readings[names.INGEST_LAG_EVENTS] = self._freshness.looks.behind
            readings[names.INGEST_LAG_SECONDS] = self._freshness.looks.seconds_behind(time.monotonic())
        return readings


class CheckMetrics:
    """Of limit checks."""

    def __init__(self) -> None:
        self._seconds = Distribution(names.CHECK_SECONDS)
        self._batches = Distribution(names.CHECK_BATCH)
        self._decisions = Tally(names.DECISIONS, ("allowed",), ("denied",))
        self._denials = Tally(names.DENIALS)
        from_the_start = (STORE_UNAVAILABLE, ACCESS_UNAVAILABLE, OVERLOADED, INTERNAL)
        self._errors = Tally(names.CHECK_ERRORS, *((one.code,) for one in from_the_start))
        self.instruments = (self._seconds, self._batches, self._decisions, self._denials, self._errors)

    def batch(self, seconds: Sequence[float]) -> None:
        """One batch was answered, its checks so many seconds after they came."""
        self._batches.observe(len(seconds))
        self._seconds.observe_many(seconds)

    def decided(self, allowed: int, denial_codes: Iterable[str]) -> None:
        """New decisions that were committed."""
        if allowed:
            self._decisions.add("allowed", amount=allowed)
        for code in denial_codes:
            self._decisions.add("denied")
            self._denials.add(code)

    def failed(self, code: str, checks: int = 1) -> None:
        self._errors.add(code, amount=checks)


class IngestMetrics:
    """Of events that come over JetStream and HTTP."""

    def __init__(self) -> None:
        self._seconds = Distribution(names.INGEST_SECONDS)
        self._batches = Distribution(names.INGEST_BATCH)
        self._events = Tally(names.INGESTED)
        self._dead_letters = Tally(names.DEAD_LETTERS)
        self.instruments = (self._seconds, self._batches, self._events, self._dead_letters)

    def batch(self, events: int, seconds: float) -> None:
        """A batch from JetStream was committed."""
        self._batches.observe(events)
        self._seconds.observe(seconds)

    def committed(self, accepted: int, duplicates: int, letter_codes: Sequence[str]) -> None:
        """What became of a batch; of each letter its problem's code."""
        self._events.add("accepted", amount=accepted)
        self._events.add("duplicate", amount=duplicates)
        self._events.add("dead_lettered", amount=len(letter_codes))
        for code in letter_codes:
            self._dead_letters.add(code)


class _FromDatabase:
    """Gauges of what is in the database, which is the same whichever ledger process tells it; at most
    DATABASE_SECONDS old."""

    def __init__(self, reads: Pool) -> None:
        self._reads = reads
        self._readings: dict[Metric, Reading] = {}
        self._read_at = -DATABASE_SECONDS
        self._turn = asyncio.Lock()
        self._transactions = Looks()

    async def readings(self, origin: str | None) -> dict[Metric, Reading]:
        async with self._turn:
            if time.monotonic() - self._read_at >= DATABASE_SECONDS:
                self._read_at = time.monotonic()
                reads = [self._letters(), self._standing(), self._webhooks()]
                if origin is not None:
                    reads.append(self._unsealed(origin))
                # At once: one that has to wait leaves out none of the others, and none adds its wait to theirs.
                found = await asyncio.gather(*reads)
                self._readings = {metric: reading for one in found for metric, reading in one.items()}
            return self._readings

    async def _letters(self) -> dict[Metric, Reading]:
        by_code = await self._bounded(count_open_by_code)
        if by_code is None:
            return {}
        return {
            names.LETTERS_OPEN: sum(by_code.values()),
            names.LETTERS_OPEN_BY_CODE: {(code,): letters for code, letters in by_code.items()},
        }

    async def _standing(self) -> dict[Metric, Reading]:
        looked_at = time.monotonic()
        found = await self._bounded(read_standing)
        if found is None:
            return {}
        self._transactions.saw(looked_at, found.next_transaction, found.horizon)
        return {
            names.HORIZON_AGE: self._transactions.seconds_behind(looked_at),
            names.HOLDS_OPEN: found.holds_open,
            names.HOLDS_OVERDUE: found.holds_overdue_seconds,
            names.MISSING_EVENTS: found.missing_events,
        }

    async def _webhooks(self) -> dict[Metric, Reading]:
        found = await self._bounded(read_figures)
        if found is None:
            return {}
        owners = (("operator",), found.operator), (("account",), found.accounts)
        return {
            names.WEBHOOKS_DISABLED: {owner: of.disabled for owner, of in owners},
            names.WEBHOOKS_PAUSED: sum(of.paused for _, of in owners),
            names.WEBHOOK_LAG: {owner: of.lag_seconds for owner, of in owners},
            names.WEBHOOK_OVERDUE: max(of.overdue_seconds for _, of in owners),
        }

    async def _unsealed(self, origin: str) -> dict[Metric, Reading]:
        found = await self._bounded(lambda connection: read_unsealed(connection, origin))
        return {} if found is None else {names.SEAL_LAG_EVENTS: found.events, names.SEAL_LAG_SECONDS: found.seconds}

    async def _bounded(self, read: Callable[[Connection], Awaitable[Read]]) -> Read | None:
        try:
            async with acquire_within(self._reads, READ_TIMEOUT_SECONDS) as connection:
                return await read(connection)
        except TRANSIENT as error:
            log.warning("metrics_without_database", error=str(error) or type(error).__name__)
            return None
