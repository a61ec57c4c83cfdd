"""Reads of how limits stand: of one account's callers and holds, and of all accounts."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from ledger_service.domain.counters import Balance
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


class CallerCounters(NamedTuple):
    """The counters of one limit on each user, project or key, in its present period."""

    scope: str
    period_end: datetime
    period_start: datetime
    counter_id: str


class PlannedCounters(NamedTuple):
    """The counters of one limit of a plan on accounts with one calendar; ``maximum`` is at least 1."""

    plan_id: str
    time_zone: str
    billing_anchor: date
    period_end: datetime
    period_start: datetime
    counter_id: str
    maximum: int


async def list_callers(
    connection: "Connection", account_id: str, wanted: Sequence[CallerCounters], at_most: int
) -> list[tuple[int, str, Balance]]:
    """Index into ``wanted``, scope key and balance of those who used most, at most so many of each."""
    if not wanted:
        return []
    rows = await connection.fetch(SQL["callers"], account_id, *zip(*wanted, strict=True), at_most)
    return [(row["ordinal"] - 1, row["scope_key"], Balance(row["settled"], row["held"])) for row in rows]


async def recent_usage(connection: "Connection", account_id: str, since: datetime) -> "list[asyncpg.Record]":
    """What the account used since a full hour, by operation, provider and model."""
    return await connection.fetch(SQL["recent"], account_id, since)


async def list_holds(
    connection: "Connection", account_id: str, after: tuple[datetime, UUID] | None, rows_max: int
) -> "list[asyncpg.Record]":
    """Open holds, oldest first, after the given (decided_at, operation_id)."""
    return await connection.fetch(SQL["holds"], account_id, *(after or (None, None)), rows_max)


async def terms_in_use(connection: "Connection", default_plan_id: str | None) -> "list[asyncpg.Record]":
    """Plans with calendars of the accounts that have no overrides or credit of their own."""
    return await connection.fetch(SQL["terms_in_use"], default_plan_id)


async def accounts_with_additions(connection: "Connection", after: str, at_most: int) -> list[str]:
    """Accounts that have overrides or credit, or had some, in their order."""
    return [row["account_id"] for row in await connection.fetch(SQL["with_additions"], after, at_most)]


async def nearest_of_plans(
    connection: "Connection", wanted: Sequence[PlannedCounters], default_plan_id: str | None, at_most: int
) -> list[tuple[str, int, Balance]]:
    """Account, index into ``wanted`` and balance, the fullest first; of counters that exist and are not empty."""
    if not wanted:
        return []
    rows = await connection.fetch(SQL["nearest"], *zip(*wanted, strict=True), default_plan_id, at_most)
    return [(row["account_id"], row["ordinal"] - 1, Balance(row["settled"], row["held"])) for row in rows]
