"""A database that was put back to an earlier state gets back what the stream still has, and says what nobody has.

The state is a real earlier one: a copy that PostgreSQL made of the database then.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from nats.aio.client import Client as Nats

from contracts.subjects import subject_of
from ledger_service.config import Settings
from ledger_service.seal_keys import find_or_make_signing_key
from ledger_service.store.pool import open_pool
from ledger_service.stream_gaps import StreamGaps
from tests import builders
from tests.builders import ACCOUNT, Body, completed, limit, requested
from tests.servers import Databases, as_service, eventually, has_acknowledged_all, serving

COMMAND_SECONDS = 30
MANY = 450  # several portions


@pytest.fixture
def put_back(databases: Databases, database_url: str) -> Iterator["PutBack"]:
    made = PutBack(database_url)
    yield made
    for url in made.copies:
        databases.drop(url)


class PutBack:
    """Copies of the test's database as it is at that moment."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.copies: list[str] = []

    async def copy(self) -> str:
        """The URL of a new database with all that is committed now; nobody may be connected to the old one."""
        name = urlsplit(self._url).path[1:]
        copy = f"{name}_{len(self.copies)}"
        url = urlsplit(self._url)._replace(path=f"/{copy}").geturl()
        await execute(administration(self._url), f'create database "{copy}" template "{name}" strategy file_copy')
        self.copies.append(url)
        return url


def administration(url: str) -> str:
    return urlsplit(url)._replace(path="/postgres").geturl()


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def publish(client: Nats, *events: Body | bytes) -> None:
    jetstream = client.jetstream()
    for first in range(0, len(events), 100):
        await asyncio.gather(
            *(
                jetstream.publish(subject_of("usage.operation.completed.v1"), event)
                if isinstance(event, bytes)
                else jetstream.publish(subject_of(event["type"]), builders.to_bytes(event))
                for event in events[first : first + 100]
            )
        )


async def acknowledged(client: Nats) -> None:
    await eventually(lambda: has_acknowledged_all(client), "the ledger has acknowledged everything")


def numbered(first: int, last: int, source: str = "journal") -> list[Body]:
    return [completed(source=source, sourcesequence=number) for number in range(first, last + 1)]


Start = Callable[..., Awaitable[Any]]


async def test_where_the_schema_lacks_close_gap_says_what_to_do(
    empty_database_url: str, database_url: str, nats_url: str, tmp_path: Path
) -> None:
    done = await asyncio.to_thread(close_gap, empty_database_url, nats_url)
    assert (done.returncode, "ledger migrate" in done.stderr) == (1, True), done.stderr
    await execute(database_url, "drop table seals")
    key_file = tmp_path / "key.pem"
    find_or_make_signing_key(Settings(seals_key_file=key_file))
    done = await asyncio.to_thread(close_gap, database_url, nats_url, LEDGER_SEALS_KEY_FILE=str(key_file))
    assert (done.returncode, "seals" in done.stderr, "Traceback" in done.stderr) == (1, True, False), done.stderr


def close_gap(url: str, nats_url: str, *options: str, **more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "ledger_service.cli", "close-gap", *options],
        env={**os.environ, "LEDGER_DATABASE_URL": as_service(url), "LEDGER_NATS_URL": nats_url, **more},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


async def test_what_was_committed_since_comes_back_before_the_first_check_is_decided(
    database_url: str, nats_url: str, nats_client: Nats, put_back: PutBack
) -> None:
    async with serving(database_url=as_service(database_url), nats_url=nats_url) as ledger:
        await ledger.set_up(limit(maximum=MANY + 12))
        open_then = builders.check()
        await ledger.check(open_then)
        await publish(nats_client, *numbered(1, 10))
        await acknowledged(nats_client)
    then = await put_back.copy()
    async with serving(database_url=as_service(database_url), nats_url=nats_url) as ledger:
        checked_since = [builders.check() for _ in range(2)]
        for check in checked_since:
            assert (await ledger.check(check))["allowed"]
        outcomes = [completed(check) for check in (open_then, *checked_since)]
        await publish(nats_client, *numbered(11, MANY), *outcomes, b"{no event")
        await acknowledged(nats_client)
        before = await ledger.limit()
        assert (before["settled"], before["held"]) == (MANY + 3, 0)

    async with serving(database_url=as_service(then), nats_url=nats_url) as ledger:
        after = await ledger.limit()
        assert (after["settled"], after["held"]) == (MANY + 3, 0)
        decisions = [(await ledger.check(builders.check()))["allowed"] for _ in range(10)]
        assert decisions == [True] * 9 + [False]
    query = "select account_id, event_id, body::text from event_log where type like 'usage.%' order by 1, 2"
    assert await rows(then, query) == await rows(database_url, query)
    [(text, ended_at)] = await rows(then, "select report::text, log_ended_at from stream_gaps")
    report = json.loads(text)
    assert report["sources"] == {"journal": [[11, MANY]]}
    assert (report["restored"], report["dead_letters"], report["gone_from_stream"]) == (MANY - 10 + 3, 1, 0)
    # Those without a check never had a decision; of the others, one had it then.
    assert report["outcomes_without_decision"] == {ACCOUNT: MANY - 10 + 2}
    assert ended_at < datetime.now(UTC)


