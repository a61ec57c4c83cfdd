"""Administrative changes in the log."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


async def read_changes(
    connection: "Connection", account_id: str, types: Sequence[str], before: int | None, limit: int
) -> "list[asyncpg.Record]":
    """Up to ``limit``, newest first; those of no account where ``account_id`` is empty."""
    return await connection.fetch(SQL["page"], account_id, list(types), before, limit)


async def database_role(connection: "Connection") -> str:
    """As whom this connection logged in."""
    return str(await connection.fetchval(SQL["database_role"]))
