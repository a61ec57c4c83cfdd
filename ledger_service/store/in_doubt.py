"""Operations of which nobody knows what they came to."""

from datetime import datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

from contracts.in_doubt import Doubt
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


async def read_doubtful(
    connection: "Connection",
    doubt: Doubt,
    account_id: str | None,
    rows_max: int,
    after: tuple[datetime, UUID] | None,
    older_than_seconds: float,
) -> "list[asyncpg.Record]":
    """A page, after the (ended_at, operation_id) of the one before. ``older_than_seconds`` is for open ones."""
    arguments = [account_id, rows_max, *(after or (None, None))]
    if doubt == "open":
        arguments.append(older_than_seconds)
    return await connection.fetch(SQL[doubt], *arguments)
