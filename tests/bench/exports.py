"""Exports beside `COPY … TO` of the same rows: ``python -m tests.bench.exports URL [--from 2026-10-01 --to …]``."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import asyncpg
import typer

from tests.bench.machine import peak_mib
from tests.bench.report import Figure, Report

COPY = (
    "select * from usage_log where ($1::timestamptz is null or occurred_at >= $1) "
    "and ($2::timestamptz is null or occurred_at < $2)"
)
POLL_SECONDS = 0.02
SPEED_AIM, MEMORY_AIM_MIB = 0.5, 150.0


class Exported(NamedTuple):
    rows: int
    rows_a_second: float
    memory_mib: float


def measure_exports(
    database_url: str, report: Report, start: datetime | None = None, end: datetime | None = None, repeats: int = 1
) -> None:
    """All formats of the rows that occurred in this time (None = ever), each by a `ledger export` of its own.

    What they are compared with is measured before each: other work on the machine is beside both.
    """
    for wanted, options, aim in (
        ("parquet", (), (">=", SPEED_AIM)),
        ("csv", (), None),
        ("jsonl", (), None),
        ("parquet", ("--focus", "1.2"), None),
    ):
        runs = []
        for _ in range(repeats):
            copied = asyncio.run(_copy(database_url, start, end))
            runs.append((_export(database_url, wanted, options, start, end), copied))
        exported, copied = sorted(runs, key=lambda run: run[0].rows_a_second / run[1])[repeats // 2]
        name = f"export of {exported.rows:,} rows, {' '.join(('focus' if options else 'usage log', wanted))}"
        report.add(Figure(name, exported.rows_a_second, "rows/s", None, "COPY … TO of the same rows", copied, aim))
        report.add(Figure(f"{name}: memory of its process, peak", exported.memory_mib, "MiB", ("<=", MEMORY_AIM_MIB)))


async def _copy(database_url: str, start: datetime | None, end: datetime | None) -> float:
    connection = await asyncpg.connect(database_url)

    async def drop(_: bytes) -> None:
        pass

    try:
        begin = time.perf_counter()
        done = await connection.copy_from_query(COPY, start, end, output=drop, format="csv")
        return int(done.removeprefix("COPY ")) / (time.perf_counter() - begin)
    finally:
        await connection.close()


def _export(
    database_url: str, wanted: str, options: tuple[str, ...], start: datetime | None, end: datetime | None
) -> Exported:
    with tempfile.TemporaryDirectory(prefix="usage-ledger-bench-") as folder:
        command = [sys.executable, "-m", "ledger_service.cli", "export", str(Path(folder) / f"rows.{wanted}"), "--json"]
        for option, moment in (("--from", start), ("--to", end)):
            command += [option, moment.isoformat()] if moment else []
        answer, peak = Path(folder) / "answer.json", 0.0
        with (
            answer.open("wb") as out,
            subprocess.Popen(
                [*command, *options], env={**os.environ, "LEDGER_DATABASE_URL": database_url}, stdout=out
            ) as process,
        ):
            while process.poll() is None:
                peak = max(peak, peak_mib(process.pid))
                time.sleep(POLL_SECONDS)
        assert process.returncode == 0
        told = json.loads(answer.read_bytes())
    return Exported(told["rows"], told["rows"] / told["elapsed_seconds"], peak)


def main(
    database_url: str,
    start: Annotated[datetime | None, typer.Option("--from")] = None,
    end: Annotated[datetime | None, typer.Option("--to")] = None,
    repeats: int = 3,
) -> None:
    """Measures the exports of an existing ledger's database."""
    report = Report()
    begins, ends = (one if one is None else one.replace(tzinfo=UTC) for one in (start, end))
    measure_exports(database_url, report, begins, ends, repeats)
    report.show()


if __name__ == "__main__":
    typer.run(main)
