"""Reads of limit checks that were denied."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


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


async def count_denials(
    connection: "Connection", account_id: str | None, start: datetime, end: datetime, seconds: int, rows_max: int
) -> "list[asyncpg.Record]":
    """Denials of an account, or (None) of all, by interval of so many seconds from ``start`` on, code and limit."""
    asked = start, end, float(seconds), rows_max
    if account_id is None:
        return await connection.fetch(SQL["counts"], *asked)
    return await connection.fetch(SQL["counts_of_account"], *asked, account_id)


async def count_by_account(
    connection: "Connection", start: datetime, end: datetime, at_most: int
) -> "list[asyncpg.Record]":
    """The accounts with most denials."""
    return await connection.fetch(SQL["accounts"], start, end, at_most)
