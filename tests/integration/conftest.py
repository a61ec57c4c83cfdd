"""Fixtures of refused requests' tests and of the image service's, beside those of tests/conftest.py.

| fixture         | lives as long as | is                                                                         |
| --------------- | ---------------- | -------------------------------------------------------------------------- |
| emulator_server | a module         | the provider emulators                                                     |
| shared_nats_url | a module         | NATS with a stream that was empty as the module began                      |
| shared_ledger   | a module         | a ledger for requests over HTTP, whatever was before them.                 |
|                 |                  | Its tests have ``@pytest.mark.asyncio(loop_scope="module")``               |
| refusing        | a module         | one for requests that it refuses; at the end there must be nothing of any  |
| shared_database | a module         | an open connection to that ledger's database                               |
| own_names       | a test           | an account and a plan of its own, where a test names none                  |
| lent_ledger     | a test           | the module's ledger, in which the test has these; a module whose tests     |
|                 |                  | need no ledger to themselves makes it its ``ledger``                       |
| emulators       | a test           | the same; what the test asked of them, and their book, is forgotten then   |
| quick_emulators | a test           | the same, quick                                                            |
| priced          | a test           | the module's ledger, which knows the shipped list prices                   |
| scripted_ledger | a test           | a ledger that answers by script; a module that wants no other makes it its |
|                 |                  | ``ledger``                                                                 |
| settings        | a test           | of an image service with the module's ``ledger``                           |
| client          | a test           | of such a service, which runs                                              |
"""

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import asyncpg
import httpx
import pytest
import pytest_asyncio

from image_service.config import Settings
from ledger_service.price_loading import follow_shipped
from tests.builders import ACCOUNT, PLAN, Names, limit, usual
from tests.emulators import Emulators, running_emulators
from tests.integration.image_harness import ScriptedLedger, image_service, make_settings, serving
from tests.servers import Databases, Ledger, as_service, renew_stream
from tests.servers import serving as serving_ledger

#: What requests may leave; none of it is written in the background.
LEFT_BY_REQUESTS: Final = (
    "event_log",
    "plans",
    "accounts",
    "dead_letters",
    "usage_log",
    "usage_summary",
    "counters",
    "decisions",
    "limit_overrides",
    "credit_grants",
    "prices",
    "webhooks",
)


@pytest.fixture(scope="module")
def emulator_server() -> Iterator[Emulators]:
    with running_emulators() as running:
        yield running


@pytest.fixture(scope="module")
def shared_database_url(databases: Databases) -> Iterator[str]:
    with databases.cloned() as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_nats_url(nats_server_url: str) -> str:
    """Other tests of the file take the stream away while the loop of its ledgers stands still; they find another one
    when it goes on."""
    await renew_stream(nats_server_url)
    return nats_server_url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_ledger(shared_database_url: str, shared_nats_url: str) -> AsyncIterator[Ledger]:
    """One for all tests of a file that can do with it, as to start one takes longer than most of them."""
    async with serving_ledger(database_url=as_service(shared_database_url), nats_url=shared_nats_url) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def refusing(databases: Databases, shared_nats_url: str) -> AsyncIterator[Ledger]:
    with databases.cloned() as url:
        async with serving_ledger(database_url=as_service(url), nats_url=shared_nats_url) as running:
            yield running
        await _nothing_is_left(url)


async def _nothing_is_left(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        left = {table: await connection.fetchval(f"select count(*) from {table}") for table in LEFT_BY_REQUESTS}
    finally:
        await connection.close()
    assert left == dict.fromkeys(LEFT_BY_REQUESTS, 0), "a request that was refused left something behind"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_database(shared_database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(shared_database_url)
    yield connection
    await connection.close()


@pytest.fixture
def own_names(monkeypatch: pytest.MonkeyPatch) -> Names:
    mark = secrets.token_hex(4)
    monkeypatch.setattr(usual, "account_id", f"{ACCOUNT}-{mark}")
    monkeypatch.setattr(usual, "plan_id", f"{PLAN}-{mark}")
    return usual


@pytest.fixture
def lent_ledger(shared_ledger: Ledger, own_names: Names) -> Ledger:
    return shared_ledger


@pytest.fixture
def emulators(emulator_server: Emulators) -> Iterator[Emulators]:
    yield emulator_server
    emulator_server.forget()


@pytest.fixture
async def scripted_ledger() -> AsyncIterator[ScriptedLedger]:
    scripted = ScriptedLedger()
    async with serving(scripted.app()) as url:
        scripted.url = url
        yield scripted


@pytest.fixture
def settings(ledger: Ledger | ScriptedLedger, tmp_path: Path) -> Settings:
    return make_settings(tmp_path, ledger.url)


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with image_service(settings) as running:
        yield running


@pytest.fixture
def quick_emulators(emulators: Emulators) -> Emulators:
    emulators.pace(queue=0.01, run=0.05)
    return emulators


@pytest.fixture
async def priced(ledger: Ledger, database_url: str) -> Ledger:
    """A ledger that knows the shipped list prices, and has room for all."""
    connection = await asyncpg.connect(database_url)
    await follow_shipped(connection)
    await connection.close()
    await ledger.set_up(limit("money", meter="cost", maximum="100"), limit("calls", maximum=1000))
    return ledger
