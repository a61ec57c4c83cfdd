"""Closed months of the usage log in files: others read them, every total stays, and broken off anywhere it goes on."""

import asyncio
import json
from contextlib import aclosing
from datetime import date, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pyarrow.parquet
import pytest
from structlog.testing import capture_logs

from contracts.exports import ExportFormat
from contracts.problems import PERIOD_ARCHIVED, ProblemError
from contracts.repricings import Repricing
from ledger_service import archiving, exporting
from ledger_service.archiving import ArchiveRefusedError, Progress, alone, archive, plan, restore
from ledger_service.exporting import USAGE_LOG, Exports, Wanted
from ledger_service.repricing import run_repricing
from ledger_service.store import archives
from ledger_service.store.archives import list_archives
from ledger_service.store.connections import PAGES_AHEAD
from ledger_service.store.exports import open_pool
from ledger_service.store.usage import UsageLogFilter
from tests.builders import Body, adjustment, check, completed, failed, limit, new_id
from tests.commands import ledger_command
from tests.rebuilds import differences, rebuilt
from tests.servers import Ledger

Database = asyncpg.Connection
EVER = limit("ever", window="lifetime", maximum=10_000)
BEFORE = date(2025, 7, 1)
MONTHS = [date(2025, 5, 1), date(2025, 6, 1)]
_MONTH = "coalesce(booked_period, own_period(occurred_at))"


def of(month: int, **fields: Any) -> Body:
    return completed(time=f"2025-{month:02}-15T12:00:00Z", **fields)


async def history(ledger: Ledger) -> Body:
    """Three months of two accounts, two of them closed: with failures, metadata, corrections, late arrivals. Answers
    an operation of the first."""
    await ledger.set_up(EVER)
    await ledger.put_account("apex")
    first = of(5, user_id="ann", cost="0.10", metadata={"team": "ä\u0000", "n": [1, {"x": None}]})
    for account in ("acme", "apex"):
        more = [of(month, account_id=account, user_id="ben", project_id="p", quantity=3) for month in (5, 6, 6, 7)]
        bad = failed(account_id=account, time="2025-05-31T23:59:59.999999Z", cost="0.02", provider="other")
        await ledger.send(*more, bad)
    await ledger.send(first, of(5, account_id="stray"))
    rated = adjustment("rerate", first, cost="0.07")
    assert (await ledger.http.post("/v1/adjustments", json=rated)).status_code < 300
    for month in ("2025-05", "2025-06"):
        # Late for May in June, and for both in July.
        assert (await ledger.http.put(f"/v1/periods/{month}:close", json={"reason": "books"})).status_code == 200
        await ledger.send(of(5, cost="0.03"), of(6, cost="0.05", account_id="apex"))
    return first


async def rows(database: "Database[asyncpg.Record]", condition: str = "true") -> list[dict[str, Any]]:
    found = await database.fetch(
        f"select row_to_json(u)::text from usage_log u where {condition} order by account_id, occurred_at, operation_id"
    )
    return [json.loads(row[0]) for row in found]


async def archive_all(url: str, folder: Path, progress: Progress | None = None) -> None:
    async with alone(url) as connection:
        for month in await plan(connection, BEFORE):
            await archive(connection, month, folder, progress or Progress())


async def restore_all(url: str, folder: Path, progress: Progress | None = None) -> None:
    async with alone(url) as connection:
        for one in reversed(await list_archives(connection)):
            await restore(connection, one, folder, progress or Progress())


