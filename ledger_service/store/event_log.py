"""The append-only log of every event."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

from contracts.events import CompletedData, FailedData, OperationRequested, UsageEvent
from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)

_COLUMNS: Final = (
    "ordinal", "account_id", "event_id", "type", "operation_id", "outcome", "source", "source_sequence",
    "occurred_at", "body", "user_id", "project_id", "api_key_id", "operation", "provider", "requested_provider",
    "model", "quantity", "cost_nanos", "requested_at", "duration_ms", "status_code", "retry_count", "request_bytes",
    "response_bytes", "endpoint", "error_code", "error_message", "has_metadata", "lease_id",
)  # fmt: skip
_ORDINAL, _ACCOUNT_ID, _EVENT_ID = 0, 1, 2
_REQUESTED_TAIL: Final = (None,) * (len(_COLUMNS) - 10)


async def prepare_connection(connection: "Connection") -> None:
    """Gives a connection its staging table."""
    await connection.execute(SQL["incoming_table"])


def incoming_row(ordinal: int, event: UsageEvent, body: str) -> tuple[object, ...]:
    """One event as a row of the staging table."""
    data = event.data
    head = (
        ordinal, data.account_id, event.id, event.type, data.operation_id, event.outcome, event.source,
        event.sourcesequence, event.time, body,
    )  # fmt: skip
    if isinstance(event, OperationRequested):
        return head + _REQUESTED_TAIL
    outcome: CompletedData | FailedData = event.data
    error = outcome.error if isinstance(outcome, FailedData) else None
    return (
        *head, outcome.user_id, outcome.project_id, outcome.api_key_id, outcome.operation, outcome.actual_provider,
        outcome.provider, outcome.model, outcome.quantity, outcome.cost, outcome.requested_at, outcome.duration_ms,
        outcome.status_code, outcome.retry_count, outcome.request_bytes,
        outcome.response_bytes if isinstance(outcome, CompletedData) else None, outcome.endpoint,
        error.code if error else None, error.message if error else None, outcome.metadata is not None, event.leaseid,
    )  # fmt: skip


async def append_incoming(
    connection: "Connection", rows: Sequence[tuple[object, ...]], columns: Sequence[str] = _COLUMNS
) -> set[int]:
    """Stages a batch and appends it to the log. Answers the ordinals that were not appended, and unstages them.

    Within a batch, no two rows may share an event id or an operation's outcome: see domain.batches. ``columns`` begin
    with ordinal, account_id and event_id.
    """
    await connection.copy_records_to_table("incoming", records=rows, columns=columns)
    [answer] = await connection.fetch(SQL["append"], len(rows))
    if answer["event_ids"] is None:
        return set()
    appended = set(zip(answer["account_ids"], answer["event_ids"], strict=True))
    losers = {int(str(row[_ORDINAL])) for row in rows if (row[_ACCOUNT_ID], row[_EVENT_ID]) not in appended}
    await connection.execute(SQL["drop_incoming"], sorted(losers))
    return losers


async def clear_incoming(connection: "Connection") -> None:
    """Empties the staging table within a transaction; its end does so by itself."""
    await connection.execute(SQL["clear_incoming"])


async def find_events(connection: "Connection", keys: Iterable[tuple[str, UUID]]) -> dict[tuple[str, UUID], str]:
    """The bodies of those of the given events (account, event id) that are in the log."""
    accounts, event_ids = zip(*keys, strict=True)
    rows = await connection.fetch(SQL["find_events"], accounts, event_ids)
    return {(row["account_id"], row["event_id"]): row["body"] for row in rows}


async def find_finished(connection: "Connection", keys: Iterable[tuple[str, UUID]]) -> set[tuple[str, UUID]]:
    """Those of the given operations (account, operation id) that have an outcome in the log."""
    accounts, operation_ids = zip(*keys, strict=True)
    rows = await connection.fetch(SQL["find_finished"], accounts, operation_ids)
    return {(row["account_id"], row["operation_id"]) for row in rows}


async def append_one(
    connection: "Connection",
    account_id: str,
    event_id: UUID,
    event_type: str,
    operation_id: UUID | None,
    occurred_at: datetime,
    body: bytes,
) -> None:
    """Appends one event of the ledger's own making."""
    await connection.execute(
        SQL["append_one"], account_id, event_id, event_type, operation_id, occurred_at, body.decode()
    )


async def append_many(connection: "Connection", rows: Sequence[tuple[str, UUID, str, datetime, bytes]]) -> None:
    """Appends events of the ledger's own making, about no operation: account, id, type, time and body of each."""
    await connection.executemany(
        SQL["append_one"], [(account, id_, kind, None, time, body.decode()) for account, id_, kind, time, body in rows]
    )
