"""Figures about the whole database, for whoever watches it."""

from typing import TYPE_CHECKING, Final, NamedTuple

from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)

#: What is counted at most; at that, it is many.
COUNTED_MAX: Final = 100_000


class Standing(NamedTuple):
    """``horizon``: every transaction before it has ended; ``next_transaction``: none from it on has begun."""

    horizon: int
    next_transaction: int
    holds_open: int
    holds_overdue_seconds: float
    missing_events: int


class Unsealed(NamedTuple):
    """Rows of the log that no seal covers, and for how long the oldest of them has waited."""

    events: int
    seconds: float


async def read_standing(connection: "Connection") -> Standing:
    [row] = await connection.fetch(SQL["standing"], COUNTED_MAX)
    return Standing(
        int(row["horizon"]),
        int(row["next_transaction"]),
        row["holds_open"],
        row["holds_overdue_seconds"],
        row["missing_events"],
    )


async def read_unsealed(connection: "Connection", origin: str) -> Unsealed:
    """Of the chain of seals with this origin."""
    [row] = await connection.fetch(SQL["unsealed"], origin, COUNTED_MAX)
    return Unsealed(row["events"], row["seconds"])
