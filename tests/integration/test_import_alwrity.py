"""`ledger import-alwrity`: everything is counted once, and theirs and ours are explained."""

import json
import re
import shutil
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeAlias

import asyncpg
import pytest

from ledger_service.alwrity import files
from tests.alwrity import Totals, call, change, sample, summary, totals, wrap, write
from tests.builders import check, completed
from tests.commands import ledger_command
from tests.rebuilds import differences
from tests.servers import Ledger

Database: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Report = dict[str, Any]  # JSON


async def run(database_url: str, *arguments: object, code: int = 0) -> Report:
    result = await ledger_command(database_url, "import-alwrity", "--json", *map(str, arguments))
    assert result.exit_code == code, result.output
    found: Report = json.loads(result.stdout)
    return found


async def refused(database_url: str, *arguments: object) -> str:
    result = await ledger_command(database_url, "import-alwrity", *map(str, arguments))
    assert result.exit_code == 1
    assert "nothing was imported" in result.output
    return " ".join(result.output.replace("│", " ").split())


async def counted(database: Database, prefix: str = "") -> Totals:
    """What the ledger's own totals say, without opening balances."""
    rows = await database.fetch(
        "select account_id, to_char(period, 'YYYY-MM') as period, sum(calls)::int, sum(failures)::int, "
        "sum(cost_nanos)::bigint from usage_summary where starts_with(account_id, $1) group by 1, 2",
        prefix,
    )
    return {
        (account.removeprefix(prefix), period): (calls, failures, Decimal(nanos).scaleb(-9))
        for account, period, calls, failures, nanos in rows
    }


async def events(database: Database) -> int:
    found: int = await database.fetchval("select count(*) from event_log")
    return found


def period_of(report: Report, user_id: str, period: str) -> Report:
    [found] = [one for one in report["periods"] if (one["user_id"], one["period"]) == (user_id, period)]
    return dict(found)


def codes(period: Report) -> list[str]:
    return [one["code"] for one in period["reasons"]]


async def test_what_alwritys_own_code_wrote_is_counted_as_plain_sql_counts_it(
    database_url: str, database: Database, tmp_path: Path
) -> None:
    paths = [sample(name, tmp_path) for name in ("user_71basic", "user_71free", "user_race")]
    expected = totals(*paths)
    foreseen = await run(database_url, "--dry-run", *paths)
    assert await events(database) == 0

    report = await run(database_url, *paths)

    assert {**report, "dry_run": True} == foreseen
    assert await counted(database) == expected
    assert len(expected) == 13
    assert expected["user_71basic", "2026-07"] == (41, 4, Decimal("6.98"))
    assert expected["race_12fb17", "2026-11"] == (100, 0, Decimal(4))
    for one in report["periods"]:
        succeeded, failed, cost = expected[one["user_id"], one["period"]]
        ours = one["ours"]
        assert (ours["calls"], ours["failures"], Decimal(ours["cost"])) == (succeeded + failed, failed, cost)
        assert one["difference"]["calls"] == sum(why["calls"] for why in one["reasons"])
        assert Decimal(one["difference"]["cost"]) == sum((Decimal(why["cost"]) for why in one["reasons"]), Decimal(0))
    race = period_of(report, "race_12fb17", "2026-11")
    assert (race["theirs"]["summary"]["calls"], race["theirs"]["log"]["calls"]) == (3, 100)
    assert race["reasons"][0] | {"text": ""} == {
        "code": "summary_behind",
        "calls": 97,
        "cost": "3.880000000",
        "text": "",
    }
    said = await database.fetchval("select adjustment ->> 'reason' from usage_log where operation = 'opening_balance'")
    assert "says 3 calls and $0.120000000, its log rows 100 and $4.000000000: the rows stand" in said
    assert await differences(database_url) == []
    operations = await database.fetch("select distinct operation from usage_summary where account_id = 'user_71basic'")
    assert {row[0] for row in operations} == {"generate", "character", "edit", "face_swap", "upscale", "aggregated"}

    size = await events(database)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in paths:
        shutil.copy(path, elsewhere / f"copy-of-{path.name}")
    for given in (paths, [elsewhere], [*paths, elsewhere]):
        again = await run(database_url, *given)
        assert (again["rows"]["new"], again["rows"]["known"], again["adjustments"]) == (0, 258, 0)
        assert [one["ours"] for one in again["periods"]] == [one["ours"] for one in report["periods"]]
    assert await events(database) == size


