"""`ledger periods` and `ledger statement`: the API's code, on the command line."""

import json
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from tests.builders import completed
from tests.commands import ledger_command
from tests.servers import Ledger

Database = asyncpg.Connection
BY = ("--author", "grace", "--reason", "invoiced")


async def test_months_close_from_the_command_line(ledger: Ledger, database_url: str) -> None:
    await ledger.send(completed(time="2026-08-15T12:00:00Z"))
    nothing = await ledger_command(database_url, "periods", "list")
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert "nothing is closed" in nothing.stderr
    done = await ledger_command(database_url, "periods", "close", "2026-08", "--account", "acme", "--json", *BY)
    assert done.exit_code == 0, done.output
    closing = json.loads(done.stdout)
    assert (closing["account_id"], closing["period"], closing["author"]) == ("acme", "2026-08", "grace")
    statement = (await ledger.http.get("/v1/accounts/acme/statements/2026-08")).json()
    assert statement["closed"] == closing
    again = await ledger_command(database_url, "periods", "close", "2026-08", "--account", "acme", "--json", *BY)
    assert json.loads(again.stdout) == closing, "closed already: what closed it"
    every = await ledger_command(database_url, "periods", "close", "2026-07", *BY)
    assert "closed for all accounts" in every.stderr
    listed = await ledger_command(database_url, "periods", "list", "--account", "acme", "--json")
    assert [json.loads(line)["period"] for line in listed.stdout.splitlines()] == ["2026-07", "2026-08"]
    other = await ledger_command(database_url, "periods", "list", "--account", "apex")
    assert "2026-07" in other.stdout
    assert "2026-08" not in other.stdout


async def test_what_people_write_is_shown_as_they_wrote_it(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str, tmp_path: Path
) -> None:
    """Square brackets are no styles, and colons no pictures."""
    account, reason = "team:b:x", "[invoice 7] of [/ops], :warning:"
    await ledger.send(completed(account_id=account, time="2026-08-15T12:00:00Z", endpoint=reason))
    close = ("periods", "close", "2026-08", "--account", account, "--author", "[grace]", "--reason", reason)
    for arguments in (close, ("periods", "list")):
        shown = await ledger_command(database_url, *arguments)
        assert (shown.exit_code, shown.exception) == (0, None), shown.output
        for text in (account, "[grace]", reason):
            assert text in shown.stdout
    assert f"closed for account {account}," in (await ledger_command(database_url, *close)).stderr
    file = tmp_path / "of [ops].json"
    written = await ledger_command(database_url, "statement", account, "2026-08", "-o", str(file))
    assert "of [ops].json: closed" in written.stderr.replace("\n", ""), written.output
    await database.execute("update usage_log set endpoint = 'was ' || endpoint")
    wrong = await ledger_command(database_url, "verify", "--account", account)
    assert f"was {reason}" in wrong.stdout, wrong.output


async def test_what_cannot_be_closed(ledger: Ledger, database_url: str) -> None:
    this_month = f"{datetime.now(UTC):%Y-%m}"
    for arguments, code, said in (
        (("2026-13",), 2, "period"),
        (("2026-08", "--account", "a b\n"), 2, "account"),
        (("2026-08", "--account", "nobody"), 1, "nothing is known of account nobody"),
        ((this_month,), 1, "not over yet"),
    ):
        refused = await ledger_command(database_url, "periods", "close", *arguments, *BY)
        assert (refused.exit_code, refused.stdout) == (code, ""), refused.output
        assert said in refused.stderr
    assert (await ledger_command(database_url, "periods", "list")).stdout == ""


async def test_a_statement_is_the_apis_byte_for_byte(ledger: Ledger, database_url: str, tmp_path: Path) -> None:
    await ledger.send(completed(time="2026-08-15T12:00:00Z"))
    file = tmp_path
    for name in ("json", "csv", "html", "pdf"):
        file = tmp_path / f"statement.{name}"
        answer = await ledger.http.get(f"/v1/accounts/acme/statements/2026-08?format={name}")
        done = await ledger_command(
            database_url, "statement", "acme", "2026-08", "--format", name, "--output", str(file)
        )
        assert done.exit_code == 0, done.output
        assert file.read_bytes() == answer.content
        piped = await ledger_command(database_url, "statement", "acme", "2026-08", "--format", name)
        assert piped.stdout_bytes == answer.content
    for arguments, code, said in (
        (("acme", "2026-8"), 2, "period"),
        (("nobody", "2026-08"), 1, "nothing is known of account nobody"),
        (("acme", "2026-08", "--cursor", "1'"), 2, "cursor"),
        (("acme", "2026-08", "--format", "xls"), 2, "xls"),
        (("acme", "2026-08", "-o", str(file)), 1, "exists already"),
        (("acme", "2026-08", "-o", str(tmp_path / "no" / "where")), 1, "cannot write"),
    ):
        refused = await ledger_command(database_url, "statement", *arguments)
        assert (refused.exit_code, refused.stdout) == (code, ""), refused.output
        assert said in refused.stderr


async def test_an_account_that_nobody_knows_is_told_beside_an_answer_without_anything(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    await ledger.send(completed(account_id="acme", time="2026-08-15T12:00:00Z"))
    for account, known in (("acme", True), ("acne", False)):
        for arguments in (("export", str(tmp_path / f"{account}.csv")), ("periods", "list")):
            done = await ledger_command(database_url, *arguments, "--account", account)
            assert done.exit_code == 0, done.output
            assert ("nothing is known of account acne" in done.stderr) != known
