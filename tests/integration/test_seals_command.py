"""`ledger seals verify` where it cannot verify: it says why, and what to do, and never that all is well."""

import asyncio
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner, Result

from contracts.exit_codes import ExitCode
from ledger_service.cli import app
from ledger_service.config import Settings
from ledger_service.domain.checkpoints import SigningKey
from ledger_service.seal_keys import find_or_make_signing_key
from ledger_service.seal_publishing import CheckpointFile
from ledger_service.sealing import SealChain, Sealing
from tests.integration.test_doctor_seals import append
from tests.servers import as_service

Database: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def verify(database_url: str, *options: str, origin: str = "usage-ledger", **environment: str) -> Result:
    key = SigningKey(origin, Ed25519PrivateKey.generate()).verifier
    arguments = ["seals", "verify", "--no-stream", "--processes", "1", "--key", str(key), *options]
    return await run_command(arguments, database_url, **environment)


async def run_command(arguments: list[str], database_url: str, **environment: str) -> Result:
    runner = CliRunner(env={"LEDGER_DATABASE_URL": database_url, **environment})
    run = await asyncio.to_thread(runner.invoke, app, arguments)
    assert run.exception is None or isinstance(run.exception, SystemExit), run.exception
    return run


def said(run: Result) -> str:
    return " ".join(run.output.split())


@pytest.mark.parametrize("statement", ["drop table seals", "revoke all on seals from {role}"])
async def test_a_schema_or_a_role_that_will_not_do_is_told(
    database: Database, database_url: str, statement: str
) -> None:
    url = as_service(database_url)
    service = await asyncpg.connect(url)
    role = await service.fetchval("select current_user")
    await service.close()
    await database.execute(statement.format(role=role))
    run = await verify(url)
    assert run.exit_code == ExitCode.FAILED
    assert "seals" in said(run)
    assert "role auditor" in said(run)


async def test_keys_of_other_chains_alone_are_refused(database_url: str) -> None:
    run = await verify(database_url, origin="usage-ledger/2")
    assert run.exit_code == ExitCode.FAILED
    assert "LEDGER_SEALS_ORIGIN" in said(run)
    assert "usage-ledger/2" in said(run)
    run = await verify(database_url, origin="usage-ledger/2", LEDGER_SEALS_ORIGIN="usage-ledger/2")
    assert "Nothing is sealed" in said(run)


async def test_where_nothing_is_sealed_nothing_is_called_unchanged(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "checkpoints"
    file.touch()
    run = await verify(database_url, "--file", str(file))
    assert run.exit_code == ExitCode.FAILED
    assert "Nothing is sealed" in said(run)
    assert "unchanged" not in said(run)


async def test_a_stream_that_cannot_be_read_is_no_success_unless_it_is_left_out(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    key = find_or_make_signing_key(Settings(seals_key_file=tmp_path / "key.pem"))
    assert key is not None
    await append(database)
    await Sealing(SealChain(key)).seal(database)
    await CheckpointFile(tmp_path / "checkpoints", SealChain(key)).follow(database, None)
    settings = {
        "LEDGER_SEALS_KEY_FILE": str(tmp_path / "key.pem"), "LEDGER_SEALS_FILE": str(tmp_path / "checkpoints"),
        "LEDGER_NATS_URL": "nats://127.0.0.1:1",
    }  # fmt: skip
    arguments = ["seals", "verify", "--processes", "1"]
    run = await run_command(arguments, database_url, **settings)
    assert run.exit_code == ExitCode.FAILED
    assert "cannot be read" in said(run)
    assert "--no-stream" in said(run)
    run = await run_command([*arguments, "--no-stream"], database_url, **settings)
    assert (run.exit_code, "unchanged" in said(run)) == (ExitCode.DONE, True)


async def test_what_differs_ends_with_1_and_is_named(
    database: Database, database_url: str, nats_url: str, tmp_path: Path
) -> None:
    key_file, file = tmp_path / "key.pem", tmp_path / "checkpoints"
    key = find_or_make_signing_key(Settings(seals_key_file=key_file))
    assert key is not None
    for _ in range(2):
        await append(database)
        await Sealing(SealChain(key)).seal(database)
    await CheckpointFile(file, SealChain(key)).follow(database, None)
    settings = {
        "LEDGER_SEALS_KEY_FILE": str(key_file), "LEDGER_SEALS_FILE": str(file), "LEDGER_NATS_URL": nats_url,
    }  # fmt: skip
    commands = (
        ["seals", "verify", "--processes", "1"],
        ["verify", "--seals", "--jobs", "1", "--projection", "usage_log"],
    )

    async def both() -> list[tuple[int, str]]:
        runs = [await run_command(arguments, database_url, **settings) for arguments in commands]
        return [(run.exit_code, said(run)) for run in runs]

    for code, told in await both():
        assert (code, "unchanged" in told) == (ExitCode.DONE, True), told
    event_id = await database.fetchval("update event_log set source = 'forged' where position = 1 returning event_id")
    for code, told in await both():
        assert (code, "NOT what was sealed" in told) == (ExitCode.FAILED, True), told
        assert str(event_id) in told
    await database.execute("update event_log set source = 'tests' where position = 1")
    assert [code for code, _ in await both()] == [ExitCode.DONE] * 2
    await database.execute("delete from seals where size = 2")
    for code, told in await both():
        assert (code, "its end was cut off" in told) == (ExitCode.FAILED, True), told
