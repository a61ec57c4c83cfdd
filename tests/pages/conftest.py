"""Fixtures of the pages' tests: one Chromium and one Playwright for all of a worker's, a ledger for each file.

| fixture            | lives as long as | is                                                                        |
| ------------------ | ---------------- | ------------------------------------------------------------------------- |
| browser            | pytest's worker  | Chromium, in which each visitor has a context of their own                |
| nats_url           | a file           | NATS with an empty stream                                                 |
| database_url       | a file           | the database of ``ledger``, also of ``database`` and ``writing_pool``     |
| ledger             | a file           | runs for tests that leave each other alone: by other accounts, by reading |
| fresh_database_url | a test           | a database of the test's own                                              |
| start_ledger       | a test           | starts one on that; keywords are its settings                             |
| fresh              | a test           | an empty one, to be filled and broken                                     |
| visitor            | a test           | somebody signed in at ``fresh``                                           |
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from playwright.async_api import Browser

from ledger_service.store.pool import Pool, open_hot_pool
from tests.browser import Visitor, chromium, connected, visiting
from tests.conftest import StartLedger
from tests.servers import Databases, Ledger, as_service, renew_stream, run_apart, serving


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One loop for all of them: what a file's tests share lives in it."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session")
def chromium_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with chromium(tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium_address: str) -> AsyncIterator[Browser]:
    async with connected(chromium_address) as found:
        yield found


@pytest.fixture(scope="module")
def nats_url(nats_server_url: str) -> str:
    run_apart(renew_stream(nats_server_url))
    return nats_server_url


@pytest.fixture(scope="module")
def database_url(databases: Databases) -> Iterator[str]:
    with databases.cloned() as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ledger(database_url: str, nats_url: str) -> AsyncIterator[Ledger]:
    async with serving(database_url=as_service(database_url), nats_url=nats_url) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def database(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture(loop_scope="session")
async def writing_pool(database_url: str) -> AsyncIterator[Pool]:
    pool = await open_hot_pool(as_service(database_url), 2, "tests")
    yield pool
    await pool.close()


@pytest.fixture
def fresh_database_url(databases: Databases) -> Iterator[str]:
    with databases.cloned() as url:
        yield url


@pytest_asyncio.fixture(loop_scope="session")
async def start_ledger(fresh_database_url: str, nats_url: str) -> AsyncIterator[StartLedger]:
    async with AsyncExitStack() as stack:

        async def start(**changes: object) -> Ledger:
            wanted = {"database_url": as_service(fresh_database_url), "nats_url": nats_url, **changes}
            return await stack.enter_async_context(serving(**wanted))

        yield start


@pytest_asyncio.fixture(loop_scope="session")
async def fresh(start_ledger: StartLedger) -> Ledger:
    return await start_ledger()


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(browser: Browser, fresh: Ledger) -> AsyncIterator[Visitor]:
    """Somebody who signed in with a token for everything."""
    async with visiting(browser, fresh.url) as person:
        await person.sign_in()
        yield person
        assert person.errors == []
        assert person.elsewhere == []
