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
from ledger_service.domain.checkpoints import SigningKey
from tests.servers import as_service

Database: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def verify(database_url: str, *options: str, origin: str = "usage-ledger", **environment: str) -> Result:
    """What the command says, on one line."""
    key = SigningKey(origin, Ed25519PrivateKey.generate()).verifier
    arguments = ["seals", "verify", "--no-stream", "--processes", "1", "--key", str(key), *options]
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
    assert run.exit_code == ExitCode.DONE


async def test_where_nothing_is_sealed_nothing_is_called_unchanged(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "checkpoints"
    file.touch()
    run = await verify(database_url, "--file", str(file))
    assert run.exit_code == ExitCode.DONE
    assert "Nothing is sealed" in said(run)
    assert "unchanged" not in said(run)
