"""``python -m tests.bench.history --data DIR [--events N]``: a kept database with a long history in it.

Every event goes through the ingest code, as the consumer uses it: parse, log, projections, one transaction a batch.
What differs: batches are larger, a commit does not wait for the disk, and the database's clock is that of the history,
so that ``recorded_at`` is when an event would have arrived. Ended, however it is, the same command goes on where it
was: which events are committed stands in ``sources``, committed with them.
"""

import asyncio
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Annotated, Final

import asyncpg
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from contracts.limits import Account
from deploy.local.postgres import PostgresServer
from ledger_service.administration import change_account, change_plan
from ledger_service.domain.batches import Receipt
from ledger_service.intake import add_to_batch
from ledger_service.recording import Batch, record
from ledger_service.store.pool import open_hot_pool
from tests.bench.history_events import ACCOUNTS, STREAMS, account_name, arrivals, event_of, moment_of, source_name
from tests.bench.workload import PLANS, plan_id
from tests.tokens import BOOTSTRAP

POLL_SECONDS: Final = 0.5
SCOPES: Final = 4
GIB: Final = 2**30
TIME_ZONES: Final = ("UTC", "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "America/Los_Angeles")

#: Where the setting is empty, time is what it always is.
_CLOCK: Final = (
    "alter table {0} alter column recorded_at "
    "set default coalesce(nullif(current_setting('history.now', true), '')::timestamptz, now())"
)
_NO_CLOCK: Final = "alter table {0} alter column recorded_at set default now()"
#: What is written to, with a moment of its own.
_TIMED: Final = ("event_log", "plans")
_WRITTEN: Final = "select coalesce(max(upper(part) - 1), 0) from sources, unnest(recorded) as part where source = $1"
_OTHERS: Final = "select source from sources where source like 'history-%' and source <> all ($1::text[]) limit 1"


@dataclass(frozen=True)
class History:
    """What is to be in a database."""

    events: int = 10_000_000
    seed: int = 1
    batch_events: int = 2_000
    #: Writers stop before less than this is free on the disk with this folder.
    space: Path | None = None
    free_gib_min: float = 0

    def source(self, stream: int) -> str:
        return source_name(self.seed, self.events, stream)

    def of_stream(self, stream: int) -> int:
        """How many events a stream has."""
        return self.events // STREAMS + (stream < self.events % STREAMS)

    def check_space(self) -> None:
        """Raises OSError where the disk is as full as it may get."""
        if self.space is not None and shutil.disk_usage(self.space).free < self.free_gib_min * GIB:
            raise OSError(f"less than {self.free_gib_min} GiB are free in {self.space}")


async def write_stream(database_url: str, history: History, stream: int, report: Callable[[int], None]) -> None:
    """Writes what is missing of one stream; ``report`` is told how many of its events are committed."""
    pool = await open_hot_pool(database_url, 1, "history")
    try:
        source = history.source(stream)
        async with pool.acquire() as connection:
            await connection.execute("set synchronous_commit = off")
            await connection.execute(_CLOCK.format("incoming"))
            done = int(await connection.fetchval(_WRITTEN, source))
        report(done)
        coming = islice(arrivals(history.seed, history.events, stream), done, history.of_stream(stream))
        while portion := list(islice(coming, history.batch_events)):
            history.check_space()
            batch = Batch()
            for sequence, arrival in enumerate(portion, done + 1):
                subject, body = event_of(arrival, source, sequence)
                add_to_batch(batch, body, "history", subject)
            async with pool.acquire() as connection:
                now = moment_of(portion[-1].at).isoformat()
                await connection.execute("select set_config('history.now', $1, false)", now)
            recorded = await record(pool, batch)
            if recorded.receipts != [Receipt.ACCEPTED] * len(portion):
                refused = [receipt for receipt in recorded.receipts if receipt is not Receipt.ACCEPTED]
                raise RuntimeError(f"events were refused: {batch.letters[:1] or refused[:1]}")
            done += len(portion)
            report(done)
    finally:
        await pool.close()


async def begin_history(database_url: str, history: History, accounts: int = ACCOUNTS) -> None:
    """Registers the accounts, unless they are there, and sets the clock. Raises ValueError where another history is."""
    connection = await asyncpg.connect(database_url)
    try:
        own = [history.source(stream) for stream in range(STREAMS)]
        if (other := await connection.fetchval(_OTHERS, own)) is not None:
            raise ValueError(
                f"the folder has another history, {other}: say the same --events and --seed, or take another"
            )
        for table in _TIMED:
            await connection.execute(_CLOCK.format(table))
        if await connection.fetchval("select count(*) from accounts where version > 0") < accounts:
            await connection.execute("select set_config('history.now', $1, false)", moment_of(0).isoformat())
            async with connection.transaction():
                await change_plan(connection, plan_id(SCOPES), PLANS[SCOPES])
                for rank in range(accounts):
                    account = Account(plan_id=plan_id(SCOPES), time_zone=TIME_ZONES[rank % len(TIME_ZONES)])
                    await change_account(connection, account_name(rank), account)
    finally:
        await connection.close()


async def end_history(database_url: str) -> None:
    """Gives the database its own clock back, and makes it as one that has been running: statistics, visible pages."""
    connection = await asyncpg.connect(database_url)
    try:
        for table in _TIMED:
            await connection.execute(_NO_CLOCK.format(table))
        await connection.execute("vacuum analyze")
        await connection.execute("checkpoint")
    finally:
        await connection.close()


@contextmanager
def kept_server(data: Path, port: int | None = None) -> Iterator[PostgresServer]:
    """PostgreSQL on a folder that stays, with the schema in place where it is new."""
    server = PostgresServer(data, port, settings={"max_wal_size": "4GB", "shared_buffers": "1GB"})
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _migrate(url: str) -> None:
    environment = {**os.environ, **BOOTSTRAP, "LEDGER_DATABASE_URL": url}
    command = [sys.executable, "-m", "ledger_service.cli", "migrate", "--database-only", "--shipped-prices"]
    subprocess.run(command, env=environment, check=True, capture_output=True)


def _write(url: str, history: History, stream: int, written: "Synchronized[int]") -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent ends us

    def report(done: int) -> None:
        written.value = done

    asyncio.run(write_stream(url, history, stream, report))


def _watch(
    writers: "list[multiprocessing.context.SpawnProcess]", counts: "list[Synchronized[int]]", events: int
) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task: TaskID = progress.add_task("events", total=events)
        try:
            while any(writer.is_alive() for writer in writers):
                time.sleep(POLL_SECONDS)
                progress.update(task, completed=sum(count.value for count in counts))
        finally:
            for writer in writers:
                writer.terminate()
                writer.join()


def fill_history(url: str, history: History) -> tuple[float, int]:
    """Seconds, and how many events are written."""
    _migrate(url)
    asyncio.run(begin_history(url, history))
    spawn = multiprocessing.get_context("spawn")
    counts = [spawn.Value("q", 0) for _ in range(STREAMS)]
    begin = time.perf_counter()
    writers = [spawn.Process(target=_write, args=(url, history, stream, counts[stream])) for stream in range(STREAMS)]
    for writer in writers:
        writer.start()
    _watch(writers, counts, history.events)
    seconds, written = time.perf_counter() - begin, sum(count.value for count in counts)
    if written == history.events:
        asyncio.run(end_history(url))
    return seconds, written


def fill(
    data: Annotated[Path, typer.Option(help="The folder, kept; made where there is none.")],
    events: Annotated[int, typer.Option(min=STREAMS, help="In all; the same number to go on.")] = 10_000_000,
    seed: Annotated[int, typer.Option(help="The same seed, the same history.")] = 1,
    free_gib: Annotated[float, typer.Option(help="Stop before less than that is free on the disk.")] = 5,
    port: Annotated[int | None, typer.Option(help="PostgreSQL's, while it runs; one that is free.")] = None,
    serve: Annotated[bool, typer.Option(help="Write nothing: run PostgreSQL on the folder until Ctrl-C.")] = False,
) -> None:
    """Fills a database with 18 months of 10,000 accounts, or goes on doing so."""
    with kept_server(data, port) as server:
        if serve:
            typer.echo(server.url)
            signal.pause()
            return
        seconds, written = fill_history(server.url, History(events, seed, space=data, free_gib_min=free_gib))
        typer.echo(json.dumps({"events": written, "of": events, "seconds": round(seconds), "data": str(data)}))
        if written < events:
            typer.echo("not all is written: run the same command again, it goes on", err=True)
            raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(fill)
