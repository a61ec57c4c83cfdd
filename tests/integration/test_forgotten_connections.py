"""The network forgets all connections of a pool: one statement is lost to find that out, and not one for each.

Or the database hangs: whoever asks how it is has an answer in time.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import cast
from urllib.parse import urlsplit

import asyncpg
import orjson
import pytest

from ledger_service.api import health
from ledger_service.metrics import Metrics
from ledger_service.services import Services
from ledger_service.store import analytics, connections
from ledger_service.store import pool as pools
from ledger_service.store.analytics import open_analytics_pool
from ledger_service.store.pool import Pool, open_hot_pool, open_pool
from tests.faults.proxy import Network, Wire
from tests.servers import eventually

CONNECTIONS = 4


@pytest.fixture
def wire(database_url: str) -> Iterator[Wire]:
    network = Network()
    yield network.lay("postgres", urlsplit(database_url).port or 5432)
    network.close()


@pytest.fixture(params=["reads", "hot", "analytics"])
async def pool(
    request: pytest.FixtureRequest, wire: Wire, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Pool]:
    monkeypatch.setattr(pools, "COMMAND_TIMEOUT_SECONDS", 1)
    url = database_url.replace(f":{urlsplit(database_url).port}/", f":{wire.port}/")
    monkeypatch.setattr(connections, "ANALYTICS", CONNECTIONS)
    monkeypatch.setattr(analytics, "ANSWER_MARGIN_SECONDS", 0.5)
    opened = await {
        "reads": lambda: open_pool(url, CONNECTIONS),
        "hot": lambda: open_hot_pool(url, CONNECTIONS, "x", 1),
        "analytics": lambda: open_analytics_pool(url, 0.5),
    }[request.param]()
    yield opened
    await asyncio.wait_for(opened.close(), 30)


async def use_all(pool: Pool) -> set[int]:
    """The processes of PostgreSQL behind them."""
    together = asyncio.Barrier(CONNECTIONS)

    async def use() -> int:
        async with pool.acquire() as connection:
            await together.wait()
            return int(await connection.fetchval("select pg_backend_pid()"))

    return set(await asyncio.gather(*(use() for _ in range(CONNECTIONS))))


@pytest.mark.parametrize("in_transaction", [True, False])
async def test_after_one_timeout_all_answer(pool: Pool, wire: Wire, in_transaction: bool) -> None:
    async def ask() -> int:
        async with pool.acquire() as connection:
            if not in_transaction:
                return int(await connection.fetchval("select 7"))
            async with connection.transaction():
                return int(await connection.fetchval("select 7"))

    await use_all(pool)
    wire.behave(half_open=True)
    await asyncio.sleep(0.2)
    wire.behave()
    with pytest.raises(TimeoutError):
        await ask()
    assert await asyncio.gather(*(ask() for _ in range(CONNECTIONS))) == [7] * CONNECTIONS


async def test_a_timeout_within_a_transaction_is_told_as_one_and_the_others_are_replaced(
    pool: Pool, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    before = await use_all(pool)
    async with database.transaction():
        await database.execute("lock table accounts in access exclusive mode")
        with pytest.raises(TimeoutError):
            async with pool.acquire() as connection, connection.transaction():
                await connection.fetchval("select count(*) from accounts")
    assert not before & await use_all(pool)


#: Of a probe that gives up after two, with room for a slow machine.
PROBE_SECONDS_MAX = 6.0
#: Prometheus waits no longer, unless told to.
SCRAPE_SECONDS_MAX = 10.0


@pytest.fixture
async def reads(wire: Wire, database_url: str) -> AsyncIterator[Pool]:
    opened = await open_pool(database_url.replace(f":{urlsplit(database_url).port}/", f":{wire.port}/"), CONNECTIONS)
    yield opened
    wire.behave()
    opened.terminate()


async def test_a_ledger_says_in_time_that_its_database_hangs(reads: Pool, wire: Wire) -> None:
    wired = cast("Services", SimpleNamespace(reads=reads, nats=SimpleNamespace(is_connected=True)))
    await use_all(reads)
    wire.behave(stalled=True)
    for _ in range(CONNECTIONS + 1):
        began = time.monotonic()
        async with asyncio.timeout(PROBE_SECONDS_MAX):
            answer = await health.readyz(wired)
        assert (answer.status_code, orjson.loads(answer.body)["database"]) == (503, "down")
        assert time.monotonic() - began >= 1.0
    wire.behave()

    async def is_ready() -> bool:
        return (await health.readyz(wired)).status_code == 200

    await eventually(is_ready, "the ledger is ready again", 30)


async def test_a_ledger_is_scraped_in_time_while_its_database_hangs(reads: Pool, wire: Wire) -> None:
    metrics = Metrics(reads)
    assert b"ledger_dead_letters_open 0" in await metrics.exposition()
    await use_all(reads)
    metrics = Metrics(reads)
    wire.behave(stalled=True)
    async with asyncio.timeout(SCRAPE_SECONDS_MAX):
        told = await metrics.exposition()
    assert b"ledger_build_info" in told
    assert b"ledger_dead_letters_open 0" not in told