async def test_a_new_database_on_an_old_stream_has_all_of_it(
    databases: Databases, database_url: str, nats_url: str, nats_client: Nats
) -> None:
    async with serving(database_url=as_service(database_url), nats_url=nats_url):
        await publish(nats_client, *numbered(1, 30))
        await acknowledged(nats_client)
    with databases.cloned() as new:
        async with serving(database_url=as_service(new), nats_url=nats_url):
            assert await rows(new, "select recorded::text from sources") == [("{[1,31)}",)]


async def test_what_was_never_put_back_is_not_read_again(
    database_url: str, nats_url: str, nats_client: Nats, capfd: pytest.CaptureFixture[str]
) -> None:
    for first in (1, 21):
        async with serving(database_url=as_service(database_url), nats_url=nats_url):
            await publish(nats_client, *numbered(first, first + 19))
            await acknowledged(nats_client)
            await eventually(lambda first=first: _mark_is(database_url, first + 19), "the mark follows")  # type: ignore[misc]
    assert "stream_read_again" not in "".join(capfd.readouterr())
    assert await rows(database_url, "select * from stream_gaps") == []


async def test_a_mark_that_says_so_already_is_not_written_again(
    database_url: str, nats_url: str, nats_client: Nats
) -> None:
    async with serving(database_url=as_service(database_url), nats_url=nats_url):
        await publish(nats_client, *numbered(1, 3))
        await acknowledged(nats_client)
        await eventually(lambda: _mark_is(database_url, 3), "the mark follows")
    written = await rows(database_url, ROW)
    pool = await open_pool(as_service(database_url), 1)
    try:
        for _ in range(2):
            assert await StreamGaps(pool, nats_client).close_found() is None
    finally:
        await pool.close()
    # xmax: nor was it locked, which writes as much.
    assert await rows(database_url, ROW) == written


ROW = "select ctid::text, xmin::text, xmax::text, committed_through from stream_marks"


async def _mark_is(url: str, through: int) -> bool:
    return await rows(url, "select committed_through from stream_marks") == [(through,)]


@pytest.mark.faults
async def test_two_ledgers_that_start_at_once_read_it_once(
    database_url: str, nats_url: str, nats_client: Nats, put_back: PutBack
) -> None:
    then = await put_back.copy()
    async with serving(database_url=as_service(database_url), nats_url=nats_url):
        await publish(nats_client, *numbered(1, MANY))
        await acknowledged(nats_client)
    wanted = {"database_url": as_service(then), "nats_url": nats_url}
    async with serving(**wanted), serving(**wanted):
        assert await rows(then, "select first_sequence, last_sequence from stream_gaps") == [(1, MANY)]
        assert await rows(then, "select count(*) from usage_log") == [(MANY,)]


async def test_the_command_closes_it_without_a_ledger_and_names_what_is_missing(
    database_url: str, nats_url: str, nats_client: Nats, put_back: PutBack
) -> None:
    then = await put_back.copy()
    async with serving(database_url=as_service(database_url), nats_url=nats_url) as ledger:
        await publish(nats_client, *numbered(1, 3))
        await ledger.send(*numbered(4, 5))  # confirmed, and in no stream
        await publish(nats_client, *numbered(6, 6), requested(source="other", sourcesequence=1))
        await acknowledged(nats_client)
    done = close_gap(then, nats_url, "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["holes"] == [{"source": "journal", "missing": [[4, 5]], "last_sequence": 6}]
    [gap] = report["gaps"]
    assert gap["sources"] == {"journal": [[1, 3], [6, 6]], "other": [[1, 1]]}
    assert gap["log_ended_at"] is None
    assert report["seals"] is None

    again = close_gap(then, nats_url)
    assert again.returncode == 1
    for words in ("read messages 1 to 5", "5 came back, 0 were there", "1-3, 6", "REVOKED"):
        assert words in again.stdout + again.stderr
    assert [line.split() for line in again.stdout.splitlines() if "4-5" in line] == [
        ["│", "journal", "│", "4-5", "│", "6", "│"]
    ]

    # The journal has them after all, and sends them again.
    async with serving(database_url=as_service(then), nats_url=nats_url):
        await publish(nats_client, *numbered(4, 5))
        await acknowledged(nats_client)
    whole = close_gap(then, nats_url, "--json")
    assert (whole.returncode, json.loads(whole.stdout)["holes"]) == (0, [])


@pytest.mark.faults
async def test_a_log_of_an_earlier_version_is_trusted_and_read_again_where_one_says_so(
    database_url: str, nats_url: str, nats_client: Nats, put_back: PutBack
) -> None:
    await publish(nats_client, *numbered(1, 20))
    await asyncio.sleep(0.05)
    since = datetime.now(UTC)
    await asyncio.sleep(0.05)
    await publish(nats_client, *numbered(21, 30))
    then = await put_back.copy()
    async with serving(database_url=as_service(database_url), nats_url=nats_url):
        await acknowledged(nats_client)
    await execute(then, "insert into stream_marks values ('USAGE', '-infinity', -1, 'before there were marks')")
    assert json.loads(close_gap(then, nats_url, "--json").stdout)["gaps"] == []
    [gap] = json.loads(close_gap(then, nats_url, "--json", "--since", since.isoformat()).stdout)["gaps"]
    assert gap["sources"] == {"journal": [[21, 30]]}
    [gap, _] = json.loads(close_gap(then, nats_url, "--json", "--from", "1").stdout)["gaps"]
    assert gap["sources"] == {"journal": [[1, 20]]}
