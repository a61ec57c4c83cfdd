"""The end of the log, in the order of its commits."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


class Place(NamedTuple):
    """Where in the log: everything before it is committed, and shown before it."""

    transaction_id: int
    position: int

    def __str__(self) -> str:
        return f"{self.transaction_id}-{self.position}"


BEGINNING: Final = Place(0, 0)


def place_of(row: "asyncpg.Record") -> Place:
    return Place(int(row["transaction_id"]), row["position"])


async def newest_place(connection: "Connection") -> Place:
    """The last row with none before it to come; BEGINNING where there is none."""
    row = await connection.fetchrow(SQL["newest"])
    return BEGINNING if row is None else place_of(row)


async def read_after(
    connection: "Connection", after: Place, types: Sequence[str], rows_max: int, until: Place | None = None
) -> "list[asyncpg.Record]":
    """The next rows of all types, oldest first; ``body`` is None where the type is not one of these."""
    last = (None, None) if until is None else (str(until.transaction_id), until.position)
    return await connection.fetch(SQL["after"], str(after.transaction_id), after.position, rows_max, list(types), *last)


async def read_recent(
    connection: "Connection", types: Sequence[str], rows_max: int, account_id: str | None
) -> "list[asyncpg.Record]":
    """Of the log's newest ``rows_max`` rows (or an account's) those of these types, newest first."""
    if account_id is None:
        return await connection.fetch(SQL["recent"], rows_max, list(types))
    return await connection.fetch(SQL["recent_of_account"], rows_max, list(types), account_id)