async def test_months_are_in_files_that_others_read_and_nothing_else_has_changed(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str, tmp_path: Path
) -> None:
    first = await history(ledger)
    before = await rows(database)
    going = {month: await rows(database, f"{_MONTH} = '{month}'") for month in MONTHS}
    totals = await database.fetch("select * from usage_summary order by 1, 2, 3, 4, 5")

    done = await ledger_command(database_url, "archive", "--before", "2025-07", "--dir", str(tmp_path))
    assert done.exit_code == 0, done.output

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "usage-log-2025-05.parquet",
        "usage-log-2025-06.parquet",
    ]
    for month, wanted in going.items():
        table = pyarrow.parquet.read_table(tmp_path / f"usage-log-{month:%Y-%m}.parquet")
        assert [_plain(row) for row in table.to_pylist()] == [_plain(row) for row in wanted]
        assert sum(table["cost_nanos"].to_pylist()) == await database.fetchval(
            "select sum(cost_nanos) from usage_summary where period = $1", month
        )
        assert str(table.schema.field("occurred_at").type) == "timestamp[us, tz=UTC]"
    assert await rows(database) == [
        row for row in before if row not in [one for some in going.values() for one in some]
    ]
    assert await database.fetch("select * from usage_summary order by 1, 2, 3, 4, 5") == totals
    assert await differences(database_url) == []
    assert (await rebuilt(database_url)).replaced.total() == 0
    looked = await ledger_command(database_url, "archives", "--check", "--dir", str(tmp_path), "--json")
    assert [one["wrong"] for one in json.loads(looked.stdout)] == [None, None], looked.output

    await _reads_say_what_is_missing(ledger, first)

    again = await ledger_command(database_url, "archive", "--before", "2025-07", "--dir", str(tmp_path))
    assert "nothing before 2025-07" in again.output
    back = await ledger_command(database_url, "unarchive", "--since", "2025-05", "--dir", str(tmp_path))
    assert back.exit_code == 0, back.output
    assert await rows(database) == before
    assert await differences(database_url) == []


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a file, and one of the table as JSON, alike."""
    plain = {}
    for name, value in row.items():
        if name in ("metadata", "adjustment") and value is not None:
            value = json.loads(value) if isinstance(value, str) else value
        elif isinstance(value, str) and name.endswith("_at"):
            value = datetime.fromisoformat(value)
        elif name == "booked_period" and value is not None:
            value = str(value)
        plain[name] = value
    return plain


async def _reads_say_what_is_missing(ledger: Ledger, archived: Body) -> None:
    for path in ("/v1/accounts/acme/usage-log?from=2025-05-01T00:00:00Z", "/v1/accounts/acme/statements/2025-05",
                 "/v1/exports/usage-log?format=csv&from=2025-06-01T00:00:00Z", "/v1/exports/focus?format=csv",
                 "/v1/reports/estimates?from=2025-06-01T00:00:00Z&to=2025-08-01T00:00:00Z"):  # fmt: skip
        answer = await ledger.http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (409, "period_archived"), answer.text
    in_may = "from=2025-05-01T00:00:00Z&to=2025-06-01T00:00:00Z"
    by_user = await ledger.http.get(f"/v1/usage?{in_may}&group_by=user&filter=account:acme")
    assert (by_user.status_code, by_user.json()["code"]) == (409, "period_archived"), by_user.text
    by_model = await ledger.http.get(f"/v1/usage?{in_may}&group_by=model&filter=account:acme")
    assert (by_model.status_code, by_model.json()["totals"]["calls"]) == (200, 4), by_model.text
    for kind in ("void", "rerate"):
        more = {"cost": "0.01"} if kind == "rerate" else {}
        answer = await ledger.http.post("/v1/adjustments", json=adjustment(kind, archived, **more))
        assert (answer.status_code, answer.json()["code"]) == (409, "period_archived"), answer.text
    assert (await ledger.usage_log())["archived_before"] == "2025-07"
    assert (await ledger.http.get("/v1/accounts/acme/statements/2025-07")).status_code == 200
    assert (await ledger.usage(period="2025-05"))["totals"]["calls"] == 2


async def test_limits_without_an_end_count_what_is_in_archives(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str, tmp_path: Path
) -> None:
    await history(ledger)
    wanted = int(
        await database.fetchval(
            "select sum(counted_units(outcome, quantity)) from usage_log where account_id = 'acme' and user_id = 'ben'"
        )
    )
    await archive_all(database_url, tmp_path)

    # Neither counter was there before; the second denies by what is in the file alone.
    await ledger.put_plan(EVER, limit("mine", meter="units", scope="user", window="lifetime", maximum=wanted + 1),
                          limit("spent", meter="cost", scope="user", window="lifetime", maximum="0.08"))  # fmt: skip
    said = await ledger.check(check(user_id="ben", estimated_cost="0.01", quantity=2))
    assert (said["allowed"], said["denial"]["limit_id"]) == (False, "mine")
    assert {one["limit_id"]: one["settled"] for one in said["limits"]}["mine"] == wanted
    said = await ledger.check(check(user_id="ann", estimated_cost="0.02"))
    assert (said["allowed"], said["denial"]["limit_id"]) == (False, "spent")
    assert {one["limit_id"]: one["settled"] for one in said["limits"]}["spent"] == "0.070000000"
    assert await differences(database_url) == [], "the log says the same of the counters"
    await restore_all(database_url, tmp_path)
    assert await differences(database_url) == []


async def test_an_export_under_way_does_not_end_as_if_it_had_what_is_archived_meanwhile(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    await history(ledger)
    pool = await open_pool(database_url, PAGES_AHEAD)
    try:
        exports = Exports(pool, page_rows=1)
        export = await exports.start(Wanted(USAGE_LOG, ExportFormat.CSV, None, UsageLogFilter()))
        pieces = export.chunks()
        await anext(pieces)
        await archive_all(database_url, tmp_path)
        with pytest.raises(ProblemError) as refused:
            [_ async for _ in pieces]
        await export.close()
    finally:
        await pool.close()
    assert refused.value.kind is PERIOD_ARCHIVED


async def test_a_download_that_meets_an_archive_breaks_off_and_the_log_says_why_in_a_line(
    ledger: Ledger,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await history(ledger)
    archived, refuse, asked = asyncio.Event(), archives.refuse_archived, 0

    async def later(*arguments: Any) -> None:
        nonlocal asked
        asked += 1
        if asked == 2:  # before the end of the file
            await archived.wait()
        await refuse(*arguments)

    monkeypatch.setattr(exporting, "refuse_archived", later)
    with capture_logs() as logs:
        async with ledger.http.stream("GET", "/v1/exports/usage-log", params={"format": "csv"}) as answer:
            pieces = answer.aiter_bytes()
            assert (answer.status_code, (await anext(pieces))[:8]) == (200, b"account_")
            await archive_all(database_url, tmp_path)
            archived.set()
            with pytest.raises(httpx.RemoteProtocolError):
                [_ async for _ in pieces]
    assert not [record for record in caplog.records if record.exc_info]
    [reason] = [line["reason"] for line in logs if line["event"] == "export_broken_off"]
    assert "in archives" in reason


async def test_a_repricing_under_way_does_not_end_as_if_it_had_looked_at_what_is_archived_meanwhile(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    await history(ledger)
    wanted = Repricing.model_validate(
        {"repricing_id": new_id(), "from": "2025-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z", "reason": "books"}
    )
    async with aclosing(run_repricing(database_url, wanted, "grace")) as steps:
        await anext(steps)
        await archive_all(database_url, tmp_path)
        with pytest.raises(ProblemError) as refused:
            [_ async for _ in steps]
    assert refused.value.kind is PERIOD_ARCHIVED


async def test_a_folder_of_days_does_not_go_on_without_what_was_archived_meanwhile(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    await history(ledger)
    lake, folder = tmp_path / "lake", tmp_path / "archives"
    export = ("export", str(lake), "--by-day", "--format", "csv")
    whole = await ledger_command(database_url, *export, "--json")
    assert whole.exit_code == 0, whole.output
    wanted = json.loads(whole.stdout)["rows"]
    manifest = json.loads((lake / "_export.json").read_text())
    first = min(manifest["days"])
    # As where it was killed after the first day.
    broken_off = {**manifest, "days": {first: manifest["days"][first]}, "complete": False}
    (lake / "_export.json").write_text(json.dumps(broken_off))
    await archive_all(database_url, folder)

    refused = await ledger_command(database_url, *export)
    assert (refused.exit_code, "which are in archives" in " ".join(refused.output.split())) == (1, True), refused.output
    assert json.loads((lake / "_export.json").read_text()) == broken_off
    await restore_all(database_url, folder)
    done = await ledger_command(database_url, *export, "--json")
    assert json.loads(done.stdout)["rows"] == wanted

    await archive_all(database_url, folder)
    again = await ledger_command(database_url, *export, "--json")  # all of it is there
    assert (again.exit_code, json.loads(again.stdout)["rows"]) == (0, wanted)


class BrokenOffError(Exception):
    pass


class BreakingOff(Progress):
    """Ends it at the step with this number."""

    def __init__(self, number: int) -> None:
        self._left = number

    def begins(self, month: date, what: str) -> None:
        self.rows(0)

    def rows(self, number: int) -> None:
        self._left -= 1
        if self._left < 0:
            raise BrokenOffError


async def test_broken_off_anywhere_every_total_is_right_and_it_goes_on(
    ledger: Ledger,
    database: "Database[asyncpg.Record]",
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(archiving, "PORTION_ROWS", 1)
    await history(ledger)
    before = await rows(database)
    ever = "select sum(meter_amount('units', calls, units, cost_nanos)) from archived_usage('acme')"
    units = "select coalesce(sum(counted_units(outcome, quantity)), 0) from usage_log where account_id = 'acme'"
    all_units = await database.fetchval(units)
    archived = {row["operation_id"] for row in await rows(database, f"{_MONTH} < '{BEFORE}'")}

    async def broken_off(work: Any, steps: int) -> None:
        with pytest.raises(BrokenOffError):
            await work(database_url, tmp_path, BreakingOff(steps))
        assert await database.fetchval(f"select ({units}) + coalesce(({ever}), 0)") == all_units, steps
        assert await differences(database_url) == [], steps
        await work(database_url, tmp_path)

    for steps in range(1, 15, 3):  # the file, its comparison, and the removal of both months
        await broken_off(archive_all, steps)
        assert len(await list_archives(database)) == 2
        assert await rows(database) == [row for row in before if row["operation_id"] not in archived]
        assert await differences(database_url) == []
        await broken_off(restore_all, steps)
        assert await list_archives(database) == []
        assert await rows(database) == before
    assert not list(tmp_path.glob("*.part"))


async def test_nothing_leaves_that_could_still_change_or_is_wrong(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str, tmp_path: Path
) -> None:
    await history(ledger)
    before = await rows(database)
    open_month = await ledger_command(database_url, "archive", "--before", "2025-08", "--dir", str(tmp_path))
    assert open_month.exit_code == 1
    assert "2025-07 is not closed for all accounts" in open_month.output
    all_stay = await ledger_command(database_url, "archive", "--keep-months", "999999", "--dir", str(tmp_path))
    assert (all_stay.exit_code, "nothing before 2000-01 is to be archived" in all_stay.stderr) == (0, True)
    young = await ledger_command(database_url, "archive", "--keep-months", "2", "--dir", str(tmp_path), "--dry-run")
    assert (young.exit_code, "is not closed" in young.output or "only months before" in young.output) == (1, True)

    await database.execute(
        "update usage_summary set calls = calls + 1 where period = '2025-06-01' and account_id = 'apex'"
    )
    with pytest.raises(ArchiveRefusedError, match="other totals than its rows"):
        await archive_all(database_url, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["usage-log-2025-05.parquet"]
    await restore_all(database_url, tmp_path)
    assert await rows(database) == before
    assert (await rebuilt(database_url)).replaced.total() == 1

    async with alone(database_url):
        with pytest.raises(ArchiveRefusedError, match="rebuild or another archiving is running"):
            await archive_all(database_url, tmp_path)


async def test_a_file_that_was_changed_is_found_and_not_read_back(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str, tmp_path: Path
) -> None:
    await history(ledger)
    before = await rows(database)
    await archive_all(database_url, tmp_path)
    left = await rows(database)
    file = tmp_path / "usage-log-2025-06.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

    looked = await ledger_command(database_url, "archives", "--check", "--dir", str(tmp_path))
    assert (looked.exit_code, "is not the file that was written" in looked.output) == (1, True)
    back = await ledger_command(database_url, "unarchive", "--since", "2025-05", "--dir", str(tmp_path))
    assert (back.exit_code, "is not the file that was written" in back.output) == (1, True)
    assert await rows(database) == left
    assert [one.state for one in await list_archives(database)] == ["archived", "archived"]
    recovered = await ledger_command(database_url, "unarchive", "--since", "2025-05", "--from-log")
    assert recovered.exit_code == 0, recovered.output
    assert (await rows(database), await list_archives(database)) == (before, [])
    assert await differences(database_url) == []


async def test_credit_that_was_used_in_an_archived_month_stays_used_when_grants_cut_the_past(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str, tmp_path: Path
) -> None:
    await ledger.set_up(limit("credit", window="lifetime", maximum=0, credit=True))

    async def give(grant_id: str, amount: int, **fields: str) -> None:
        path = f"/v1/accounts/acme/credit-grants/{grant_id}"
        answer = await ledger.http.put(path, json={"limit_id": "credit", "amount": amount, **fields})
        assert answer.status_code == 200, answer.text

    await give("bought", 10, valid_from="2025-01-01T00:00:00Z")
    used = [of(5) for _ in range(6)]
    await ledger.send(*used)
    for month in ("2025-05", "2025-06"):
        assert (await ledger.http.put(f"/v1/periods/{month}:close", json={"reason": "books"})).status_code == 200
    await archive_all(database_url, tmp_path)
    assert await rows(database) == []
    # It ends: the time before it is a stretch of its own from now on, which is over.
    await give("gift", 1, valid_from="2026-01-01T00:00:00Z", expires_at="2199-01-01T00:00:00Z")

    decision = await ledger.check(check(dry_run=True))

    assert (decision["limits"][0]["settled"], decision["limits"][0]["available"]) == (6, 4)  # its own call is held
    assert await differences(database_url) == []
