"""Who may do what on NATS, with the permissions that production has, on a server of our own."""

import asyncio
import contextlib
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import nats.errors
import nkeys
import pytest
from nats.aio.client import Client

from contracts.access.nats_access import NatsAccess
from contracts.client import LedgerClient
from contracts.subjects import LEDGER_INBOX, LIMITS_CHECK, RECORDED, STREAM_SUBJECTS
from deploy.local.errors import MissingServerError
from deploy.local.nats import PERMISSIONS, NatsServer
from ledger_service.stream import connect_nats, create_stream
from tests.builders import check, completed, limit, to_bytes
from tests.integration.client_harness import OPERATION, settings_of
from tests.nats_flush import flushed
from tests.servers import WAIT_SECONDS, Databases, Ledger, eventually, run_apart, serving

ANSWER_SECONDS_MAX = 2.0


@contextlib.contextmanager
def running(server: NatsServer) -> Iterator[NatsServer]:
    try:
        server.start()
        yield server
    except MissingServerError as error:
        pytest.skip(str(error))
    finally:
        server.stop()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """With the stream, made by the identity that may."""

    async def make_stream(url: str) -> None:
        connection = await connect_nats(NatsAccess(url, inbox_prefix=LEDGER_INBOX), "deploy")
        await create_stream(connection, replicas=1)
        await connection.close()

    with running(NatsServer(tmp_path_factory.mktemp("guarded-nats"), guarded=True)) as server:
        run_apart(make_stream(server.url_of("deploy")))
        yield server


class Visitor:
    """A client, and what the server refused it."""

    def __init__(self) -> None:
        self.client = Client()
        self.refused: list[str] = []

    async def note(self, error: Exception) -> None:
        self.refused.append(str(error).lower())

    async def settled(self) -> list[str]:
        """What was refused, once the server has answered all that was sent."""
        await flushed(self.client)
        await asyncio.sleep(0.05)
        return self.refused


@asynccontextmanager
async def visiting(url: str, **options: Any) -> AsyncIterator[Visitor]:
    visitor = Visitor()
    try:
        await visitor.client.connect(url, error_cb=visitor.note, allow_reconnect=False, **options)
        yield visitor
    finally:
        await visitor.client.close()


@asynccontextmanager
async def visiting_as(server: NatsServer, user: str) -> AsyncIterator[Visitor]:
    prefix = {"image": "_INBOX_image", "producer": "_INBOX", "auditor": "_INBOX_auditor"}.get(user, LEDGER_INBOX)
    async with visiting(server.url_of(user), inbox_prefix=prefix) as visitor:
        yield visitor


