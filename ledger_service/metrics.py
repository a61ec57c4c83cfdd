"""What the ledger tells Prometheus. Each metric is made here, and counted where it happens.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from ledger_service.store.dead_letters import count_open_by_code
from ledger_service.store.pool import TRANSIENT, Pool

log = structlog.get_logger()

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
#: However often it is asked, the database is asked no more often than this.
DATABASE_SECONDS: Final = 5.0
READ_TIMEOUT_SECONDS: Final = 2.0


class Metrics:
    """The metrics of one ledger process."""

    def __init__(self, reads: Pool) -> None:
        self._reads = reads
        self._registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self._registry)
        self._dead_letters = Counter(
            "ledger_dead_letters",
            "Messages that could not enter the log, since this process started; the same bytes count each time.",
            ["code"],
            registry=self._registry,
        )
        self._seals_diverged = Gauge(
            "ledger_seals_diverged",
            "1: what was published of the seals does not go on in this database, so that nothing is sealed.",
            registry=self._registry,
        )
        self._database = _FromDatabase()

    def seals_diverged(self, diverged: bool) -> None:
        self._seals_diverged.set(diverged)

    def dead_lettered(self, codes: Iterable[str]) -> None:
        """Letters that were committed, each with its problem's code."""
        for code in codes:
            self._dead_letters.labels(code).inc()

    async def exposition(self) -> bytes:
        """The text that Prometheus scrapes. What cannot be read from the database now is not in it."""
        async with self._database.fresh(self._reads):
            known = generate_latest(self._database.registry) if self._database.is_known else b""
        return generate_latest(self._registry) + known


class _FromDatabase:
    """Gauges of what is in the database, which is the same whichever ledger process tells it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.is_known = False
        self._open = Gauge(
            "ledger_dead_letters_open", "Dead letters that nobody has dealt with.", registry=self.registry
        )
        self._open_by_code = Gauge(
            "ledger_dead_letters_open_by_code",
            "The same by what is wrong with them.",
            ["code"],
            registry=self.registry,
        )
        self._read_at = -DATABASE_SECONDS
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def fresh(self, reads: Pool) -> AsyncIterator[None]:
        """Within it the gauges do not change; they are at most DATABASE_SECONDS old, or not known."""
        async with self._turn:
            if time.monotonic() - self._read_at >= DATABASE_SECONDS:
                await self._read(reads)
            yield

    async def _read(self, reads: Pool) -> None:
        self._read_at = time.monotonic()
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS), reads.acquire() as connection:
                open_by_code = await count_open_by_code(connection)
        except TRANSIENT as error:
            log.warning("metrics_without_database", error=str(error) or type(error).__name__)
            self.is_known = False
            return
        self._open.set(sum(open_by_code.values()))
        self._open_by_code.clear()
        for code, letters in open_by_code.items():
            self._open_by_code.labels(code).set(letters)
        self.is_known = True
