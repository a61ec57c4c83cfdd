"""``python -m tests.bench.long_history --data DIR``: what a long history makes slow, on a folder that
tests.bench.history has filled.

The folder is migrated, some rows of its projections are damaged and put right again, and its log is sealed.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Final

import asyncpg
import typer

from deploy.local.servers import NatsServer
from tests.bench.analytics import measure_analytics
from tests.bench.exports import measure_exports
from tests.bench.history import kept_server
from tests.bench.machine import Servers
from tests.bench.rebuild import measure_rebuild_of
from tests.bench.report import Figure, Report, steps
from tests.bench.seals import measure_verification_of
from tests.bench.storage import sizes
from tests.tokens import BOOTSTRAP

EXPORTED_ROWS: Final = 1_000_000


def measure_long_history(made: Servers, report: Report, step: Callable[[str], None], repeats: int) -> None:
    """On whatever history is there."""
    step("bringing the schema up to date")
    begin = time.perf_counter()
    migrate = [sys.executable, "-m", "ledger_service.cli", "migrate"]
    subprocess.run(migrate, env={**os.environ, **made.environment(**BOOTSTRAP)}, check=True, capture_output=True)
    report.add(Figure("bringing the schema up to date", time.perf_counter() - begin, "s"))
    _add_storage(made, report)
    step("analytics")
    measure_analytics(made.database_url, made.nats_url, report, repeats)
    step("exports")
    measure_exports(made.database_url, report, asyncio.run(_first_month(made.database_url)), None, repeats)
    step("seals")
    measure_verification_of(made, report)
    step("rebuild")
    measure_rebuild_of(made, report)


def _add_storage(made: Servers, report: Report) -> None:
    events, found = asyncio.run(_sizes(made.database_url))
    bytes_each = sum(found.values()) / events
    log = sum(size for (table, _), size in found.items() if table == "event_log") / events
    report.add(Figure(f"storage of {events:,} events, each", bytes_each, "B", None, "the log alone", log))


async def _sizes(database_url: str) -> tuple[int, dict[tuple[str, str | None], int]]:
    connection = await asyncpg.connect(database_url, command_timeout=600)
    try:
        return int(await connection.fetchval("select count(*) from event_log")), await sizes(connection)
    finally:
        await connection.close()


async def _first_month(database_url: str) -> datetime | None:
    """Of the newest months that have so many rows; None: all of them."""
    connection = await asyncpg.connect(database_url, command_timeout=600)
    try:
        months = await connection.fetch(
            "select period, sum(calls + failures)::bigint as rows from usage_summary group by 1 order by 1 desc"
        )
    finally:
        await connection.close()
    found = 0
    for row in months:
        month: date = row["period"]
        found += row["rows"]
        if found >= EXPORTED_ROWS:
            return datetime(month.year, month.month, 1, tzinfo=UTC)
    return None


def bench(
    data: Annotated[Path, typer.Option(help="A folder of tests.bench.history.")],
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    json: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None,
) -> None:
    """Measures on a long history; exits 1 where an aim is missed."""
    report = Report()
    with (
        tempfile.TemporaryDirectory(prefix="usage-ledger-bench-") as folder,
        kept_server(data) as server,
        steps() as step,
    ):
        nats = NatsServer(Path(folder) / "nats")
        try:
            nats.start()
            measure_long_history(Servers(server.url, nats.url), report, step, repeats)
        finally:
            nats.stop()
            report.show()
    if json is not None:
        json.write_text(report.as_json())
    if any(figure.met is False for figure in report.figures):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(bench)
