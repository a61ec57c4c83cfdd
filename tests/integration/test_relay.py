"""The relay against a real NATS server: what is in the journal arrives, and leaves only when the ledger has it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig

from contracts.access.nats_access import NatsAccess
from contracts.client.background import stop
from contracts.client.journal import Journal
from contracts.client.relay import IN_FLIGHT_MAX, Relay, RelaySettings
from contracts.events import REQUESTED_V1, parse_event
from contracts.subjects import RECORDED, STREAM, STREAM_SUBJECTS, subject_of
from tests.integration.image_harness import NatsServer, eventually
from tests.nats_flush import flushed
from tests.unit.test_journal import GIBIBYTE, completed, requested_by


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    running = NatsServer(tmp_path / "nats")
    running.start()
    yield running
    running.stop()


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = Journal(tmp_path / "journal.db", GIBIBYTE)
    yield opened
    opened.close()


@contextlib.asynccontextmanager
async def relaying(journal: Journal, url: str, confirm_after_seconds: float = 30.0) -> AsyncIterator[Relay]:
    relay = Relay(journal, RelaySettings(NatsAccess(url), confirm_after_seconds, stall_seconds=2.0))
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        await stop(task)


@contextlib.asynccontextmanager
async def connected(server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(server.url)
    try:
        yield client
    finally:
        await client.close()


async def make_stream(server: NatsServer, duplicate_window: float = 120.0) -> None:
    async with connected(server) as client:
        config = StreamConfig(name=STREAM, subjects=list(STREAM_SUBJECTS), duplicate_window=duplicate_window)
        await client.jetstream().add_stream(config)


async def stream_events(server: NatsServer) -> list[Any]:
    """Everything in the stream, in its order, as (headers, event)."""
    async with connected(server) as client:
        stream = client.jetstream()
        found = []
        for number in range(1, (await stream.stream_info(STREAM)).state.messages + 1):
            message = await stream.get_msg(STREAM, number)
            assert message.data is not None
            found.append((message.headers or {}, parse_event(message.data)))
        return found


async def count(server: NatsServer) -> int:
    async with connected(server) as client:
        return (await client.jetstream().stream_info(STREAM)).state.messages


async def confirm(server: NatsServer, source: str, *ranges: tuple[int, int]) -> None:
    async with connected(server) as client:
        await client.publish(RECORDED, json.dumps({"source": source, "recorded": ranges}).encode())
        await flushed(client)


async def write_operations(journal: Journal, operations: int) -> None:
    async def one() -> None:
        requested = requested_by(journal)
        await journal.begin(requested)
        await journal.finish(completed(requested))

    await asyncio.gather(*(one() for _ in range(operations)))


async def test_everything_is_published_once_in_order_and_stays_until_confirmed(server, journal) -> None:
    await make_stream(server)
    await write_operations(journal, 100)
    async with relaying(journal, server.url):
        await eventually(lambda: arrived(server, 200))
        await write_operations(journal, 10)
        await eventually(lambda: arrived(server, 220))
    published = await stream_events(server)
    assert [event.sourcesequence for _, event in published] == list(range(1, 221))
    assert all(headers["Nats-Msg-Id"] == str(event.id) for headers, event in published)
    assert await journal.outbox_ends() == (1, 220)


async def arrived(server: NatsServer, messages: int) -> bool:
    return await count(server) == messages


async def test_confirmation_empties_the_outbox(server, journal) -> None:
    await make_stream(server)
    await write_operations(journal, 50)
    async with relaying(journal, server.url):
        await eventually(lambda: arrived(server, 100))
        await confirm(server, "image-service/someone-else", (1, 100))
        await confirm(server, journal.source, (1, 60), (62, 100))
        await eventually(lambda: ends(journal, 61, 61))
        await confirm(server, journal.source, (1, 100))
        await eventually(lambda: ends(journal, 0, 0))


async def ends(journal: Journal, first: int, last: int) -> bool:
    return await journal.outbox_ends() == (first, last)


async def test_nonsense_confirmations_change_nothing(server, journal) -> None:
    await make_stream(server)
    await write_operations(journal, 5)
    async with relaying(journal, server.url) as relay:
        await eventually(lambda: arrived(server, 10))
        async with connected(server) as client:
            for body in (b"", b"{", b'{"source": 1}', b'{"source":"x","recorded":[[1]]}'):
                await client.publish(RECORDED, body)
            await flushed(client)
        await confirm(server, journal.source, (9, 3))
        # More than was ever written here: the journal is an old copy, and these may be other events.
        await confirm(server, journal.source, (1, 5_000))
        await asyncio.sleep(0.3)
        assert await journal.outbox_ends() == (1, 10)
        assert relay.is_connected


async def test_a_confirmation_of_a_newer_ledger_is_understood(server, journal) -> None:
    await make_stream(server)
    await write_operations(journal, 1)
    async with relaying(journal, server.url):
        await eventually(lambda: arrived(server, 2))
        newer = {"source": journal.source, "recorded": [[1, 2]], "position": 7}
        async with connected(server) as client:
            await client.publish(RECORDED, json.dumps(newer).encode())
            await flushed(client)
        await eventually(lambda: ends(journal, 0, 0))


async def test_message_that_the_stream_lost_is_published_again(server, journal) -> None:
    await make_stream(server, duplicate_window=0.1)
    await write_operations(journal, 5)
    async with relaying(journal, server.url, confirm_after_seconds=0.5):
        await eventually(lambda: arrived(server, 10))
        await confirm(server, journal.source, (1, 4), (6, 10))
        await eventually(lambda: ends(journal, 5, 5))
        async with connected(server) as client:
            await client.jetstream().purge_stream(STREAM)
        await eventually(lambda: arrived(server, 1))
        await confirm(server, journal.source, (1, 10))
        await eventually(lambda: ends(journal, 0, 0))


async def test_confirmed_is_not_published_again(server, journal) -> None:
    await make_stream(server, duplicate_window=0.1)
    await write_operations(journal, 5)
    async with relaying(journal, server.url, confirm_after_seconds=0.5):
        await eventually(lambda: arrived(server, 10))
        await confirm(server, journal.source, (1, 10))
        await eventually(lambda: ends(journal, 0, 0))
        await asyncio.sleep(1.2)
        assert await count(server) == 10


async def test_stream_that_is_not_there_yet(server, journal) -> None:
    await write_operations(journal, 5)
    async with relaying(journal, server.url):
        await asyncio.sleep(0.5)
        await make_stream(server)
        await eventually(lambda: arrived(server, 10))


async def test_server_that_is_not_there_yet_and_restarts_under_load(server, journal) -> None:
    await make_stream(server)
    server.stop()
    await write_operations(journal, 20)
    async with relaying(journal, server.url):
        await asyncio.sleep(0.3)
        server.start()
        await eventually(lambda: arrived(server, 40))
        writing = asyncio.create_task(write_operations(journal, 1_000))
        await asyncio.sleep(0.2)
        server.stop()
        await asyncio.sleep(0.5)
        server.start()
        await writing
        await eventually(lambda: has_all(server, 2_040), timeout_seconds=40)
        await confirm(server, journal.source, (1, 2_040))
        await eventually(lambda: ends(journal, 0, 0))


async def has_all(server: NatsServer, events: int) -> bool:
    """Each event at least once: the broker's own duplicate filter does not survive every kill."""
    if await count(server) < events:
        return False
    return {event.sourcesequence for _, event in await stream_events(server)} == set(range(1, events + 1))


