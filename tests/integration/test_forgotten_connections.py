"""The network forgets all connections of a pool: one statement is lost to find that out, and not one for each."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest

from ledger_service.store import analytics, connections
from ledger_service.store import pool as pools
from ledger_service.store.analytics import open_analytics_pool
from ledger_service.store.pool import Pool, open_hot_pool, open_pool
from tests.faults.proxy import Network, Wire

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


async def use_all(pool: Pool) -> None:
    together = asyncio.Barrier(CONNECTIONS)

    async def use() -> None:
        async with pool.acquire() as connection:
            await together.wait()
            await connection.execute("select 1")

    await asyncio.gather(*(use() for _ in range(CONNECTIONS)))


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
