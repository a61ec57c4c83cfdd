"""Reads of limit checks that were denied."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from ledger_service.domain.buckets import day_of
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class DenialFilter:
    """``start`` ≤ decided_at < ``end``; of several codes any will do. None selects all."""

    start: datetime
    end: datetime
    codes: Collection[str] | None = None
    limit_id: str | None = None
    user_id: str | None = None
    operation: str | None = None


async def list_denials(
    connection: "Connection",
    account_id: str | None,
    chosen: DenialFilter,
    after: tuple[datetime, str, UUID] | None,
    rows_max: int,
) -> "list[asyncpg.Record]":
    """A page of denials of an account, or (None) of all, newest first, after (decided_at, account_id, operation_id)."""
    asked = (
        chosen.start, chosen.end, chosen.codes, chosen.limit_id, chosen.user_id, chosen.operation,
        *(after or (None, None, None)), rows_max,
    )  # fmt: skip
    if account_id is None:
        return await connection.fetch(SQL["page"], *asked)
    return await connection.fetch(SQL["page_of_account"], *asked, account_id)


async def count_days(connection: "Connection", now: datetime | None = None) -> datetime | None:
    """Counts days (UTC) that ended an hour before ``now`` and are not counted yet, 7 of them at most. Answers before
    which day all are counted; None where none was left. Run again, or by several at once, it counts none twice."""
    until: datetime | None = await connection.fetchval(SQL["count_days"], now)
    return until


async def counted_until(connection: "Connection") -> datetime:
    """Before which day (UTC) all denials are counted."""
    until: datetime = await connection.fetchval(SQL["counted_until"])
    return until.astimezone(UTC)


async def count_denials(
    connection: "Connection",
    account_id: str | None,
    start: datetime,
    end: datetime,
    seconds: int,
    rows_max: int,
    counted: datetime | None = None,
) -> "list[asyncpg.Record]":
    """Denials of an account, or (None) of all, by interval of so many seconds from ``start`` (the beginning of an hour)
    on, code and limit. ``counted``: what counted_until() said, where days that are counted may be read."""
    asked = start, end, float(seconds), rows_max
    if account_id is not None:
        return await connection.fetch(SQL["counts_of_account"], *asked, account_id)
    if counted is None:
        return await connection.fetch(SQL["counts"], *asked)
    whole = max(start, min(counted, end.replace(minute=0, second=0, microsecond=0)))
    return await connection.fetch(SQL["counts_of_all"], *asked, whole)


async def count_by_account(
    connection: "Connection", start: datetime, end: datetime, at_most: int, counted: datetime | None = None
) -> "list[asyncpg.Record]":
    """The accounts with most denials. ``counted``: as above."""
    if counted is None:
        return await connection.fetch(SQL["accounts"], start, end, at_most)
    first = min(start if start == day_of(start) else day_of(start) + _DAY, end)
    last = max(first, min(counted, day_of(end)))
    return await connection.fetch(SQL["accounts_of_all"], start, end, at_most, first, last)