async def test_the_whole_flow_runs_with_these_permissions_and_nothing_of_it_is_refused(
    guarded: NatsServer, database_url: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async with serving(database_url=database_url, nats_url=guarded.url_of("ledger")) as ledger:
        await ledger.set_up(limit("images", maximum=2))
        settings = settings_of(
            None,
            guarded.url_of("image"),
            check_transport="nats",
            journal_path=tmp_path / "journal.db",
            nats_inbox_prefix="_INBOX_image",
        )
        async with LedgerClient.open(settings) as client:
            assert await client.is_ready()
            async with client.operation(**OPERATION) as operation:
                operation.completed(cost="0.04")
            await eventually(lambda: settled(ledger, 1), "the image service's outcome is counted")
            await eventually(lambda: left_in(tmp_path / "journal.db", 0), "it was told so, and forgot the event")
        async with visiting_as(guarded, "producer") as producer:
            assert (await producer.client.request("$SRV.PING.ledger", timeout=WAIT_SECONDS)).data
            asked = check()
            answer = await producer.client.request(LIMITS_CHECK, to_bytes(asked), timeout=WAIT_SECONDS)
            assert json.loads(answer.data)["allowed"]
            await producer.client.jetstream().publish(STREAM_SUBJECTS[1], to_bytes(completed(asked)))
            await eventually(lambda: settled(ledger, 2), "another producer's outcome is counted")
            answer = await producer.client.request(LIMITS_CHECK, to_bytes(check()), timeout=WAIT_SECONDS)
            assert not json.loads(answer.data)["allowed"]
            assert await producer.settled() == []
    logged = capfd.readouterr()
    assert "nats_error" not in logged.out + logged.err


async def settled(ledger: Ledger, calls: int) -> bool:
    return bool((await ledger.limit())["settled"] == calls)


def left_in(journal: Path, rows: int) -> bool:
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        return bool(connection.execute("select count(*) from outbox").fetchone()[0] == rows)


async def test_a_restored_ledger_reads_again_as_itself(guarded: NatsServer, databases: Databases) -> None:
    lost, restored = databases.clone(), databases.clone()
    try:
        async with serving(database_url=lost, nats_url=guarded.url_of("ledger")) as ledger:
            event = completed(account_id="read-again")
            async with visiting_as(guarded, "producer") as producer:
                await producer.client.jetstream().publish(STREAM_SUBJECTS[1], to_bytes(event))

            async def is_counted() -> bool:
                return len((await ledger.usage_log("read-again"))["items"]) == 1

            await eventually(is_counted, "it is in the database that is lost then")
        async with serving(database_url=restored, nats_url=guarded.url_of("ledger")) as ledger:
            assert len((await ledger.usage_log("read-again"))["items"]) == 1
    finally:
        databases.drop(lost)
        databases.drop(restored)


Act: TypeAlias = Callable[[Client, str], Awaitable[None]]


async def _subscribe(client: Client, subject: str) -> None:
    await client.subscribe(subject)


async def _publish(client: Client, subject: str) -> None:
    await client.publish(subject, b"{}")


READ_THE_STREAM = (
    "$JS.API.STREAM.MSG.GET.USAGE",
    "$JS.API.DIRECT.GET.USAGE",
    "$JS.API.CONSUMER.CREATE.USAGE",
    "$JS.API.CONSUMER.CREATE.USAGE.mine",
    "$JS.API.CONSUMER.DURABLE.CREATE.USAGE.mine",
    "$JS.API.CONSUMER.MSG.NEXT.USAGE.ledger",
    "$JS.ACK.USAGE.ledger.1.1.1.1.0",
)
DESTROY_THE_STREAM = ("$JS.API.STREAM.DELETE.USAGE", "$JS.API.STREAM.PURGE.USAGE", "$JS.API.STREAM.UPDATE.USAGE")


FORBIDDEN_TO_PRODUCERS: tuple[tuple[Act, str], ...] = (
    *((_publish, subject) for subject in (*READ_THE_STREAM, *DESTROY_THE_STREAM)),
    *((_subscribe, subject) for subject in (*STREAM_SUBJECTS, "usage.v1.>", ">", "*.>", f"{LEDGER_INBOX}.>")),
    (_subscribe, LIMITS_CHECK),
    (_subscribe, "ledger.v1.>"),
    (_publish, RECORDED),
    (_publish, f"{LEDGER_INBOX}.forged"),
)


@pytest.mark.parametrize("user", ["image", "producer"])
async def test_a_producer_cannot_read_the_stream_answer_checks_or_confirm(guarded: NatsServer, user: str) -> None:
    async with visiting_as(guarded, user) as visitor:
        for act, subject in FORBIDDEN_TO_PRODUCERS:
            await act(visitor.client, subject)
            refused = await visitor.settled()
            assert f'"{subject.lower()}"' in refused[-1], f"{user} may {act.__name__} {subject}"
        assert len(visitor.refused) == len(FORBIDDEN_TO_PRODUCERS)


async def test_an_image_service_cannot_read_the_answers_of_others(guarded: NatsServer) -> None:
    async with visiting_as(guarded, "image") as image:
        await image.client.subscribe("_INBOX.>")
        assert await image.settled()


@pytest.mark.parametrize("user", ["ledger", "deploy", "auditor"])
async def test_nobody_but_producers_publishes_usage(guarded: NatsServer, user: str) -> None:
    before = await messages_in(guarded)
    async with visiting_as(guarded, user) as visitor:
        for subject in STREAM_SUBJECTS:
            await visitor.client.publish(subject, to_bytes(completed()))
        assert len(await visitor.settled()) == len(STREAM_SUBJECTS)
    assert await messages_in(guarded) == before


async def messages_in(server: NatsServer) -> int:
    async with visiting_as(server, "producer") as producer:
        info = await producer.client.request("$JS.API.STREAM.INFO.USAGE", timeout=ANSWER_SECONDS_MAX)
        return int(json.loads(info.data)["state"]["messages"])


@pytest.mark.parametrize("login", ["", "ledger@", "ledger:wrong@", "admin:admin@", "unknown@"])
async def test_nobody_gets_in_without_a_password(guarded: NatsServer, login: str) -> None:
    with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
        async with visiting(guarded.url.replace("nats://", f"nats://{login}"), connect_timeout=1):
            pass


async def test_an_nkey_does_as_well_as_a_password(tmp_path: Path) -> None:
    """As in deploy/nats/nats.conf: the server knows the public key alone."""
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    users = "\n".join(
        f"{{ user: {block}, password: x, permissions: ${block} }}," for block in ("DEPLOY", "IMAGE", "AUDITOR")
    )

    class WithKey(NatsServer):
        def configuration(self) -> str:
            permissions = PERMISSIONS[0].read_text()
            keyed = f"authorization {{ users: [ {{ nkey: {public}, permissions: $LEDGER }}, {users} ] }}"
            return "\n".join((super().configuration(), permissions, keyed, ""))

    seed_file = tmp_path / "ledger.nk"
    seed_file.write_bytes(seed + b"\n")
    with running(WithKey(tmp_path / "nats")) as server:
        access = NatsAccess(server.url, nkey_path=seed_file, inbox_prefix=LEDGER_INBOX)
        connection = await connect_nats(access, "keyed")
        try:
            await connection.subscribe(LIMITS_CHECK)
            await flushed(connection)
            assert connection.last_error is None
        finally:
            await connection.close()
        with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
            async with visiting(server.url):
                pass
