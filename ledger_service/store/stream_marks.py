"""How far the stream is certainly in this database, and what was read again where it was not."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)

_LOCK: Final = 7_205_759_403_792_796  # any number that nobody else uses in this database
#: For whoever waits for another process that reads the stream again.
_LOCK_SECONDS_MAX: Final = 86_400.0


class Mark(NamedTuple):
    """Every message up to ``committed_through`` is in the database, or was when it was written. -1: all of them were,
    before there were marks."""

    committed_through: int
    is_same_consumer: bool
    is_same_database: bool


class ClosedGap(NamedTuple):
    first_sequence: int
    last_sequence: int
    log_ended_at: datetime | None
    closed_at: datetime
    #: JSON
    report: str


class Holes(NamedTuple):
    """Sequence numbers of a source that are not here, as inclusive ranges below ``last_sequence``."""

    source: str
    missing: list[tuple[int, int]]
    last_sequence: int


async def is_noted(connection: "Connection", stream: str, consumer_created_at: datetime, through: int) -> bool:
    """Whether the mark says just that of this incarnation. Takes no lock, as that would write as well."""
    found: bool = await connection.fetchval(SQL["is_noted"], stream, consumer_created_at, through)
    return found


async def find(connection: "Connection", stream: str, consumer_created_at: datetime) -> Mark:
    """The mark, locked until the transaction ends; a new one where there is none."""
    row = await connection.fetchrow(SQL["find"], stream, consumer_created_at)
    if row is None:
        await connection.execute(SQL["begin"], stream, consumer_created_at)
        return Mark(0, is_same_consumer=True, is_same_database=False)
    return Mark(*row)


async def note(connection: "Connection", stream: str, consumer_created_at: datetime, through: int) -> None:
    """``through`` was acknowledged before this transaction began."""
    await connection.execute(SQL["note"], stream, consumer_created_at, through)


async def lock(connection: "Connection") -> None:
    """Waits until nobody else reads again; held until `unlock`, or the connection's end."""
    await connection.execute(SQL["lock"], _LOCK, timeout=_LOCK_SECONDS_MAX)


async def unlock(connection: "Connection") -> None:
    await connection.execute(SQL["unlock"], _LOCK)


async def log_end(connection: "Connection") -> datetime | None:
    """When the newest row of the log was recorded."""
    found: datetime | None = await connection.fetchval(SQL["log_end"])
    return found


async def without_decision(connection: "Connection", operations: Sequence[tuple[str, UUID]]) -> dict[str, int]:
    """How many of these (account, operation) have no decision, by account."""
    accounts, ids = [account for account, _ in operations], [operation_id for _, operation_id in operations]
    return {
        row["account_id"]: row["outcomes"] for row in await connection.fetch(SQL["without_decision"], accounts, ids)
    }


async def holes(connection: "Connection") -> list[Holes]:
    """What every producer with a journal has numbered and the database never saw, as far as later numbers show it."""
    return [
        Holes(row["source"], [(part.lower, part.upper - 1) for part in row["missing"]], row["last_sequence"])
        for row in await connection.fetch(SQL["holes"])
    ]


async def add_gap(
    connection: "Connection", stream: str, first: int, last: int, log_ended_at: datetime | None, report: str
) -> None:
    await connection.execute(SQL["add_gap"], stream, first, last, log_ended_at, report)


async def gaps(connection: "Connection", stream: str, at_most: int) -> list[ClosedGap]:
    """Newest first."""
    return [ClosedGap(*row) for row in await connection.fetch(SQL["gaps"], stream, at_most)]
