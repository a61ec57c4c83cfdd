"""Months that are closed, and the gate that closings and whatever is booked pass, one kind at a time."""

from collections.abc import Collection
from datetime import date, datetime
from typing import TYPE_CHECKING, Final

from contracts.periods import PeriodClosing
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


async def hold_periods(connection: "Connection", account_id: str, months: Collection[date]) -> dict[date, date]:
    """Until the transaction ends no period closes. Answers in which month what is of each of these is booked now."""
    await connection.execute(SQL["hold"])
    rows = await connection.fetch(SQL["booked"], account_id, sorted(months))
    return {row["month"]: row["booked"] for row in rows}


async def lock_periods(connection: "Connection") -> datetime:
    """Waits until all that is being booked is committed; nothing more is booked until the transaction ends. Answers the
    database's time since then."""
    await connection.execute(SQL["lock"])
    now: datetime = await connection.fetchval(SQL["now"])
    return now


async def find_closing(connection: "Connection", account_id: str, month: date) -> PeriodClosing | None:
    """What closed the month for the account; of several the first."""
    row = await connection.fetchrow(SQL["closing"], account_id, month)
    return None if row is None else _closing(row)


async def list_closings(connection: "Connection", account_id: str | None, at_most: int) -> list[PeriodClosing]:
    """Closings of an account and those for all, or (None) of every account: by period."""
    return [_closing(row) for row in await connection.fetch(SQL["closings"], account_id, at_most)]


async def add_closing(connection: "Connection", closing: PeriodClosing, month: date) -> None:
    await connection.execute(
        SQL["add"], closing.account_id or "", month, closing.event_id, closing.author, closing.reason, closing.closed_at
    )


def _closing(row: "asyncpg.Record") -> PeriodClosing:
    return PeriodClosing(
        account_id=row["account_id"] or None,
        period=f"{row['period']:%Y-%m}",
        author=row["author"],
        reason=row["reason"],
        closed_at=row["closed_at"],
        event_id=row["event_id"],
    )