class BlackHole:
    """A proxy that on demand swallows everything and closes nothing, as a lost route or a frozen server does."""

    def __init__(self, port: int) -> None:
        self._upstream_port = port
        self.swallow = False
        self.connections = 0
        self._held = asyncio.Event()  # set at the end
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "BlackHole":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._held.set()
        for writer in self._writers:
            writer.close()
        await asyncio.sleep(0.05)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        self._writers += [writer, up_writer]
        await asyncio.gather(self._pump(reader, up_writer), self._pump(up_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = self.connections
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if self.swallow and self.connections == own:
                    await self._held.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


async def test_half_open_connection_is_replaced(server, journal) -> None:
    await make_stream(server)
    async with BlackHole(server.port) as hole, relaying(journal, hole.url):
        await write_operations(journal, 5)
        await eventually(lambda: arrived(server, 10))
        hole.swallow = True
        await write_operations(journal, 5)
        await eventually(lambda: hole.connections > 1, timeout_seconds=10)  # the client alone takes 15 s
        hole.swallow = False
        await eventually(lambda: arrived(server, 20), timeout_seconds=25)


async def test_large_backlog_is_never_in_memory_as_a_whole(server, journal, monkeypatch) -> None:
    await make_stream(server)
    await write_operations(journal, 1_500)
    most = 0
    original = Journal.outbox

    async def watched(self: Journal, first: int, last: int, rows_max: int) -> Any:
        nonlocal most
        rows = await original(self, first, last, rows_max)
        most = max(most, len(rows))
        return rows

    monkeypatch.setattr(Journal, "outbox", watched)
    async with relaying(journal, server.url):
        await eventually(lambda: arrived(server, 3_000))
    assert most <= 64


async def test_a_journal_that_caught_up_with_its_older_self_keeps_what_was_not_published(server, journal) -> None:
    """Put back to an older copy it gives out numbers again; the ledger confirms them, and means other events."""
    await make_stream(server)
    await write_operations(journal, 5)
    async with relaying(journal, server.url):
        # The stream is away for its events, and the ledger's word gets through.
        await eventually(lambda: arrived(server, 10))
        await rename_subjects(server, "elsewhere.>")
        await write_operations(journal, 5)
        await confirm(server, journal.source, (1, 20))
        await eventually(lambda: ends(journal, 11, 20))
        await rename_subjects(server, *STREAM_SUBJECTS)
        await eventually(lambda: arrived(server, 20))
        # What was said meanwhile is not forgotten.
        await eventually(lambda: ends(journal, 0, 0))
    published = await stream_events(server)
    assert [event.sourcesequence for _, event in published] == list(range(1, 21))


async def test_one_row_that_cannot_be_published_holds_up_no_confirmation_of_others(server, journal) -> None:
    await make_stream(server)
    await rename_subjects(server, subject_of(REQUESTED_V1))
    operations = IN_FLIGHT_MAX - 10
    await write_operations(journal, operations)
    async with relaying(journal, server.url):
        await eventually(lambda: count(server))
        await confirm(server, journal.source, (1, 2 * operations))
        # Those behind the first portion come once others of it are out of the way.
        await eventually(lambda: arrived(server, operations))
        await eventually(lambda: has_rows(journal, operations))
        await rename_subjects(server, *STREAM_SUBJECTS)
        await eventually(lambda: has_rows(journal, 0))
    assert {event.sourcesequence for _, event in await stream_events(server)} == set(range(1, 2 * operations + 1))


async def has_rows(journal: Journal, rows: int) -> bool:
    return await journal.outbox_size() == rows


async def rename_subjects(server: NatsServer, *subjects: str) -> None:
    async with connected(server) as client:
        found = await client.jetstream().stream_info(STREAM)
        found.config.subjects = list(subjects)
        await client.jetstream().update_stream(found.config)
