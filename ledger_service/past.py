"""A connection to the past: what is read through it is what the ledger knew at a moment."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from ledger_service.projections.past import is_timeless, of_the_past

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection


class PastConnection:
    """Reads as a connection does, what was recorded until ``as_of``; see projections.past. Anything else that a
    connection can do is not there: nothing about the past can be changed.

    The transaction around it is whose connection it is. Raises NoPastError where a table has no past.
    """

    def __init__(self, connection: "Connection", as_of: datetime) -> None:
        self._connection = connection
        self._as_of = as_of

    async def fetch(self, query: str, *arguments: object) -> "list[asyncpg.Record]":
        return await self._connection.fetch(of_the_past(query), *self._with_moment(query, arguments))

    async def fetchrow(self, query: str, *arguments: object) -> "asyncpg.Record | None":
        return await self._connection.fetchrow(of_the_past(query), *self._with_moment(query, arguments))

    async def fetchval(self, query: str, *arguments: object) -> Any:  # as asyncpg has it
        return await self._connection.fetchval(of_the_past(query), *self._with_moment(query, arguments))

    def cursor(self, query: str, *arguments: object, prefetch: int | None = None) -> "AsyncIterator[asyncpg.Record]":
        """Rows one by one, ``async for``; inside a transaction, as of asyncpg."""
        rows = self._connection.cursor(of_the_past(query), *self._with_moment(query, arguments), prefetch=prefetch)
        return aiter(rows)

    def _with_moment(self, query: str, arguments: tuple[object, ...]) -> tuple[object, ...]:
        return arguments if is_timeless(query) else (*arguments, self._as_of)


def connection_at(connection: "Connection", as_of: datetime | None) -> "Connection":
    """The connection itself, or one to the past."""
    if as_of is None:
        return connection
    # What reads through it needs no more than it has: mypy cannot know that, as asyncpg's class is no protocol.
    return cast("Connection", PastConnection(connection, as_of))
