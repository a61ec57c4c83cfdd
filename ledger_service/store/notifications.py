"""What is told, in the order in which it was committed, and how far each follower has taken it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from contracts.notifications.kind import Feed
from ledger_service.domain.notifications import Fact, Place
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)
#: Before every fact.
BEGINNING: Final = Place(0, 0)


class Cursor(NamedTuple):
    """How far a follower is in a feed, and ``horizon``: as long as it stands there, no more facts can be read."""

    place: Place
    horizon: int


async def read_cursors(connection: "Connection", follower: str) -> dict[Feed, Cursor]:
    """How far the follower is."""
    rows = await connection.fetch(SQL["cursors"], follower)
    return {Feed(row["feed"]): Cursor(_place(row), int(row["horizon"])) for row in rows}


async def lock_cursor(connection: "Connection", follower: str, feed: Feed, at: Place) -> bool:
    """Whether it still is there, until the transaction ends: else another process has gone on."""
    return bool(await connection.fetchval(SQL["lock"], follower, feed.value, str(at.transaction_id), at.position))


async def take_cursor(connection: "Connection", follower: str, feed: Feed) -> Place:
    """Where it is, and nobody else goes on from there until the transaction ends."""
    row = await connection.fetchrow(SQL["take"], follower, feed.value)
    assert row is not None, "each follower has a cursor in each feed"
    return _place(row)


async def move_cursor(connection: "Connection", follower: str, feed: Feed, to: Place) -> None:
    """The follower has taken what is up to there."""
    await connection.execute(SQL["move"], follower, feed.value, str(to.transaction_id), to.position)


async def read_facts(connection: "Connection", feed: Feed, after: Place, facts_max: int) -> list[Fact]:
    """The next facts of a feed, as far as nothing can come before them any more."""
    rows = await connection.fetch(SQL[feed.value], str(after.transaction_id), after.position, facts_max)
    return [_fact(feed, row) for row in rows]


def _place(row: "asyncpg.Record") -> Place:
    return Place(int(row["transaction_id"]), row["position"])


def _fact(feed: Feed, row: "asyncpg.Record") -> Fact:
    body: Mapping[str, object] = orjson.loads(row["body"])
    data = body.get("data")
    return Fact(
        feed=feed,
        place=_place(row),
        event=row["event"],
        name=row["name"],
        account_id=row["account_id"],
        occurred_at=row["occurred_at"],
        recorded_at=row["recorded_at"],
        data=data if isinstance(data, dict) else {},
    )
