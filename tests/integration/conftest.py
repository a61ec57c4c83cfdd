"""Fixtures of the image service's tests, beside those of tests/conftest.py.

| fixture         | lives as long as | is                                                                         |
| --------------- | ---------------- | -------------------------------------------------------------------------- |
| emulator_server | a module         | the provider emulators                                                     |
| emulators       | a test           | the same; what the test asked of them, and their book, is forgotten then   |
| quick_emulators | a test           | the same, quick                                                            |
| priced          | a test           | the module's ledger, which knows the shipped list prices                   |
| scripted_ledger | a test           | a ledger that answers by script; a module that wants no other makes it its |
|                 |                  | ``ledger``                                                                 |
| settings        | a test           | of an image service with the module's ``ledger``                           |
| client          | a test           | of such a service, which runs                                              |
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from image_service.config import Settings
from ledger_service.price_loading import follow_shipped
from tests.builders import limit
from tests.emulators import Emulators, running_emulators
from tests.integration.image_harness import ScriptedLedger, image_service, make_settings, serving
from tests.servers import Ledger


@pytest.fixture(scope="module")
def emulator_server() -> Iterator[Emulators]:
    with running_emulators() as running:
        yield running


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
