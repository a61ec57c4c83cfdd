"""What a stack uses while it runs, every few seconds: memory, files, threads, tasks, connections, holds, latency."""

import asyncio
import csv
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Final

import asyncpg

from tests.faults.arena import Arena

SERVICES: Final = ("image", "ledger")
_PAGE_BYTES: Final = 4096
_QUERY: Final = """
    select (select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()),
           (select count(*) from decisions where state = 'held')
"""


@dataclass
class Sample:
    """None: could not be had then, as while the process or the database was away. Seconds, megabytes, milliseconds."""

    at: float
    image_pid: int | None = None
    ledger_pid: int | None = None
    image_memory: float | None = None
    ledger_memory: float | None = None
    image_files: int | None = None
    ledger_files: int | None = None
    image_threads: int | None = None
    ledger_threads: int | None = None
    image_tasks: int | None = None
    ledger_tasks: int | None = None
    connections: int | None = None
    holds: int | None = None
    operations: int = 0
    image_p50: float | None = None
    image_p99: float | None = None
    check_p50: float | None = None
    check_p99: float | None = None
    #: No fault is under way, and none was shortly before.
    calm: bool = True


def percentile(values: list[float], share: float) -> float | None:
    """In milliseconds; None of nothing."""
    return 1000 * sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else None


@dataclass
class Sampler:
    """``images`` and ``checks``: lists of seconds that the load appends to; each sample takes what has come since."""

    arena: Arena
    images: list[float]
    checks: list[float]
    is_calm: Callable[[], bool]
    samples: list[Sample] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    _seen: tuple[int, int] = (0, 0)

    async def run(self, every_seconds: float) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(every_seconds)
            self.samples.append(await self.take())

    def now(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    async def take(self) -> Sample:
        images, checks = self.images[self._seen[0] :], self.checks[self._seen[1] :]
        self._seen = len(self.images), len(self.checks)
        sample = Sample(self.now(), calm=self.is_calm(), operations=len(images) + len(checks))
        sample.image_p50, sample.image_p99 = percentile(images, 0.5), percentile(images, 0.99)
        sample.check_p50, sample.check_p99 = percentile(checks, 0.5), percentile(checks, 0.99)
        for name in SERVICES:
            with suppress(OSError, ValueError, AssertionError):
                for what, value in self._of_process(name):
                    setattr(sample, f"{name}_{what}", value)
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, AssertionError, TimeoutError):
            [row] = await self.arena.stack.fetch(_QUERY)
            sample.connections, sample.holds = row
        return sample

    def _of_process(self, name: str) -> Iterator[tuple[str, float]]:
        pid = getattr(self.arena.stack.state.pids, name)
        process = Path("/proc", str(pid))
        yield "memory", int((process / "statm").read_text().split()[1]) * _PAGE_BYTES / 1e6
        yield "files", len(list((process / "fd").iterdir()))
        [threads] = [line for line in (process / "status").read_text().splitlines() if line.startswith("Threads:")]
        yield "threads", int(threads.split()[1])
        yield "pid", pid
        yield "tasks", int((self.arena.folder / f"tasks-{name}").read_text())

    def write(self, file: Path) -> None:
        """As CSV."""
        with file.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, [one.name for one in fields(Sample)])
            writer.writeheader()
            writer.writerows(asdict(sample) for sample in self.samples)
