"""Followers of what is told: they miss nothing, and look for nothing where nothing can have come."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import asyncpg

from contracts.identifiers import uuid7
from contracts.notifications.kind import Feed
from ledger_service.store.event_log import append_one
from ledger_service.store.notifications import SQL
from ledger_service.webhook_follow import FOLLOWER, Follower
from tests.builders import ACCOUNT
from tests.servers import eventually

if TYPE_CHECKING:
    from asyncpg.connection import LoggedQuery

    Database = asyncpg.Connection[asyncpg.Record]
else:
    Database = asyncpg.Connection

#: Of no use to anybody, so it is passed by in memory.
FACT: Final = "ledger.account.changed.v1"


async def append(database: Database) -> None:
    await append_one(database, ACCOUNT, uuid7(), FACT, None, datetime.now(UTC), b'{"data": {}}')


async def take(follower: Follower, database: Database) -> int:
    """How many facts the follower finds in the log, and passes by."""
    portion = (await follower.read(database)).get(Feed.LOG)
    if portion is None:
        return 0
    assert not follower.pass_by(Feed.LOG, portion)
    return len(portion.facts)


async def takes(follower: Follower, database: Database, count: int) -> None:
    """Other databases of the server may have transactions, too, that something may come before."""

    async def does() -> bool:
        found = await take(follower, database)
        assert found in (0, count)
        return found == count

    await eventually(does, f"{count} facts are found")


async def test_while_no_transaction_ends_nothing_is_looked_for(database: Database) -> None:
    follower = Follower(FOLLOWER)
    await append(database)
    await takes(follower, database, 1)
    said: list[str] = []

    def hear(query: "LoggedQuery") -> None:
        said.append(query.query)

    async def asks_how_far_it_is_alone() -> bool:
        said.clear()
        assert await take(follower, database) == 0
        return said == [SQL["cursors"]]

    with database.query_logger(hear):
        await eventually(asks_how_far_it_is_alone, "a look where nothing can have come")
    await append(database)
    await takes(follower, database, 1)


async def test_what_is_committed_late_is_found_though_it_was_looked_for_before(
    database: Database, database_url: str
) -> None:
    follower = Follower(FOLLOWER)
    other = await asyncpg.connect(database_url)
    try:
        async with other.transaction():
            await append(other)  # the first, and open for longer
            await append(database)
            for _ in range(3):
                assert await take(follower, database) == 0
        await takes(follower, database, 2)
    finally:
        await other.close()
