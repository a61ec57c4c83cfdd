"""Fixtures of the image service's tests, beside those of tests/conftest.py.

| fixture         | lives as long as | is                                                                         |
| --------------- | ---------------- | -------------------------------------------------------------------------- |
| emulator_server | a module         | the provider emulators                                                     |
| emulators       | a test           | the same; what the test asked of them, and their book, is forgotten then   |
| scripted_ledger | a test           | a ledger that answers by script; a module that wants no other makes it its |
|                 |                  | ``ledger``                                                                 |
| settings        | a test           | of an image service with the module's ``ledger``                           |
| client          | a test           | of such a service, which runs                                              |
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from image_service.config import Settings
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
