"""`ledger dead-letters …`, as people type it."""

import json
from pathlib import Path

import asyncpg
from typer.testing import Result

from ledger_service.intake import add_to_batch
from ledger_service.recording import Batch, record
from ledger_service.store.pool import Pool
from tests import builders
from tests.builders import completed
from tests.commands import ledger_command

Database = asyncpg.Connection
ACT = ("--author", "grace", "--reason", "mended")


async def ledger(database_url: str, *arguments: str, stdin: bytes | None = None) -> Result:
    return await ledger_command(database_url, "dead-letters", *arguments, stdin=stdin)


async def arrive(pool: Pool, *bodies: bytes) -> None:
    batch = Batch()
    for body in bodies:
        add_to_batch(batch, body, "jetstream", "usage.v1.operation.completed")
    await record(pool, batch)


async def test_letters_are_listed_shown_corrected_redriven_and_discarded(
    database_url: str, writing_pool: Pool, database: "Database[asyncpg.Record]", tmp_path: Path
) -> None:
    assert "no dead letters" in (await ledger(database_url, "list")).stderr
    broken = completed(cost=0.04, account_id="globex", source="image-service/7")
    await arrive(writing_pool, builders.to_bytes(broken), b"\x1b[2J\xff", b"[/bold]", b"[/bold]")
    listed = await ledger(database_url, "list")
    for word in ("globex", "image-service/7", "invalid_request", "malformed_json", "data.cost: ", "2"):
        assert word in listed.stdout
    rows = [json.loads(line) for line in (await ledger(database_url, "list", "--json")).stdout.splitlines()]
    by_code = {row["account_id"] or row["received_count"]: row["dead_letter_id"] for row in rows}
    number = str(by_code["globex"])
    assert {row["account_id"]: row["source"] for row in rows} == {"globex": "image-service/7", None: None}
    shown = await ledger(database_url, "show", number)
    assert "money_string" in shown.stdout
    assert "image-service/7 (as it claims)" in shown.stdout
    assert "\x1b[2J" not in (await ledger(database_url, "show", str(by_code[1]))).stdout
    raw = await ledger(database_url, "show", number, "--raw")
    assert json.loads(raw.stdout_bytes) == broken

    again = await ledger(database_url, "redrive", number, *ACT)
    assert (again.exit_code, "refused again: data.cost" in again.stderr) == (1, True)
    file = tmp_path / "event.json"
    file.write_bytes(raw.stdout_bytes.replace(broken["id"].encode(), builders.new_id().encode()))
    assert (await ledger(database_url, "redrive", number, "--event", str(file), *ACT)).exit_code == 1
    mended = json.dumps({**broken, "data": {**broken["data"], "cost": "0.04"}}).encode()
    done = await ledger(database_url, "redrive", number, "--event", "-", *ACT, stdin=mended)
    assert (done.exit_code, "recorded" in done.stderr) == (0, True)
    assert "grace" in (await ledger(database_url, "show", number)).stdout

    discarded = await ledger(database_url, "discard", "--code", "malformed_json", "--all", *ACT)
    assert (discarded.exit_code, "2 discarded" in discarded.stderr) == (0, True)
    assert [tuple(row) for row in await database.fetch("select distinct state from dead_letters order by 1")] == [
        ("discarded",),
        ("redriven",),
    ]


async def test_all_that_fit_are_redriven_and_what_is_refused_is_said(
    database_url: str, writing_pool: Pool, database: "Database[asyncpg.Record]"
) -> None:
    events = [completed() for _ in range(250)]
    await arrive(writing_pool, *(builders.to_bytes(event) for event in events), b"{")
    await database.execute(
        """
        insert into dead_letters (digest, origin, code, detail, errors, body)
        select sha256(body::text::bytea), 'http', 'invalid_request', '', '[]', body::text::bytea from event_log
        """
    )
    some = await ledger(database_url, "redrive", "--code", "invalid_request", "--all", *ACT)
    assert (some.exit_code, "250 duplicate" in some.stderr) == (0, True)
    rest = await ledger(database_url, "redrive", "--all", *ACT)
    assert (rest.exit_code, "1 refused" in rest.stderr) == (1, True)


async def test_what_makes_no_sense_is_said(database_url: str) -> None:
    for arguments, word in (
        (("redrive", *ACT), "--all"),
        (("redrive", "1", "--all", *ACT), "not both"),
        (("discard", *ACT), "--all"),
        (("redrive", "7", *ACT), "there is no dead letter 7"),
        (("show", "7"), "there is no dead letter 7"),
        (("list", "--state", "asleep"), "state[0]"),
        (("list", "--from", "yesterday"), "yesterday"),
        (("list", "--code", "invalid_requst"), "invalid_requst"),
        (("redrive", "--all", "--code", "nothing", *ACT), "nothing"),
        (("discard", "--all", "--origin", "post", *ACT), "jetstream"),
        (("redrive", "1", "--author", "", "--reason", "x"), "author"),
        (("redrive", "1", "--event", "/nowhere", *ACT), "/nowhere"),
    ):
        told = await ledger(database_url, *arguments)
        assert told.exit_code != 0, arguments
        assert word in told.stderr, arguments
