"""PostgreSQL's disk is looked at where the server is on this machine, and never a folder that only has its name."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ledger_service.store import server_files
from ledger_service.store.server_files import data_folder
from tests.integration.test_doctor import doctor
from tests.servers import as_service

Database = asyncpg.Connection


async def test_the_folder_of_a_server_on_this_machine_is_known(database: "Database[asyncpg.Record]") -> None:
    if not await _is_a_local_process(database):
        pytest.skip("the tests' PostgreSQL is elsewhere")
    assert await data_folder(database) == Path(await database.fetchval("show data_directory"))


@pytest.mark.parametrize("comm", [None, "bash\n"], ids=["no such process", "another one has its number"])
async def test_a_server_whose_processes_are_not_here_has_no_folder_here(
    database: "Database[asyncpg.Record]",
    database_url: str,
    nats_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    comm: str | None,
) -> None:
    (tmp_path / "self").touch()
    monkeypatch.setattr(server_files, "PROCESSES", tmp_path)
    if comm is not None:
        process = tmp_path / str(await database.fetchval("select pg_backend_pid()"))
        process.mkdir()
        (process / "comm").write_text(comm)
    assert await data_folder(database) is None
    finding = (await doctor(database_url, nats_url))["disk.room"]
    assert finding["status"] == "skipped", finding


async def test_a_server_at_another_address_is_not_here(
    database: "Database[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    there = (
        server_files.SQL["folder"]
        .replace("inet_server_addr()", "inet '192.0.2.1'")
        .replace("inet_client_addr()", "inet '192.0.2.2'")
    )
    monkeypatch.setitem(server_files.SQL, "folder", there)
    assert await data_folder(database) is None


async def test_a_role_that_may_not_know_it_is_told_nothing(database_url: str) -> None:
    service: Any = await asyncpg.connect(as_service(database_url))
    try:
        assert await data_folder(service) is None
    finally:
        await service.close()


async def _is_a_local_process(database: "Database[asyncpg.Record]") -> bool:
    process = await database.fetchval("select pg_backend_pid()")
    return Path(f"/proc/{process}").is_dir()
