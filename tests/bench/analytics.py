"""Analytics and the usage summary on a long history, each beside plain SQL over the usage log.

``python -m tests.bench.analytics --database-url URL`` measures on a database that is there, which it migrates: one with
18 months in it comes from tests.bench.history.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import asyncpg
import orjson
import typer

from contracts.money import parse_nanos
from deploy.local.servers import NatsServer
from ledger_service.domain.buckets import add_months
from tests.bench.load import Load, Measured, run_load
from tests.bench.machine import Servers, service
from tests.bench.report import Figure, Report
from tests.tokens import AUTHORIZED, BOOTSTRAP

QUERIES = 200
SUMMARIES = 2_000
PLAIN_REPEATS = 5
_PLAIN = """
select date_trunc('day', occurred_at, 'UTC') as day, provider, sum(counted_calls(outcome, adjusted_calls)) as calls,
       sum(counted_units(outcome, quantity)) as units, sum(cost_nanos) as cost_nanos,
       sum(counted_failures(outcome, adjusted_failures)) as failures
from usage_log
where occurred_at >= $1 and occurred_at < $2 and ($3::text is null or account_id = $3)
group by 1, 2
"""
_PLAIN_SUMMARY = """
select operation, provider, model, sum(counted_calls(outcome, adjusted_calls)) as calls,
       sum(counted_units(outcome, quantity)) as units, sum(cost_nanos) as cost_nanos
from usage_log
where occurred_at >= $1 and occurred_at < $2 and account_id = $3
group by 1, 2, 3
"""


class Subject(NamedTuple):
    """What is asked about: whole months, the accounts in the order of their size, and how many rows there are."""

    months: list[date]
    accounts: list[str]
    rows: int


def measure_analytics(database_url: str, nats_url: str, report: Report, repeats: int = 3) -> None:
    """On whatever is in the database."""
    subject = asyncio.run(_subject(database_url))
    with service("ledger_service", "LEDGER_PORT", Servers(database_url, nats_url).environment()) as ledger:
        for name, account_id, aim in (
            ("month by day and provider, the largest account", subject.accounts[0], 20),
            ("month by day and provider, all accounts", None, 150),
        ):
            asyncio.run(_agree(database_url, ledger.url, subject.months[-1], account_id))
            paths = [_path(month, account_id) for month in subject.months]
            runs = [_load(ledger.url, [paths[n % len(paths)] for n in range(QUERIES)]) for _ in range(repeats)]
            plain = asyncio.run(_plain(database_url, _PLAIN, subject.months, account_id))
            figure = median(run.p50_ms for run in runs)
            what = f"{name}, {subject.rows:,} log rows, p50"
            report.add(Figure(what, figure, "ms", ("<=", aim), "plain SQL over the log", plain, ("<=", 1.0)))
        month = subject.months[-1]
        few = subject.accounts[:: max(1, len(subject.accounts) // 1_000)]
        paths = [f"/v1/accounts/{few[n % len(few)]}/usage?period={month:%Y-%m}" for n in range(SUMMARIES)]
        figure = median(_load(ledger.url, paths).p99_ms for _ in range(repeats))
        plain = asyncio.run(_plain(database_url, _PLAIN_SUMMARY, [month], subject.accounts[0]))
        what = f"usage summary, {subject.rows:,} log rows, p99"
        report.add(Figure(what, figure, "ms", ("<=", 5), "plain SQL over the log, the largest account", plain))


def _load(url: str, paths: list[str]) -> Measured:
    return run_load(Load(url, "GET", 1, len(paths), _Paths(paths)))


class _Paths:
    """Goes to another process, as a function within a function cannot."""

    def __init__(self, paths: list[str]) -> None:
        self._paths = paths

    def __call__(self, index: int) -> tuple[str, bytes]:
        return self._paths[index], b""


async def _subject(database_url: str) -> Subject:
    connection = await asyncpg.connect(database_url, command_timeout=600)
    try:
        await connection.execute("vacuum (analyze) usage_log, usage_hourly, usage_hourly_all, usage_summary")
        [(first, last)] = await connection.fetch("select min(occurred_at), max(occurred_at) from usage_log")
        months, month = [], add_months(first.astimezone(UTC).date().replace(day=1), 1)
        while datetime(month.year, month.month, 1, tzinfo=UTC) <= last:
            months.append(month)
            month = add_months(month, 1)
        rows = await connection.fetch(
            "select account_id, sum(calls + failures) from usage_summary group by 1 order by 2 desc"
        )
        return Subject(months[:-1] or months or [month], [row[0] for row in rows], sum(int(row[1]) for row in rows))
    finally:
        await connection.close()


def _range(month: date) -> tuple[datetime, datetime]:
    later = add_months(month, 1)
    return datetime(month.year, month.month, 1, tzinfo=UTC), datetime(later.year, later.month, 1, tzinfo=UTC)


def _path(month: date, account_id: str | None) -> str:
    query = {
        "from": month.isoformat(),
        "to": add_months(month, 1).isoformat(),
        "interval": "day",
        "group_by": "provider",
    }
    return f"/v1/usage?{urlencode({**query, **({'account_id': account_id} if account_id else {})})}"


async def _plain(database_url: str, sql: str, months: list[date], account_id: str | None) -> float:
    connection = await asyncpg.connect(database_url, command_timeout=600)
    try:
        await connection.execute("set jit = off")
        took = []
        for month in (*months[-1:], *months[:PLAIN_REPEATS]):
            begin = time.perf_counter()
            await connection.fetch(sql, *_range(month), account_id)
            took.append((time.perf_counter() - begin) * 1000)
        return median(took[1:] or took)
    finally:
        await connection.close()


async def _agree(database_url: str, url: str, month: date, account_id: str | None) -> None:
    """Raises AssertionError where the answer is not what plain SQL finds: a fast wrong answer is no figure."""
    connection = await asyncpg.connect(database_url, command_timeout=600)
    try:
        rows = await connection.fetch(_PLAIN, *_range(month), account_id)
    finally:
        await connection.close()
    asked = Request(url + _path(month, account_id), headers=AUTHORIZED)
    with urlopen(asked, timeout=120) as answer:
        report = orjson.loads(answer.read())
    assert report["served_from"] != "usage_log", report["served_because"]
    found = {
        (row["period"], row["group"]["provider"], row["calls"], row["units"], parse_nanos(row["cost"]), row["failures"])
        for row in report["rows"]
    }
    assert found == {(f"{row[0]:%Y-%m-%d}", *(int(x) if n else x for n, x in enumerate(list(row)[1:]))) for row in rows}


def bench(
    database_url: Annotated[str, typer.Option(help="A database with a history in it; it is migrated.")],
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    json: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None,
) -> None:
    """Measures analytics; exits 1 where an aim is missed."""
    report = Report()
    with tempfile.TemporaryDirectory(prefix="usage-ledger-bench-") as folder:
        nats = NatsServer(Path(folder) / "nats")
        try:
            nats.start()
            made = Servers(database_url, nats.url)
            subprocess.run(
                [sys.executable, "-m", "ledger_service.cli", "migrate"],
                env={**os.environ, **made.environment(**BOOTSTRAP)},
                check=True,
            )
            measure_analytics(database_url, nats.url, report, repeats)
        finally:
            nats.stop()
    report.show()
    if json is not None:
        json.write_text(report.as_json())
    if any(figure.met is False for figure in report.figures):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(bench)
