"""Connections are of one history of the database, or the process ends; with a real standby: tests/faults."""

import asyncpg
import pytest
from structlog.testing import capture_logs

from ledger_service.store.pool import Pool, open_hot_pool
from ledger_service.store.timeline import Timeline
from tests.servers import as_service


async def pool_of(database_url: str, timeline: Timeline) -> Pool:
    return await open_hot_pool(as_service(database_url), 1, "tests", timeline=timeline)


async def test_another_database_ends_the_process_and_none_of_its_connections_is_used(
    database_url: str, empty_database_url: str
) -> None:
    told: list[str] = []
    timeline = Timeline(lambda: told.append("ended"))
    for _ in range(2):
        pool = await pool_of(database_url, timeline)
        async with pool.acquire() as connection:
            assert await connection.fetchval("select 1") == 1
        await pool.close()
    assert told == []
    for times in (1, 2):
        with pytest.raises(ConnectionError, match="has to start anew"):
            await open_hot_pool(empty_database_url, 1, "tests", takes_events=False, timeline=timeline)
        assert told == ["ended"] * times


async def test_a_server_that_does_not_tell_is_used_and_that_is_said_once(
    database_url: str, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await database.execute("revoke execute on function pg_control_system() from public")
    timeline = Timeline(lambda: pytest.fail("it does not know another one"))
    with capture_logs() as logs:
        for _ in range(2):
            pool = await pool_of(database_url, timeline)
            async with pool.acquire() as connection:
                assert await connection.fetchval("select 1") == 1
            await pool.close()
    assert [one["event"] for one in logs] == ["timeline_is_unknown"]
