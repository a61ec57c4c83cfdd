"""PostgreSQL is lost and put back to an earlier moment under load, as deploy/guides/backup.md says."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import nats
import pytest

from contracts.client import LedgerClient
from contracts.client.errors import LedgerUnavailable
from deploy.local.errors import MissingServerError
from deploy.local.ports import free_port
from deploy.local.postgres import PostgresServer, postgres_programs
from deploy.local.servers import NatsServer
from ledger_service.store.migrations import migrate
from ledger_service.stream import create_stream
from tests.builders import ACCOUNT, completed, limit
from tests.integration.client_harness import OPERATION, settings_of
from tests.servers import LedgerProcess, eventually
from tests.tokens import make_token_known

pytestmark = pytest.mark.faults

GUIDE = Path(__file__).parents[2] / "deploy" / "guides" / "backup.md"
CALLERS = 6
#: Operations in each part of the load.
OPERATIONS = int(os.environ.get("RESTORE_OPERATIONS", "300"))
COMMAND_SECONDS = 120
MAXIMUM = 10**6


class Guide:
    """The commands of the guide, with this test's folders in place of those that stand there."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.backup = folder / "backup"
        self._blocks = re.findall(r"^```sh\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
        assert len(self._blocks) == 5
        self.environment = {
            **os.environ,
            **environment,
            "PATH": f"{postgres_programs()}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COLUMNS": "160",
        }

    def run(self, first_words: str, exit_code: int = 0, **more: str) -> str:
        [block] = [block for block in self._blocks if first_words in block]
        done = subprocess.run(
            ["bash", "-e", "-c", block.replace("/backup", str(self.backup))],
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == exit_code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def ledger(self, *arguments: str, exit_code: int = 0, more: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            ["ledger", *arguments],
            env={**self.environment, **(more or {})},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == exit_code, done.stdout + done.stderr
        return done.stdout


def give_to_server(*folders: Path) -> None:
    """Root runs these commands here, and PostgreSQL runs as nobody."""
    if os.geteuid() == 0:
        for folder in folders:
            subprocess.run(["chown", "-R", "65534:65534", str(folder)], check=True)


@contextmanager
def postgres(folder: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(folder, settings={"shared_buffers": "32MB"})
    try:
        yield server
    except MissingServerError as error:
        pytest.skip(str(error))
    finally:
        server.stop()


class Load:
    """Callers that run operations all the time; what was acknowledged to them is what has to be in the ledger."""

    def __init__(self, client: LedgerClient) -> None:
        self._client = client
        self._enough = asyncio.Event()
        self._tasks = [asyncio.create_task(self._call()) for _ in range(CALLERS)]
        self.acknowledged: list[UUID] = []

    async def more(self, operations: int = OPERATIONS) -> None:
        wanted = len(self.acknowledged) + operations
        await eventually(lambda: len(self.acknowledged) >= wanted, f"{wanted} operations are done", 120)

    async def end(self) -> None:
        self._enough.set()
        await asyncio.gather(*self._tasks)

    async def _call(self) -> None:
        while not self._enough.is_set():
            try:
                async with self._client.operation(**OPERATION) as operation:
                    await asyncio.sleep(0.002)
                    operation.completed(cost="0.04")
            except LedgerUnavailable:
                await asyncio.sleep(0.05)
            else:
                self.acknowledged.append(operation.operation_id)


async def one_value(url: str, query: str, *values: object) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query, *values)
    finally:
        await connection.close()


async def send_over_http(ledger: LedgerProcess, numbers: range) -> None:
    async with ledger.client() as client:
        await client.send(*(completed(source="http-only", sourcesequence=number) for number in numbers))


async def test_postgres_restored_to_an_earlier_moment_under_load_misses_nothing_that_anybody_still_has(
    tmp_path: Path, own_nats: NatsServer
) -> None:
    with postgres(tmp_path / "postgres") as server:
        server.prepare()
        settings = {
            "database_url": server.url,
            "nats_url": own_nats.url,
            "seals_key_file": tmp_path / "seals" / "key.pem",
            "seals_file": tmp_path / "seals" / "checkpoints",
            "seals_interval_seconds": 0.2,
        }
        environment = {f"LEDGER_{name.upper()}": str(value) for name, value in settings.items()}
        guide = Guide(tmp_path, {**environment, "PGDATA": str(server.cluster)})
        (guide.backup / "wal").mkdir(parents=True)
        give_to_server(guide.backup / "wal")
        guide.run("archive_mode")
        server.start()
        guide.environment["LEDGER_OWNER_DATABASE_URL"] = server.url
        await migrate(server.url)
        await make_token_known(server.url)
        broker = await nats.connect(own_nats.url)
        await create_stream(broker, replicas=1)
        await broker.close()

        ledger = LedgerProcess(free_port(), tmp_path / "ledger.log", settings)
        ledger.start()
        async with ledger.client() as admin:
            await admin.set_up(limit(window="lifetime", maximum=MAXIMUM))
        journal = settings_of(ledger.url, own_nats.url, journal_path=tmp_path / "client" / "journal.db")
        async with LedgerClient.open(journal) as client:
            load = Load(client)
            await load.more()
            guide.run("pg_basebackup")
            await send_over_http(ledger, range(1, 4))
            await load.more()
            when = str(await one_value(server.url, "select clock_timestamp()"))
            at_that_time = len(load.acknowledged)
            await load.more()
            await send_over_http(ledger, range(4, 7))
            segment = await one_value(server.url, "select pg_walfile_name(pg_switch_wal())")
            archived = guide.backup / "wal" / segment
            await eventually(archived.exists, "the log up to now is archived", 60)

            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await eventually(lambda: server.exit_code() is not None, "PostgreSQL is gone")
            ledger.end(signal.SIGKILL)
            shutil.rmtree(server.cluster)

            guide.run("recovery.signal", WHEN=when)
            give_to_server(server.cluster)
            server.start()

            async def is_promoted() -> bool:
                return not await one_value(server.url, "select pg_is_in_recovery()")

            await eventually(is_promoted, "the restore is at its end", 60)
            restored = await one_value(server.url, "select count(*) from usage_log")
            assert restored < len(load.acknowledged), "nothing was lost by the restore: it proves nothing"
            assert restored > at_that_time / 2

            ledger.start()
            await load.more()
            await send_over_http(ledger, range(7, 8))
            await load.end()

            async def is_all_confirmed() -> bool:
                assert client.journal is not None
                return await client.journal.outbox_ends() == (0, 0)

            await eventually(is_all_confirmed, "the ledger has confirmed everything", 60)

        report = json.loads(guide.ledger("close-gap", "--json", exit_code=1))
        await assert_nothing_is_missing(server.url, load.acknowledged)
        [gap] = report["gaps"]
        assert gap["restored"] > OPERATIONS
        assert gap["gone_from_stream"] == gap["dead_letters"] == 0
        [(source, ranges)] = gap["sources"].items()
        assert source.startswith("tests/")
        assert sum(last - first + 1 for first, last in ranges) == gap["restored"]
        assert 0 < gap["outcomes_without_decision"][ACCOUNT] <= gap["restored"] / 2
        assert report["holes"] == [{"source": "http-only", "missing": [[4, 6]], "last_sequence": 7}]
        assert guide.ledger("verify") == ""

        # The chain of seals is forked, and nothing was signed over it.
        assert report["seals"]["is_fork"]
        assert report["seals"]["trouble"] is None
        chain_end = await one_value(server.url, "select max(size) from seals")
        assert report["seals"]["chain_ends_at"] == chain_end < report["seals"]["published_up_to"]
        assert "seals_diverged" in (tmp_path / "ledger.log").read_text()
        printed = guide.run("close-gap", exit_code=1)
        origin = re.search(r"LEDGER_SEALS_ORIGIN=(\S+)", printed)
        key = re.search(r"add (\S+) to LEDGER_SEALS_TRUSTED_KEYS", printed)
        assert origin
        assert key

        ledger.end(signal.SIGTERM)
        chain: dict[str, str] = {"seals_origin": origin[1], "seals_trusted_keys": key[1]}
        again = LedgerProcess(free_port(), tmp_path / "again.log", {**settings, **chain})
        again.start()
        try:

            async def is_sealed() -> bool:
                rows = await one_value(server.url, "select count(*) from event_log")
                sealed = await one_value(server.url, "select max(size) from seals where origin = $1", origin[1])
                return bool(sealed == rows)

            await eventually(is_sealed, "the new chain has sealed the whole log", 60)
            new_chain = {f"LEDGER_{name.upper()}": value for name, value in chain.items()}
            guide.ledger("seals", "verify", more=new_chain)
            assert not json.loads(guide.ledger("close-gap", "--json", exit_code=1, more=new_chain))["seals"]["is_fork"]
        finally:
            again.stop()
        assert "seals_diverged" not in (tmp_path / "again.log").read_text()


async def assert_nothing_is_missing(url: str, acknowledged: list[UUID]) -> None:
    """Each acknowledged operation once; the limit is what they come to, and holds nothing."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("select operation_id, outcome from usage_log")
        assert {row["outcome"] for row in rows} == {"completed"}
        found = [row["operation_id"] for row in rows]
        assert len(found) == len(set(found))
        assert set(acknowledged) <= set(found)
        # What else there is came over HTTP: four of seven, as three were lost.
        assert len(found) == len(acknowledged) + 4
        counters = await connection.fetch("select settled, held from counters where meter = 'calls'")
        assert [tuple(row) for row in counters] == [(len(found), 0)]
        assert await connection.fetchval("select count(*) from dead_letters") == 0
    finally:
        await connection.close()
