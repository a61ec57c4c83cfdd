"""A ledger whose host is gone with a transaction open: PostgreSQL is told nothing, and must not wait for it."""

import asyncio
from urllib.parse import urlsplit

import asyncpg
import pytest

from ledger_service.store.pool import open_hot_pool
from tests.faults.child import through
from tests.faults.proxy import Network
from tests.servers import as_service

pytestmark = pytest.mark.faults

#: A hold's length is no time for an account to be locked.
LOCKED_SECONDS_MAX = 15.0


async def test_what_a_silent_ledger_has_locked_is_free_within_seconds(database_url: str) -> None:
    network = Network()
    looking = await asyncpg.connect(database_url)
    try:
        port = urlsplit(database_url).port
        assert port is not None
        wire = network.lay("ledger-postgres", port)
        await looking.execute("insert into accounts (account_id) values ('acme')")
        pool = await open_hot_pool(through(as_service(database_url), wire.port), 1, "tests")
        connection = await pool.acquire()
        await connection.execute("begin")
        await connection.execute("select from accounts where account_id = 'acme' for update")
        wire.behave(half_open=True)
        pool.terminate()
        async with asyncio.timeout(LOCKED_SECONDS_MAX):
            await looking.execute("select from accounts where account_id = 'acme' for update")
    finally:
        await looking.close()
        network.close()
