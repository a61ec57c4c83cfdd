"""Adjustments: rows that they are about, and their way into the log and its projections."""

from collections.abc import Collection, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from contracts.adjustments import AdjustmentKind, AdjustmentStored
from ledger_service.domain.adjustments import Amounts, Chain, Entry
from ledger_service.domain.ledger_events import ADJUSTMENT_RECORDED
from ledger_service.store.event_log import append_incoming
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)

_COLUMNS: Final = (
    "ordinal", "account_id", "event_id", "type", "operation_id", "outcome", "source", "occurred_at", "body", "user_id",
    "project_id", "api_key_id", "operation", "provider", "requested_provider", "model", "quantity", "cost_nanos",
    "requested_at", "duration_ms", "retry_count", "request_bytes", "has_metadata", "counted_at", "adjusted_calls",
    "adjusted_failures", "corrects",
)  # fmt: skip


class Cell(NamedTuple):
    """A row of the account's usage summary."""

    month: date
    operation: str
    provider: str
    model: str


class Counted(NamedTuple):
    """A row of the usage log as a correction of it needs it. ``corrects``: of an adjustment about something."""

    entry_id: UUID
    kind: str | None
    voids: UUID | None
    corrects: UUID | None
    amounts: Amounts
    user_id: str | None
    project_id: str | None
    api_key_id: str | None
    operation: str
    provider: str
    model: str
    occurred_at: datetime
    counted_at: datetime

    def entry(self) -> Entry:
        return Entry(self.entry_id, AdjustmentKind(self.kind) if self.kind else None, self.amounts, self.voids)


async def find_counted(connection: "Connection", account_id: str, ids: Collection[UUID]) -> dict[UUID, Counted]:
    """Those of the account's operations and adjustments that are in the usage log, by their ids."""
    rows = await connection.fetch(SQL["find_counted"], account_id, sorted(ids))
    return {row["operation_id"]: _counted(row) for row in rows}


async def read_chains(connection: "Connection", account_id: str, roots: Collection[UUID]) -> dict[UUID, Chain]:
    """All that was corrected of each. The account must be locked, or it may grow meanwhile."""
    found = await find_counted(connection, account_id, roots)
    corrections: dict[UUID, list[Entry]] = {root: [] for root in found}
    for row in await connection.fetch(SQL["find_corrections"], account_id, sorted(roots)):
        one = _counted(row)
        assert one.corrects is not None
        corrections[one.corrects].append(one.entry())
    return {root: Chain(one.entry(), corrections[root]) for root, one in found.items()}


def _counted(row: "asyncpg.Record") -> Counted:
    amounts = Amounts(row["calls"], row["units"], row["failures"], row["cost_nanos"])
    return Counted(
        row["operation_id"], row["kind"], row["voids"], row["corrects"], amounts, row["user_id"], row["project_id"],
        row["api_key_id"], row["operation"], row["provider"], row["model"], row["occurred_at"], row["counted_at"],
    )  # fmt: skip


async def reserve_cells(connection: "Connection", account_id: str, cells: Collection[Cell]) -> set[Cell]:
    """Takes the rows of the usage summary that adjustments will change, before the account is locked: as ingest does,
    so that neither waits for the other for ever. Answers those that there were not: they are empty now."""
    rows = await connection.fetch(SQL["reserve_cells"], account_id, *zip(*sorted(cells), strict=True))
    return {Cell(*row[:4]) for row in rows if row["is_new"]}


async def give_back_cells(connection: "Connection", account_id: str, cells: Collection[Cell]) -> None:
    """Removes empty cells that were reserved for nothing."""
    if cells:
        await connection.execute(SQL["give_back_cells"], account_id, *zip(*sorted(cells), strict=True))


async def append_adjustments(
    connection: "Connection", adjustments: Sequence[tuple[AdjustmentStored, bytes]]
) -> list[AdjustmentStored]:
    """Stages adjustments and appends their events to the log; from there they go the way of outcomes. Answers those
    whose id the log has already, of something else, and unstages them."""
    rows = [
        (
            ordinal, one.account_id, one.adjustment_id, ADJUSTMENT_RECORDED, one.adjustment_id, "adjustment", "ledger",
            one.occurred_at, body.decode(), one.user_id, one.project_id, one.api_key_id, one.operation, one.provider,
            one.provider, one.model, one.units, one.cost, one.occurred_at, 0, 0, 0, False, one.counted_at, one.calls,
            one.failures, one.corrects,
        )
        for ordinal, (one, body) in enumerate(adjustments)
    ]  # fmt: skip
    losers = await append_incoming(connection, rows, _COLUMNS)
    return [adjustments[ordinal][0] for ordinal in sorted(losers)]
