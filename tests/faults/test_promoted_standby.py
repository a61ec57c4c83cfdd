"""A standby takes over that lacks what was committed last: nothing is decided before that was read again."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import nats
import orjson
import pytest

from contracts.subjects import subject_of
from deploy.local.ports import HOST, free_port
from deploy.local.postgres import PostgresServer, postgres_programs
from deploy.local.servers import NatsServer
from ledger_service.store.migrations import migrate
from ledger_service.stream import create_stream
from tests.builders import Body, check, completed, limit
from tests.faults.test_restore import give_to_server, one_value, postgres
from tests.rebuilds import differences
from tests.servers import LedgerProcess, eventually
from tests.tokens import make_token_known

pytestmark = pytest.mark.faults

USED = 10
TAKEOVER_SECONDS = 60.0


class Standby(PostgresServer):
    """Follows another server, from a copy of its cluster."""

    def probe(self) -> bool:
        return super().probe() or any(line.strip() == "standby" for line in self._lock_lines())


def standby_of(server: PostgresServer, folder: Path) -> Standby:
    folder.mkdir()
    shutil.copy(server.data_dir / "password", folder)
    copying = [str(postgres_programs() / "pg_basebackup"), "--dbname", server.url, "--pgdata", str(folder / "data")]
    subprocess.run([*copying, "--write-recovery-conf", "--checkpoint", "fast"], check=True)
    give_to_server(folder)
    return Standby(folder, settings={"shared_buffers": "32MB"})


@asynccontextmanager
async def supervised(ledger: LedgerProcess) -> AsyncIterator[list[int | None]]:
    """Started again whenever it ends; the codes that it ended with."""
    ended: list[int | None] = []

    async def supervise() -> None:
        while True:
            with suppress(Exception):  # it does not get ready: again
                await asyncio.to_thread(ledger.start)
            await eventually(lambda: ledger.exit_code() is not None, "it ends", 10 * TAKEOVER_SECONDS)
            ended.append(ledger.exit_code())

    task = asyncio.create_task(supervise())
    try:
        yield ended
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(ledger.stop)


async def decided(http: httpx.AsyncClient) -> Body | None:
    """The decision on a check; None where the ledger does not decide now."""
    try:
        answer = await http.post("/v1/limit-checks", json=check())
    except httpx.TransportError:
        return None
    assert answer.status_code in (200, 503), answer.text
    return dict(answer.json()) if answer.status_code == 200 else None


async def test_nothing_is_decided_on_what_the_new_server_lacks(tmp_path: Path, own_nats: NatsServer) -> None:
    broker = await nats.connect(own_nats.url)
    with postgres(tmp_path / "postgres") as server:
        await asyncio.to_thread(server.start)
        await migrate(server.url)
        await make_token_known(server.url)
        await create_stream(broker, replicas=1)
        standby = standby_of(server, tmp_path / "standby")
        await asyncio.to_thread(standby.start)
        places = f"{HOST}:{server.port},{HOST}:{standby.port}"
        url = server.url.replace(f"{HOST}:{server.port}", places) + "?target_session_attrs=primary"
        ledger = LedgerProcess(free_port(), tmp_path / "ledger.log", {"database_url": url, "nats_url": own_nats.url})
        try:
            async with supervised(ledger) as ended, ledger.client() as client:
                await eventually(ledger.probe, "it is ready")
                await client.set_up(limit(maximum=USED, window="lifetime"))
                reached = await one_value(server.url, "select pg_current_wal_lsn()::text")
                follows = "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn"
                await eventually(lambda: one_value(standby.url, follows, reached), "the standby has the plan")
                await one_value(standby.url, "alter system set primary_conninfo = ''")
                await one_value(standby.url, "select pg_reload_conf()")
                alone = "select not exists (select from pg_stat_wal_receiver)"
                await eventually(lambda: one_value(standby.url, alone), "the standby follows no more")

                # What it lacks: a plan with more room, by which the ledger decides, and what was used.
                await client.set_up(limit(maximum=1_000, window="lifetime"))
                for _ in range(USED):
                    event = completed()
                    body, subject = orjson.dumps(event), subject_of(event["type"])
                    await broker.jetstream().publish(subject, body, headers={"Nats-Msg-Id": event["id"]})

                async def is_settled() -> bool:
                    return bool((await client.limit())["settled"] == USED)

                await eventually(is_settled, "the outcomes are recorded")
                assert (await client.check(check()))["allowed"]

                assert server.pid is not None
                os.kill(server.pid, signal.SIGKILL)
                await eventually(lambda: server.exit_code() is not None, "PostgreSQL is gone")
                assert await one_value(standby.url, "select pg_promote()")
                first = None
                async with asyncio.timeout(TAKEOVER_SECONDS):
                    while first is None:
                        first = await decided(client.http)
                assert not first["allowed"], "decided by what the new server lacks"
                assert first["denial"]["code"] == "limit_exceeded"
                assert (await client.limit())["settled"] == USED
                assert ended, "the process is another one"
            assert '"database_is_another"' in (tmp_path / "ledger.log").read_text()
            assert await differences(standby.url) == []
        finally:
            await asyncio.to_thread(standby.stop)
            await broker.close()
