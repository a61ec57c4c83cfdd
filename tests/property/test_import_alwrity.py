"""Files of ALwrity in any split, order, spelling and repetition, broken off anywhere: each row counts once."""

import asyncio
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger_service.alwrity import importing, terms_import
from ledger_service.alwrity.importing import Options, import_files
from ledger_service.alwrity.report import Report
from ledger_service.store.pool import Pool
from tests.alwrity import Row, Totals, call, sample, summary, totals, write
from tests.rebuilds import differences
from tests.servers import as_service, eventually

KILL_SECONDS = 60
NOW = datetime(2026, 11, 23, tzinfo=UTC)
prefixes = (f"p{number}-" for number in itertools.count())


async def bring_in(pool: Pool, *paths: Path, prefix: str = "") -> Report:
    options = Options(account_prefix=prefix, plan_prefix=f"{prefix}alwrity-")
    return await import_files(pool, paths, options, NOW, lambda *_: None)


async def counted(pool: Pool, prefix: str = "") -> Totals:
    async with pool.acquire() as connection:
        rows = await connection.fetch(
            "select account_id, to_char(period, 'YYYY-MM'), sum(calls)::int, sum(failures)::int, "
            "sum(cost_nanos)::bigint from usage_summary where starts_with(account_id, $1) group by 1, 2",
            prefix,
        )
    return {
        (account.removeprefix(prefix), period): (calls, failures, Decimal(nanos).scaleb(-9))
        for account, period, calls, failures, nanos in rows
    }


@st.composite
def histories(draw: st.DrawFn) -> list[Row]:
    """Rows of two users in three months, of any cost that a float can be, some of them aggregated."""
    rows = []
    for row_id in range(1, draw(st.integers(1, 14)) + 1):
        month = draw(st.sampled_from(["2026-08", "2026-09", "2026-10"]))
        # Aggregated rows are on a provider of their own: what they have in common with others is tested elsewhere.
        aggregated = draw(st.integers(0, 4)) == 0
        succeeded, failed = draw(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(any)) if aggregated else (1, 0)
        of_many = {
            "endpoint": "[AGGREGATED]",
            "provider": "exa",
            "model_used": f"[{succeeded + failed} calls aggregated]",
            "error_message": f"Aggregated {succeeded + failed} calls: {succeeded} success, {failed} failed",
        }
        rows.append(
            call(
                row_id,
                user_id=draw(st.sampled_from(["ada", "bob"])),
                cost_total=draw(st.floats(0, 900, allow_nan=False) | st.sampled_from([0.1 + 0.2, 1e-7, 0.0, 5e-10])),
                status_code=draw(st.sampled_from([200, 201, 500, 429])),
                timestamp=f"{month}-{row_id:02d} 10:00:00.{row_id:06d}",
                billing_period=month,
                **(of_many if aggregated else {}),
            )
        )
    return rows


@settings(max_examples=5)
@given(rows=histories(), data=st.data())
async def test_any_split_copy_spelling_and_repetition(writing_pool: Pool, rows: list[Row], data: st.DataObject) -> None:
    prefix = next(prefixes)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        expected = totals(write(folder / "whole.db", rows))
        count = data.draw(st.integers(1, 3))
        places = [data.draw(st.sets(st.integers(0, count - 1), min_size=1)) for _ in rows]
        paths = []
        for number in range(count):
            own = [row for row, where in zip(rows, places, strict=True) if number in where]
            if data.draw(st.booleans()):
                own = [{**row, "provider": row["provider"].upper()} for row in reversed(own)]
            paths.append(write(folder / f"{number}.db", own))
        runs = data.draw(st.permutations([[path] for path in paths] + [paths]))
        for given_paths in runs:
            await bring_in(writing_pool, *given_paths, prefix=prefix)
        assert await counted(writing_pool, prefix) == expected
        again = await bring_in(writing_pool, folder, prefix=prefix)
        assert (again.new, again.adjustments) == (0, 0)
        assert await counted(writing_pool, prefix) == expected


async def test_broken_off_at_every_step_it_goes_on(
    writing_pool: Pool, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sample("user_71free", tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("update usage_summaries set total_calls = total_calls + 2, total_cost = total_cost + 0.5")
        connection.commit()
    monkeypatch.setattr(importing, "BATCH_ROWS", 7)
    steps = [(importing, "record"), (importing, "adjust_all"), (terms_import, "change_plan"),
             (terms_import, "change_account"), (terms_import, "change_prices")]  # fmt: skip
    real: dict[str, Callable[..., Awaitable[Any]]] = {name: getattr(module, name) for module, name in steps}
    left = 0

    def until_it_breaks(name: str) -> Callable[..., Awaitable[Any]]:
        async def step(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise ConnectionError("gone")
            answer = await real[name](*arguments)
            if left == 0:
                raise ConnectionError("gone, and nobody knows whether it was committed")
            return answer

        return step

    for module, name in steps:
        monkeypatch.setattr(module, name, until_it_breaks(name))
    for attempt in range(80):
        left = attempt % 3
        try:
            report = await bring_in(writing_pool, path)
            break
        except ConnectionError:
            continue
    assert attempt > 10
    expected = totals(path)
    assert await counted(writing_pool) == {
        key: (calls + 2, failures, cost + Decimal("0.5")) for key, (calls, failures, cost) in expected.items()
    }
    assert report.new + report.known == 26
    assert await differences(database_url) == []


async def test_killed_it_goes_on(
    writing_pool: Pool, database_url: str, database: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    rows = [call(one, timestamp=f"2026-10-{one % 28 + 1:02d} 10:00:00.{one:06d}") for one in range(1, 2501)]
    path = write(tmp_path / "a.db", rows, usage_summaries=[summary(total_calls=2501, total_cost=100.04)])
    process = subprocess.Popen(
        [sys.executable, "-m", "ledger_service.cli", "import-alwrity", str(path)],
        env={**os.environ, "LEDGER_DATABASE_URL": as_service(database_url)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        logged = "select exists (select 1 from event_log)"
        await eventually(lambda: database.fetchval(logged), "the first batch", KILL_SECONDS)
    finally:
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)
    there = await database.fetchval("select count(*) from event_log")
    assert 0 < there < 2500
    report = await bring_in(writing_pool, path)
    assert (report.known, report.new, report.adjustments) == (there, 2500 - there, 1)
    assert await counted(writing_pool) == {("user_ada", "2026-10"): (2501, 0, Decimal("100.04"))}
