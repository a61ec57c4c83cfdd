"""`ledger rebuild` over a long log, beside a bare INSERT … SELECT … GROUP BY over the same one."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final

import asyncpg

from tests.bench.long_log import fill_log
from tests.bench.machine import Servers
from tests.bench.report import Figure, Report

#: Ten million events in three minutes.
EVENTS_PER_SECOND: Final = 10_000_000 / 180
#: In a shorter log, starting the command is what is measured.
AIMED_FROM: Final = 1_000_000
#: Rows of each kind that are damaged before, so that there is something to replace.
DAMAGED: Final = 500

_DAMAGE: Final = """
    update counters set settled = settled + 1 where ctid in (select ctid from counters order by account_id limit {0});
    update usage_summary set calls = calls + 1 where ctid in (select ctid from usage_summary limit {0});
    update usage_log set cost_nanos = 1 where ctid in (select ctid from usage_log order by account_id limit {0});
    delete from decisions where ctid in (select ctid from decisions order by account_id limit {0})
"""
#: What a summary of the log costs at the least: each body read, nothing compared, nobody waited for.
_BARE: Final = """
    insert into bare_summary (account_id, period, operation, provider, model, calls, cost)
    select account_id, date_trunc('month', occurred_at), body -> 'data' ->> 'operation',
           body -> 'data' ->> 'actual_provider', body -> 'data' ->> 'model', count(*),
           sum((body -> 'data' ->> 'cost')::numeric)
    from event_log
    where terminal
    group by 1, 2, 3, 4, 5
"""


def measure_rebuild(made: Servers, report: Report, events: int, told: Callable[[int], None] = lambda _: None) -> None:
    """On a database with make_accounts()."""
    asyncio.run(fill_log(made.database_url, events, told))
    measure_rebuild_of(made, report)


def measure_rebuild_of(made: Servers, report: Report) -> None:
    """Of whatever log is there."""
    bare, logged = asyncio.run(_bare(made.database_url))
    asyncio.run(_execute(made.database_url, _DAMAGE.format(DAMAGED)))
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "ledger_service.cli", "rebuild", "--json"],
        env={**os.environ, **made.environment()},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begin
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    replaced = sum(sum(kinds.values()) for kinds in result["replaced"].values())
    assert replaced >= DAMAGED, "the rebuild has found what was damaged"
    report.add(
        Figure(
            name=f"rebuild of {logged:,} events, all projections, {replaced:,} rows put right",
            value=logged / seconds,
            unit="events/s",
            value_aim=(">=", EVENTS_PER_SECOND) if logged >= AIMED_FROM else None,
            beside="bare INSERT … SELECT … GROUP BY, one total",
            beside_value=logged / bare,
        )
    )
    report.add(Figure("its longest wait for ingest and checks", result["longest_pause_seconds"], "s", ("<=", 1)))


async def _bare(database_url: str) -> tuple[float, int]:
    """Seconds, and how many events there are."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(
            "create table bare_summary (account_id text, period timestamptz, operation text, provider text, "
            "model text, calls bigint, cost numeric)"
        )
        begin = time.perf_counter()
        await connection.execute(_BARE)
        seconds = time.perf_counter() - begin
        await connection.execute("drop table bare_summary")
        return seconds, int(await connection.fetchval("select count(*) from event_log"))
    finally:
        await connection.close()


async def _execute(database_url: str, statements: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()
