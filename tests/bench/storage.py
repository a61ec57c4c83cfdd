"""``python -m tests.bench.storage --data DIR``: bytes per event in a folder of history.py, and what archives save.

The months that go are closed for all, archived, and brought back, and what stays is read meanwhile. The folder is
changed: give it a copy where it is needed as it was.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Final

import asyncpg
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ledger_service.archiving import Progress, alone, archive, plan, restore
from ledger_service.closing import close_period
from ledger_service.store.archives import list_archives
from ledger_service.store.migrations import migrate
from tests.bench.history import kept_server
from tests.bench.history_events import BEGIN, account_name

READS: Final = 200
SHOWN_FROM: Final = 0.5

_EVENTS: Final = "select count(*) from event_log"
#: Tables without their indexes, and indexes; what is out of line belongs to its table.
_SIZES: Final = """
    select c.relname as table, null as index, pg_table_size(c.oid) as bytes
    from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'
    union all
    select c.relname, i.relname, pg_relation_size(i.oid)
    from pg_class c join pg_index x on x.indrelid = c.oid join pg_class i on i.oid = x.indexrelid
    where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'
    order by 1, 2 nulls first
"""
_PAGE: Final = """
    select * from usage_log where account_id = $1 and occurred_at >= $2 and occurred_at < $3
    order by occurred_at desc, operation_id desc limit 100
"""
_MONTH: Final = """
    select occurred_at::date, provider, count(*), sum(cost_nanos) from usage_log
    where account_id = $1 and occurred_at >= $2 and occurred_at < $3 group by 1, 2
"""
_OF_ALL: Final = """
    select occurred_at::date, provider, count(*), sum(cost_nanos) from usage_log
    where occurred_at >= $2 and occurred_at < $3 and $1 <> '' group by 1, 2
"""
Sizes = dict[tuple[str, str | None], int]


async def sizes(connection: "asyncpg.Connection[asyncpg.Record]") -> Sizes:
    """Bytes of each table and index."""
    return {(row["table"], row["index"]): row["bytes"] for row in await connection.fetch(_SIZES)}


async def read_times(connection: "asyncpg.Connection[asyncpg.Record]") -> dict[str, float]:
    """Milliseconds, medians: of the newest month."""
    begin, end = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
    found = {}
    for name, sql, times in (
        ("page of 100 rows, one account", _PAGE, READS),
        ("month by day and provider, one account, from the usage log", _MONTH, READS),
        ("the same of all accounts", _OF_ALL, 3),
    ):
        taken = []
        for rank in range(times):
            started = time.perf_counter()
            await connection.fetch(sql, account_name(rank), begin, end)
            taken.append((time.perf_counter() - started) * 1000)
        found[name] = median(taken)
    return found


def size_table(title: str, events: int, columns: Sequence[tuple[str, Sizes]]) -> Table:
    """Bytes per event, a line for each table and index that has half a byte."""
    table = Table("table", "index", title=f"{title}: bytes per event, {events:,} events", box=SIMPLE_HEAD)
    for name, _ in columns:
        table.add_column(name, justify="right")
    for key in columns[0][1]:
        if max(found.get(key, 0) for _, found in columns) / events >= SHOWN_FROM:
            table.add_row(key[0], key[1] or "", *(f"{found.get(key, 0) / events:,.1f}" for _, found in columns))
    table.add_section()
    totals = [sum(found.values()) for _, found in columns]
    table.add_row("all", "", *(f"{total / events:,.1f}" for total in totals))
    table.add_row("all, MB", "", *(f"{total / 1e6:,.0f}" for total in totals))
    return table


async def measure(url: str, months: int, folder: Path, console: Console) -> None:
    """Archives so many months, the oldest, and brings them back."""
    connection = await asyncpg.connect(url)
    try:
        events = int(await connection.fetchval(_EVENTS))
        last = BEGIN.year * 12 + BEGIN.month - 1 + months
        before = date(last // 12, last % 12 + 1, 1)
        columns, reads = [("before", await sizes(connection))], [await read_times(connection)]
        await close_period(
            connection, None, f"{date((last - 1) // 12, (last - 1) % 12 + 1, 1):%Y-%m}", "bench", "bench"
        )
        begin = time.perf_counter()
        async with alone(url) as archiving:
            for month in await plan(archiving, before):
                await archive(archiving, month, folder, Progress())
        seconds = time.perf_counter() - begin
        found = await list_archives(connection)
        rows, size = sum(one.rows for one in found), sum(one.bytes for one in found)
        console.print(
            f"{rows:,} rows of {len(found)} months in {seconds:,.1f} s, {rows / seconds:,.0f} rows/s: "
            f"{size / 1e6:,.0f} MB of Parquet, {size / rows:,.0f} bytes a row"
        )
        for name, statement in (
            ("archived", "vacuum (analyze) usage_log"),
            ("packed", "vacuum (full, analyze) usage_log"),
        ):
            begin = time.perf_counter()
            await connection.execute(statement)
            console.print(f"{statement}: {time.perf_counter() - begin:,.1f} s")
            columns.append((name, await sizes(connection)))
            reads.append(await read_times(connection))
        console.print(size_table("Storage", events, columns))
        table = Table("ms, median", "before", "archived", "packed", title="Reads of the newest month", box=SIMPLE_HEAD)
        for name in reads[0]:
            table.add_row(name, *(f"{one[name]:,.2f}" for one in reads))
        console.print(table)
        begin = time.perf_counter()
        async with alone(url) as archiving:
            for one in reversed(found):
                await restore(archiving, one, folder, Progress())
        seconds = time.perf_counter() - begin
        console.print(f"brought back in {seconds:,.1f} s: {rows / seconds:,.0f} rows/s")
    finally:
        await connection.close()


def storage(
    data: Annotated[Path, typer.Option(help="A folder of tests.bench.history; it is changed.")],
    months: Annotated[int, typer.Option(min=1, max=16, help="So many go, of 18.")] = 6,
) -> None:
    """Bytes per event by table and index, before and after months are archived."""
    console = Console()
    console.width = max(console.width, 120)
    with kept_server(data) as server, tempfile.TemporaryDirectory(prefix="usage-ledger-bench-") as folder:
        asyncio.run(migrate(server.url))
        asyncio.run(measure(server.url, months, Path(folder), console))


if __name__ == "__main__":
    typer.run(storage)
