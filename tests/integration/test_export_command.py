"""`ledger export`: whole files or none, a folder of days that goes on after a kill, plain words for what goes wrong."""

import asyncio
import json
import os
import signal
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.dataset as dataset
import pyarrow.parquet as parquet
import pytest
from typer.testing import Result

from ledger_service.store import moments
from tests.builders import at, completed
from tests.commands import ledger_command
from tests.servers import Ledger, eventually

Connection = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture(autouse=True)
def nothing_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever began is seen at once: nobody takes half a second between two instructions here."""
    monkeypatch.setattr(moments, "SETTLING", timedelta())


@pytest.fixture
async def three_days(ledger: Ledger) -> Ledger:
    """Rows on 1, 2 and 4 November."""
    await ledger.send(
        *(completed(time=at(f"2026-11-0{day} {hour:02}:00:00"), account_id=f"a{hour // 6 % 2}")
          for day in (1, 2, 4) for hour in range(0, 24, 6))
    )  # fmt: skip
    return ledger


async def run(database_url: str, *arguments: object, exit_code: int = 0) -> Result:
    result = await ledger_command(database_url, "export", *map(str, arguments))
    assert result.exit_code == exit_code, result.output
    return result


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


DAYS = [f"date=2026-11-0{day}/part-0.parquet" for day in (1, 2, 4)]


async def test_a_file_is_what_the_route_answers(three_days: Ledger, database_url: str, tmp_path: Path) -> None:
    for wanted in ("csv", "jsonl", "parquet"):
        file = tmp_path / f"usage.{wanted}"
        result = await run(database_url, file, "--json")
        answer = await three_days.http.get("/v1/exports/usage-log", params={"format": wanted})
        if wanted == "parquet":
            assert parquet.read_table(file).equals(parquet.read_table(tmp_path / "usage.parquet"))
            assert parquet.read_table(file).num_rows == 12
        else:
            assert file.read_bytes() == answer.content
        told = json.loads(result.stdout)
        assert (told["rows"], told["files"], told["bytes"]) == (12, 1, file.stat().st_size)
    assert files(tmp_path) == ["usage.csv", "usage.jsonl", "usage.parquet"]


async def test_a_folder_has_a_file_for_each_day_with_rows(
    three_days: Ledger, database_url: str, tmp_path: Path
) -> None:
    await run(database_url, tmp_path / "lake", "--by-day")
    assert files(tmp_path / "lake") == ["_export.json", *DAYS]
    found = dataset.dataset(tmp_path / "lake", partitioning="hive", exclude_invalid_files=True).to_table()
    assert found.num_rows == 12
    for row in found.to_pylist():
        assert date.fromisoformat(row["date"]) == row["occurred_at"].date()


async def test_filters_and_days_meet(three_days: Ledger, database_url: str, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    await run(
        database_url, lake, "--by-day", "--account", "a0", "--from", "2026-11-01T12:00:00Z", "--to", "2026-11-04",
    )  # fmt: skip
    assert files(lake) == ["_export.json", *DAYS[:2]]
    assert [parquet.read_table(lake / name).num_rows for name in DAYS[:2]] == [1, 2]


async def test_the_same_command_goes_on_and_is_of_the_same_moment(
    three_days: Ledger, database_url: str, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    first = json.loads((await run(database_url, lake, "--by-day", "--json")).stdout)
    before = {name: (lake / name).read_bytes() for name in DAYS}
    manifest = json.loads((lake / "_export.json").read_text())
    del manifest["days"]["2026-11-02"]  # as where it was killed before this day was done
    (lake / "_export.json").write_text(json.dumps({**manifest, "complete": False}))
    (lake / DAYS[1]).write_bytes(b"half")
    await three_days.send(completed(time=at("2026-11-02")), completed(time=at("2026-11-04")))

    again = json.loads((await run(database_url, lake, "--by-day", "--json")).stdout)

    assert {name: (lake / name).read_bytes() for name in DAYS} == before
    assert {**again, "elapsed_seconds": 0} == {**first, "elapsed_seconds": 0}
    assert json.loads((lake / "_export.json").read_text())["complete"]


async def test_a_kill_leaves_whole_files_and_the_next_run_does_the_rest(
    ledger: Ledger, database: Any, database_url: str, tmp_path: Path
) -> None:
    await ledger.send(completed(time=at("2026-11-01")))
    # Enough days that it takes a while.
    await database.execute(
        "insert into usage_log select (json_populate_record(u, json_build_object('operation_id', gen_random_uuid(), "
        "'occurred_at', u.occurred_at + day * interval '1 day'))).* from usage_log u, generate_series(1, 119) day"
    )
    lake = tmp_path / "lake"
    environment = {**os.environ, "LEDGER_DATABASE_URL": database_url}
    command = (sys.executable, "-m", "ledger_service.cli", "export", str(lake), "--by-day")
    process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.PIPE)
    await eventually(lambda: len(files(lake)) > 30 if lake.exists() else False, "some days are done")
    process.send_signal(signal.SIGKILL)
    await process.wait()
    whole = [name for name in files(lake) if name.endswith("part-0.parquet") and not Path(name).name.startswith(".")]
    assert 20 <= len(whole) < 120
    assert {parquet.read_table(lake / name).num_rows for name in whole} == {1}

    told = json.loads((await run(database_url, lake, "--by-day", "--json")).stdout)
    assert (told["rows"], told["files"]) == (120, 120)
    assert len([name for name in files(lake) if name.endswith("/part-0.parquet")]) == 120
    assert not [name for name in files(lake) if name.endswith(".part")]


async def test_focus_comes_by_day_too(three_days: Ledger, database_url: str, tmp_path: Path) -> None:
    await run(database_url, tmp_path / "lake", "--by-day", "--focus", "1.2")
    assert parquet.read_schema(tmp_path / "lake" / DAYS[0]).names[0] == "BilledCost"
    await run(database_url, tmp_path / "focus.csv", "--focus", "1.2")
    assert (tmp_path / "focus.csv").read_text().startswith("BilledCost,")
    await run(database_url, tmp_path / "focus.jsonl", "--focus", "1.2", exit_code=2)


async def test_a_bad_target_is_named_and_nothing_is_left_behind(
    three_days: Ledger, database_url: str, tmp_path: Path
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    for arguments, says in (
        ((taken, "--by-day"), "File exists"),
        ((full, "--by-day"), "is not empty"),
        ((full, "--format", "csv"), "is a folder"),
        ((tmp_path / "no" / "such.csv",), "No such file"),
    ):
        result = await run(database_url, *arguments, exit_code=1)
        assert says in result.output
    assert files(tmp_path) == ["full/notes.txt", "taken"]
    assert taken.read_text() == "mine"


async def test_another_export_is_not_mixed_into_a_folder(three_days: Ledger, database_url: str, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    await run(database_url, lake, "--by-day")
    before = {name: (lake / name).read_bytes() for name in files(lake)}
    for other in (("--account", "a0"), ("--format", "csv"), ("--focus", "1.2"), ("--as-of", "2026-11-01")):
        assert "holds" in (await run(database_url, lake, "--by-day", *other, exit_code=1)).output
    (lake / "_export.json").write_text("{}")
    assert "is not what an export wrote" in (await run(database_url, lake, "--by-day", exit_code=1)).output
    (lake / "_export.json").write_bytes(before["_export.json"])
    assert {name: (lake / name).read_bytes() for name in files(lake)} == before


async def test_wrong_options_are_refused(database_url: str, tmp_path: Path) -> None:
    for arguments in (
        (tmp_path / "x.xlsx",),
        (tmp_path / "x.csv", "--from", "2026-11-02", "--to", "2026-11-02"),
        (tmp_path / "x.csv", "--recorded-from", "2026-11-02", "--recorded-to", "2026-11-01"),
        (tmp_path / "x.csv", "--from", "yesterday"),
        (tmp_path / "x.csv", "--as-of", "2199-01-01"),
        (tmp_path / "x.csv", "--focus", "1.0"),
        (tmp_path / "x.csv", "--outcome", "lost"),
        ("-", "--format", "csv", "--json"),
    ):
        await run(database_url, *arguments, exit_code=2)
    assert files(tmp_path) == []


async def test_a_full_disk_ends_it_with_a_word_and_without_half_a_file(
    three_days: Ledger, database_url: str, tmp_path: Path
) -> None:
    """A limit on the size of files is met like the end of a disk: the write fails."""
    target = tmp_path / "usage.csv"
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"
    limited += "from ledger_service.cli import main; main()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", limited, "export", str(target), env={**os.environ, "LEDGER_DATABASE_URL": database_url},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await process.communicate()
    assert process.returncode == 1
    assert b"cannot write" in said
    assert b"File too large" in said
    assert files(tmp_path) == []
