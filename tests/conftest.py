"""Fixtures on real servers, each documented where it stands.

| fixture            | lives as long as | is                                                                       |
| ------------------ | ---------------- | ------------------------------------------------------------------------ |
| databases          | pytest's worker  | makes databases on the worker's PostgreSQL                               |
| nats_server_url    | pytest's worker  | the worker's NATS, whatever streams it has                               |
| database_url       | a test           | a migrated database of the test's own                                    |
| empty_database_url | a test           | one without a schema                                                     |
| nats_url           | a test           | NATS with an empty stream and a fresh ingest consumer                    |
| bare_nats_url      | a test           | NATS without the stream                                                  |
| database           | a test           | an open connection to ``database_url``, to look into the tables          |
| writing_pool       | a test           | the pool that ingest and limit checks use                                |
| nats_client        | a test           | a connection to ``nats_url``                                             |
| start_ledger       | a test           | starts the ledger in this process; keywords are its settings             |
| ledger             | a test           | one that runs, with its client: ``await ledger.http.get("/readyz")``     |
| ledger_process     | a test           | starts ``python -m ledger_service`` in a process, to be killed               |
| own_postgres       | a test           | a PostgreSQL that the test may stop and kill; from the wheels            |
| own_nats           | a test           | the same of NATS                                                         |
"""

import gc
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import TypeAlias

import asyncpg
import nats
import pytest
import structlog
from hypothesis import HealthCheck, settings
from nats.aio.client import Client

from deploy.local.errors import MissingServerError
from deploy.local.ports import free_port
from deploy.local.servers import NatsServer, PostgresServer
from ledger_service.store.pool import Pool, open_hot_pool
from tests.introspection import remember_types
from tests.quick_clients import remember_authorities
from tests.reserved_names import answer_for_reserved_names
from tests.servers import (
    Databases,
    Ledger,
    LedgerProcess,
    Source,
    as_service,
    choose_source,
    nats_server,
    postgres_server,
    remove_stream,
    renew_stream,
    run_apart,
    serving,
)

# What is imported and collected stays: see pytest_collection_finish().
gc.disable()
remember_types()
remember_authorities()
answer_for_reserved_names()
# Not on standard output, which is a command's while one runs in this process beside a ledger (tests/commands.py).
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))

#: Derandomised, so that a failure in somebody's change is of that change. HYPOTHESIS_PROFILE=long searches on, for
#: HYPOTHESIS_EXAMPLES histories of 60 steps, and prints how to repeat what it found.
settings.register_profile(
    "default",
    derandomize=True,
    deadline=None,
    max_examples=25,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile(
    "long",
    settings.get_profile("default"),
    derandomize=False,
    print_blob=True,
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "300")),
    stateful_step_count=60,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

StartLedger: TypeAlias = Callable[..., Awaitable[Ledger]]


def pytest_collection_finish() -> None:
    """Half a million objects of modules and tests stay to the end: no collection of what is new need look at them."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def server_source() -> Source:
    """Where the servers come from; see tests.servers."""
    return choose_source()


@pytest.fixture(scope="session")
def databases(server_source: Source, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    with postgres_server(server_source, tmp_path_factory.mktemp("postgres")) as admin_url:
        made = Databases(admin_url)
        yield made
        made.close()


@pytest.fixture(scope="session")
def nats_server_url(server_source: Source, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nats_server(server_source, tmp_path_factory.mktemp("nats")) as url:
        yield url
        run_apart(remove_stream(url))


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    with databases.cloned() as url:
        yield url


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    url = databases.empty()
    yield url
    databases.drop(url)


@pytest.fixture
def nats_url(nats_server_url: str) -> str:
    run_apart(renew_stream(nats_server_url))
    return nats_server_url


@pytest.fixture
def bare_nats_url(nats_server_url: str) -> str:
    run_apart(remove_stream(nats_server_url))
    return nats_server_url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def writing_pool(database_url: str) -> AsyncIterator[Pool]:
    pool = await open_hot_pool(as_service(database_url), 2, "tests")
    yield pool
    await pool.close()


@pytest.fixture
async def nats_client(nats_url: str) -> AsyncIterator[Client]:
    client = await nats.connect(nats_url)
    yield client
    await client.close()


@pytest.fixture
async def start_ledger(database_url: str, nats_url: str) -> AsyncIterator[StartLedger]:
    """The real application behind a real uvicorn on a free port, in this process. Keywords are its settings."""
    async with AsyncExitStack() as stack:

        async def start(**changes: object) -> Ledger:
            wanted = {"database_url": as_service(database_url), "nats_url": nats_url, **changes}
            return await stack.enter_async_context(serving(**wanted))

        yield start


@pytest.fixture
async def ledger(start_ledger: StartLedger) -> Ledger:
    return await start_ledger()


@pytest.fixture
def ledger_process(database_url: str, nats_url: str, tmp_path: Path) -> Iterator[Callable[..., LedgerProcess]]:
    """``process = ledger_process()`` starts one that answers /readyz; keywords are its settings. Stopped at the end."""
    with ExitStack() as stack:

        def start(**changes: object) -> LedgerProcess:
            port = free_port()
            wanted = {"database_url": as_service(database_url), "nats_url": nats_url, **changes}
            process = LedgerProcess(port, tmp_path / f"ledger-{port}.log", wanted)
            stack.callback(process.stop)
            process.start()
            return process

        yield start


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    """Durable as in production: what it has acknowledged must be there after a kill."""
    server = PostgresServer(tmp_path / "own-postgres", settings={"shared_buffers": "32MB"})
    try:
        server.start()
        yield server
    except MissingServerError as error:
        pytest.skip(str(error))
    finally:
        server.stop()


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "own-nats", sync_interval="always")
    try:
        server.start()
        yield server
    except MissingServerError as error:
        pytest.skip(str(error))
    finally:
        server.stop()
