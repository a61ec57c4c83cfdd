"""Completed operations as a repricing reads them: account by account, in portions that hold no snapshot."""

from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import orjson

from contracts.provider_calls import read_calls
from contracts.repricings import Repricing
from ledger_service.domain.repricing import Completed
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


class Place(NamedTuple):
    """Where a portion ended."""

    admitted_at: datetime
    operation_id: UUID


async def list_accounts(connection: "Connection", after: str, wanted: Repricing, at_most: int) -> list[str]:
    """The next accounts, in the order of their ids."""
    return [row[0] for row in await connection.fetch(SQL["accounts"], after, wanted.account_id, at_most)]


async def count_completed(connection: "Connection", account_id: str, wanted: Repricing) -> int:
    found: int = await connection.fetchval(
        SQL["count"], account_id, wanted.start, wanted.end, wanted.operation, wanted.provider, wanted.model
    )
    return found


async def read_completed(
    connection: "Connection", account_id: str, wanted: Repricing, after: Place | None, at_most: int
) -> list[Completed]:
    """The next operations in order of admission, with what they come to now."""
    place = after or Place(wanted.start, UUID(int=0))
    rows = await connection.fetch(
        SQL["completed"], account_id, wanted.end, wanted.operation, wanted.provider, wanted.model, *place, at_most
    )
    return [
        Completed(
            account_id, row["operation_id"], row["operation"], row["provider"], row["model"], row["quantity"],
            row["counted_at"], row["cost_nanos"], row["is_voided"],
            orjson.loads(row["attributes"]) if row["attributes"] else {}, _elsewhere_nanos(row),
        )
        for row in rows
    ]  # fmt: skip


def _elsewhere_nanos(row: "asyncpg.Record") -> int:
    """What others billed before a fallback did it; only where the calls say all of it, as reconciliation has it."""
    calls = read_calls(row["provider_calls"])
    if sum(call.cost for call in calls) != row["recorded_nanos"]:
        return 0
    own = (row["provider"], row["model"])
    return sum(call.cost for call in calls if (call.provider, call.model) != own)
