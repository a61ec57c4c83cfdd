"""Reads of the usage log and the usage summary."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

from ledger_service.domain.usage import SummaryCell
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


@dataclass(frozen=True, slots=True)
class UsageLogFilter:
    """Half-open in time: ``start`` ≤ occurred_at < ``end``, and ``counted_start`` ≤ counted_at < ``counted_end``, the
    moment by which limits count. Of several operations, providers or models any will do. None selects all."""

    start: datetime | None = None
    end: datetime | None = None
    counted_start: datetime | None = None
    counted_end: datetime | None = None
    operations: Collection[str] | None = None
    providers: Collection[str] | None = None
    models: Collection[str] | None = None
    user_id: str | None = None
    project_id: str | None = None
    api_key_id: str | None = None
    outcome: str | None = None
    endpoint: str | None = None
    recorded_start: datetime | None = None
    recorded_end: datetime | None = None


async def read_summary(connection: "Connection", account_id: str, month: date) -> list[SummaryCell]:
    """The account's totals of a month (its first day), one per operation, provider and model."""
    return [SummaryCell(*row) for row in await connection.fetch(SQL["summary"], account_id, month)]


async def sum_usage_log(
    connection: "Connection", account_id: str, month: date, after: datetime | None = None
) -> list[SummaryCell]:
    """The same, added up from the usage log: for the past, or of what was recorded after a moment."""
    return [SummaryCell(*row) for row in await connection.fetch(SQL["summary_of_log"], account_id, month, after)]


async def read_usage_log(
    connection: "Connection",
    account_id: str,
    chosen: UsageLogFilter,
    after: tuple[datetime, UUID] | None,
    rows_max: int,
) -> "list[asyncpg.Record]":
    """A page of the usage log, newest first, after the given (occurred_at, operation_id)."""
    occurred_at, operation_id = after or (None, None)
    return await connection.fetch(
        SQL["log_page"],
        account_id, chosen.start, chosen.end, chosen.counted_start, chosen.counted_end, chosen.operations,
        chosen.providers, chosen.models, chosen.user_id, chosen.project_id, chosen.api_key_id, chosen.outcome,
        occurred_at, operation_id, rows_max, chosen.endpoint, chosen.recorded_start, chosen.recorded_end,
    )  # fmt: skip