async def test_an_imported_plan_denies_what_was_used_up_before(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    """100 calls of 25: history is recorded and not checked; the next call is."""
    await run(database_url, sample("user_race", tmp_path))
    asked = check(account_id="race_12fb17", provider="stability")
    # What else the account has is read beside it, whatever stands in its metadata.
    await ledger.send(completed(account_id="race_12fb17", metadata={"note": "a\u0000b"}))
    await run(database_url, tmp_path)
    decision = await ledger.check(asked)
    assert not decision["allowed"]
    assert decision["denial"]["limit_id"] == "stability-calls"


async def test_both_spellings_of_enums_are_the_same_rows(database_url: str, database: Database, tmp_path: Path) -> None:
    values = write(tmp_path / "values.db", [call(1), call(2, provider="image_edit", endpoint="/image-editing")])
    names = tmp_path / "names.db"
    shutil.copy(values, names)
    change(names, "update api_usage_logs set provider = upper(provider)")
    python = tmp_path / "python.db"
    shutil.copy(values, python)
    change(python, "update api_usage_logs set provider = 'APIProvider.' || upper(provider)")
    assert (await run(database_url, values))["rows"]["new"] == 2
    report = await run(database_url, names, python)
    assert (report["rows"]["new"], report["rows"]["known"], report["rows"]["repeated"]) == (0, 2, 2)


async def test_a_row_that_came_before_with_other_content_is_a_conflict(
    database_url: str, database: Database, tmp_path: Path
) -> None:
    before = write(tmp_path / "before.db", [call(1), call(2)])
    after = write(tmp_path / "after.db", [call(1, cost_total=9.0), call(2)])
    together = await run(database_url, "--account-prefix", "a-", before, after, code=1)
    assert (together["rows"]["new"], together["rows"]["repeated"], together["rows"]["conflicts"]) == (2, 1, 1)
    await run(database_url, before)
    foreseen = await run(database_url, "--dry-run", after, code=1)
    report = await run(database_url, after, code=1)
    assert report["conflicts"] == foreseen["conflicts"]
    assert "row 1 of user_ada" in report["conflicts"][0]
    assert (await counted(database))["user_ada", "2026-10"] == (2, 0, Decimal("0.08"))
    assert codes(period_of(report, "user_ada", "2026-10")) == ["conflict", "earlier"]
    assert await database.fetchval("select count(*) from dead_letters") == 0


async def test_what_a_summary_has_beyond_its_rows_is_opened_and_closed_when_the_rows_turn_up(
    database_url: str, database: Database, tmp_path: Path
) -> None:
    said = summary(total_calls=5, stability_calls=4, total_cost=0.2)
    lacking = write(tmp_path / "lacking.db", [call(1), call(2)], usage_summaries=[said])
    report = await run(database_url, lacking)
    october = period_of(report, "user_ada", "2026-10")
    assert codes(october) == ["rows_missing", "opening_balance"]
    assert (october["ours"]["calls"], october["ours"]["cost"]) == (5, "0.200000000")
    assert october["difference"] == {"calls": 0, "cost": "0.000000000"}
    assert (await run(database_url, lacking))["adjustments"] == 0
    assert (await counted(database))["user_ada", "2026-10"] == (5, 0, Decimal("0.2"))

    whole = write(tmp_path / "whole.db", [call(one) for one in range(1, 6)], usage_summaries=[said])
    report = await run(database_url, whole)
    assert codes(period_of(report, "user_ada", "2026-10")) == []
    assert (await counted(database))["user_ada", "2026-10"] == (5, 0, Decimal("0.2"))
    [first, second] = await database.fetch(
        "select adjusted_calls, cost_nanos, occurred_at from usage_log where operation = 'opening_balance' order by "
        "adjusted_calls desc"
    )
    assert (first[0], first[1], second[0], second[1]) == (3, 120_000_000, -3, -120_000_000)
    assert await differences(database_url) == []


async def test_what_was_imported_and_archived_is_not_opened_anew(
    database_url: str, database: Database, tmp_path: Path
) -> None:
    def in_june(user_id: str) -> Path:
        rows = [
            call(one, user_id=user_id, timestamp=f"2026-06-0{one} 10:00:00", billing_period="2026-06") for one in (1, 2)
        ]
        said = summary(user_id=user_id, billing_period="2026-06", total_calls=5, total_cost=0.2, updated_at=None)
        return write(tmp_path / f"{user_id}.db", rows, usage_summaries=[said])

    async def done(*arguments: object) -> str:
        result = await ledger_command(database_url, *map(str, arguments))
        assert result.exit_code == 0, result.output
        return result.output

    path, folder = in_june("user_ada"), tmp_path / "archives"
    await run(database_url, path)
    imported = {("user_ada", "2026-06"): (5, 0, Decimal("0.2"))}
    assert await counted(database) == imported
    await done("periods", "close", "2026-06", "--author", "grace", "--reason", "the books")
    await done("archive", "--before", "2026-07", "--dir", folder)

    before = await events(database)
    for arguments in (["--dry-run", path], [path]):
        again = await ledger_command(database_url, "import-alwrity", *map(str, arguments))
        assert (again.exit_code, "ledger unarchive" in again.output) == (1, True), again.output
    assert (await counted(database), await events(database)) == (imported, before)
    await run(database_url, in_june("user_bob"))
    assert (await counted(database))["user_ada", "2026-06"] == imported["user_ada", "2026-06"]

    await done("unarchive", "--since", "2026-06", "--dir", folder)
    report = await run(database_url, path)
    assert (report["rows"]["known"], report["rows"]["new"], report["adjustments"]) == (2, 0, 0)
    assert await differences(database_url) == []


async def test_wrapped_rows_and_the_row_they_became_count_once_in_any_order(
    database_url: str, database: Database, tmp_path: Path
) -> None:
    rows = [call(one, cost_total=0.01 * one, status_code=500 if one % 5 == 0 else 200) for one in range(1, 21)]
    rows += [call(one + 100, provider="wavespeed") for one in range(1, 6)]
    before, after, later = (tmp_path / name for name in ("before.db", "after.db", "later.db"))
    write(before, rows[:18] + rows[20:])
    write(after, rows)
    wrap(after, "2026-10-12")
    shutil.copy(after, later)
    wrap(later, "2026-10-16")
    expected = totals(write(tmp_path / "whole.db", rows))
    orders = [[[before], [after], [later]], [[later], [before], [after]], [[later, before, after]],
              [[after], [before, later]]]  # fmt: skip
    for number, order in enumerate(orders):
        prefix = f"o{number}-"
        for paths in order[:-1]:
            await run(database_url, "--account-prefix", prefix, "--usage-only", *paths)
        given = "--account-prefix", prefix, "--usage-only", *order[-1]
        foreseen = await run(database_url, "--dry-run", *given)
        report = await run(database_url, *given)
        assert {**report, "dry_run": True} == foreseen
        assert await counted(database, prefix) == expected, order
    assert await differences(database_url) == []


async def test_what_happened_in_another_month_or_a_closed_one_is_said(
    ledger: Ledger, database_url: str, database: Database, tmp_path: Path
) -> None:
    closing = await ledger.http.put("/v1/periods/2026-09:close", json={"reason": "the books"})
    assert closing.status_code == 200
    rows = [
        call(1),
        call(2, timestamp="2026-11-01 08:00:00"),
        call(3, timestamp="2026-09-03 08:00:00", billing_period="2026-09"),
    ]
    report = await run(database_url, write(tmp_path / "a.db", rows))
    october, september = (period_of(report, "user_ada", one) for one in ("2026-10", "2026-09"))
    assert (october["ours"]["calls"], september["ours"]["calls"]) == (2, 1)
    assert (october["ledger_month"]["calls"], september["ledger_month"]["calls"]) == (2, 0)
    assert "1 calls ($0.040000000) happened in another month" in october["remarks"][0]
    assert "came for a closed one" in september["remarks"][0]
    assert await differences(database_url) == []


async def test_an_old_schema_is_read_and_what_it_lacks_is_said(
    database_url: str, database: Database, tmp_path: Path
) -> None:
    lacking = ["api_usage_logs.actual_provider_name", "api_usage_logs.billing_period", "usage_summaries.exa_calls",
               "subscription_renewal_history", "usage_alerts", "api_provider_pricing"]  # fmt: skip
    path = write(tmp_path / "old.db", [call(1)], lacking, usage_summaries=[summary(total_calls=1, total_cost=0.04)])
    report = await run(database_url, path)
    assert (await counted(database)) == {("user_ada", "2026-10"): (1, 0, Decimal("0.04"))}
    assert codes(period_of(report, "user_ada", "2026-10")) == []
    notices = "\n".join(report["notices"])
    assert "api_usage_logs has no column actual_provider_name, billing_period" in notices
    assert "has no table usage_alerts" in notices


def plan(row_id: int, name: str, **limits: Any) -> dict[str, Any]:
    return {"id": row_id, "name": name, "tier": name.upper(), **limits}


async def test_zero_is_not_allowed_on_free_and_no_limit_elsewhere(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    zeros = {"stability_calls_limit": 0, "image_edit_calls_limit": 5, "monthly_cost_limit": 0.0}
    started = {"current_period_start": "2026-10-15 09:30:00"}
    path = write(
        tmp_path / "a.db",
        [call(1, user_id="nobody")],
        subscription_plans=[plan(1, "Free", **zeros), plan(2, "Pro", **zeros), plan(3, "Basic", video_calls_limit=7)],
        user_subscriptions=[
            {"id": 1, "user_id": "ada", "plan_id": 2, "is_active": 1, **started},
            {"id": 2, "user_id": "bob", "plan_id": 2, "is_active": 0, **started},
        ],
    )
    report = await run(database_url, path)
    assert (report["plans"], report["accounts"]) == ({"new": 3}, {"new": 3})
    free, pro = [(await ledger.http.get(f"/v1/plans/alwrity-{one}")).json() for one in ("free", "pro")]
    assert {one["limit_id"]: one["maximum"] for one in free["limits"]} == {
        "stability-calls": 0, "image-edit-calls": 5, "monthly-cost": "0.000000000",
    }  # fmt: skip
    assert {one["limit_id"]: one["maximum"] for one in pro["limits"]} == {"image-edit-calls": 5}
    accounts = {one: (await ledger.http.get(f"/v1/accounts/{one}")).json() for one in ("ada", "bob", "nobody")}
    assert {one: body["plan_id"] for one, body in accounts.items()} == {
        "ada": "alwrity-pro", "bob": "alwrity-free", "nobody": "alwrity-free",
    }  # fmt: skip
    assert accounts["ada"]["billing_anchor"] == "2026-10-15"

    # What somebody changed in the ledger since stays; a plan of the same name with other limits is another plan.
    body = {"name": "Basic", "limits": []}
    assert (await ledger.http.put("/v1/plans/alwrity-basic", json=body)).status_code == 200
    other = write(tmp_path / "b.db", subscription_plans=[plan(9, "Pro", video_calls_limit=3)])
    again = await run(database_url, path, other)
    assert again["plans"] == {"unchanged": 2, "kept": 1, "new": 1}
    assert (await ledger.http.get("/v1/plans/alwrity-basic")).json()["limits"] == []
    assert (await run(database_url, path, other))["plans"] == {"unchanged": 3, "kept": 1}


async def test_prices_are_those_of_images_and_requests_and_the_catalogues_own_stay(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    def price(row_id: int, provider: str, model: str, **fields: Any) -> dict[str, Any]:
        return {
            "id": row_id,
            "provider": provider,
            "model_name": model,
            "effective_date": "2026-01-02 03:04:05",
            **fields,
        }

    own = {"unit": "image", "valid_from": "2026-05-01T00:00:00Z", "variants": [{"price": "0.5"}]}
    assert (await ledger.http.put("/v1/prices/stability/generate/mine", json=own)).status_code == 200
    prices = [
        price(1, "STABILITY", "sd", cost_per_image=0.04),
        price(2, "IMAGE_EDIT", "qwen", cost_per_request=0.02),
        price(3, "GEMINI", "flash", cost_per_input_token=1e-6),
        price(4, "stability", "mine", cost_per_image=0.1),
    ]
    report = await run(database_url, write(tmp_path / "a.db", api_provider_pricing=prices))
    assert report["prices"] == {"new": 2, "kept": 1}
    stored = (await ledger.http.get("/v1/prices/wavespeed/edit/qwen")).json()["versions"][0]
    assert (stored["valid_from"], stored["variants"][0]["price"]) == ("2026-01-02T03:04:05Z", "0.020000000")
    assert (await run(database_url, tmp_path / "a.db"))["prices"] == {"unchanged": 2, "kept": 1}


# --- files as they lie


async def test_a_file_that_is_open_is_read_with_its_wal_and_nothing_is_left_beside_it(
    database_url: str, database: Database, tmp_path: Path
) -> None:
    folder = tmp_path / "live"
    folder.mkdir()
    path = write(folder / "a.db", [call(1)])
    live = sqlite3.connect(path, isolation_level=None)
    live.execute("pragma journal_mode = wal")
    live.execute("update api_usage_logs set id = 2 where id = 1")
    shutil.copytree(folder, copied := tmp_path / "copied")
    (copied / "a.db-shm").unlink()
    before = {one.name: one.read_bytes() for one in folder.iterdir() if not one.name.endswith("-shm")}
    assert "a.db-wal" in before
    assert (await run(database_url, folder))["rows"]["new"] == 1
    assert (await run(database_url, copied))["rows"]["known"] == 1
    assert {one.name: one.read_bytes() for one in folder.iterdir() if not one.name.endswith("-shm")} == before
    assert sorted(one.name for one in copied.iterdir()) == ["a.db", "a.db-wal"]
    assert await database.fetchval("select metadata ->> 'alwrity_row' from usage_log") == "2"
    live.close()


async def test_a_file_that_is_locked_is_said_to_be(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_LOCK_SECONDS", 0.1)
    path = write(tmp_path / "a.db", [call(1)])
    live = sqlite3.connect(path, isolation_level=None)
    live.execute("begin exclusive")
    assert "locked" in await refused(database_url, path)
    live.close()


BROKEN: Final[list[tuple[dict[str, Any], str]]] = [
    ({"cost_total": float("inf")}, "not_finite"),
    ({"cost_total": -0.01}, "negative"),
    ({"cost_total": 1e300}, "too_large"),
    ({"cost_total": "plenty"}, "not_a_number"),
    ({"cost_total": b"\x00\x01"}, "not_a_number"),
    ({"timestamp": None}, "missing"),
    ({"timestamp": "yesterday"}, "not_a_time"),
    ({"timestamp": 1760000000}, "not_a_time"),
    ({"timestamp": "1970-01-01 00:00:00"}, "too_early"),
    ({"timestamp": "2190-01-01 00:00:00"}, "in_future"),
    ({"user_id": "a b\r\nc"}, "name"),
    ({"user_id": None}, "name"),
    ({"billing_period": "October"}, "not_a_month"),
    ({"status_code": 10**12}, "out_of_range"),
    ({"tokens_total": "many"}, "not_a_count"),
    ({"response_time": float("-inf")}, "not_a_number"),
    ({"endpoint": "[AGGREGATED]", "model_used": "several"}, "aggregated"),
    ({"endpoint": "[AGGREGATED]", "error_message": "Aggregated 4 calls: 2 success, 1 failed"}, "aggregated"),
    ({"endpoint": "[AGGREGATED]", "model_used": "[900000000 calls aggregated]"}, "too_many"),
]


async def test_broken_rows_are_all_named_and_nothing_is_written(
    database_url: str, database: Database, tmp_path: Path
) -> None:
    rows = [call(number, **fields) for number, (fields, _) in enumerate(BROKEN, 2)]
    path = write(tmp_path / "a.db", [call(1), *rows], subscription_plans=[plan(1, "Free")])
    said = await run(database_url, path, code=1)
    assert said["count"] == len(BROKEN)
    found = {int(one["row"]): (one["column"], one["rule"]) for one in said["problems"]}
    assert found == {
        number: ("model_used" if rule == "too_many" else next(iter(fields)), rule)
        if rule != "aggregated"
        else (list(fields)[-1], rule)
        for number, (fields, rule) in enumerate(BROKEN, 2)
    }
    assert "--skip-broken" in await refused(database_url, path)
    assert await events(database) == 0


async def test_broken_rows_may_be_left_out(database_url: str, database: Database, tmp_path: Path) -> None:
    path = write(tmp_path / "a.db", [call(1), call(2, cost_total=-1.0)], usage_summaries=[summary(total_calls=-1)])
    report = await run(database_url, "--skip-broken", path)
    assert (report["rows"]["new"], report["rows"]["broken"]) == (1, 2)
    assert "1 broken rows were left out" in period_of(report, "user_ada", "2026-10")["remarks"]
    assert (await counted(database))["user_ada", "2026-10"] == (1, 0, Decimal("0.04"))


async def test_what_is_no_file_of_alwritys_is_refused_with_all_the_others(
    database_url: str, database: Database, tmp_path: Path
) -> None:
    good = write(tmp_path / "good.db", [call(one) for one in range(300)])
    bad = {
        "missing": tmp_path / "missing.db",
        "not_sqlite": tmp_path / "text.db",
        "broken": tmp_path / "cut.db",
        "foreign": tmp_path / "foreign.db",
        "empty_folder": tmp_path / "empty",
        "columns": tmp_path / "columns.db",
    }
    bad["not_sqlite"].write_bytes(b"\x8f\x1c" * 4096)
    bad["broken"].write_bytes(good.read_bytes()[:-9000])
    bad["empty_folder"].mkdir()
    with sqlite3.connect(bad["foreign"]) as connection:
        connection.execute("create table songs (id)")
    with sqlite3.connect(bad["columns"]) as connection:
        connection.execute("create table api_usage_logs (id, provider)")
    for rule, path in bad.items():
        assert rule in await refused(database_url, good, path)
    (tmp_path / "hollow.db").touch()
    assert "not_sqlite" in await refused(database_url, tmp_path / "hollow.db")
    assert await events(database) == 0


async def test_the_guides_commands_do_what_it_says(ledger: Ledger, database_url: str, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for name in ("user_71basic", "user_race"):
        sample(name, workspace)
    guide = (Path(__file__).parents[2] / "deploy/guides/coming-from-alwrity.md").read_text()
    commands = re.findall(r"^ledger (import-alwrity .*?) *(?:#.*)?$", guide, re.M)
    assert len(commands) == 3
    places = {"workspace": str(workspace), "import.json": str(tmp_path / "import.json")}
    for command, told in zip(commands, ("nothing was written", "232 new", "232 known"), strict=True):
        result = await ledger_command(database_url, *(places.get(word, word) for word in command.split()))
        assert result.exit_code == 0
        assert told in " ".join(result.output.split())
    assert json.loads((tmp_path / "import.json").read_text())["rows"]["new"] == 232
    [usage, adjustments] = re.findall(r"localhost:8001(/v1/[^']*)", guide)
    assert (await ledger.http.get(usage)).json()["totals"]["calls"] == 41
    assert "the rows stand" in (await ledger.http.get(adjustments)).json()["items"][0]["adjustment"]["reason"]
