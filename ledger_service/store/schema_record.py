"""What the database says of its own schema: which migrations it has, and which ledgers these leave at work.

Versions up to 0.1.0 read the table ``schema_migrations`` alone, and refuse whatever they do not know in it. So the
migrations that they can work with stand in ``ledger_schema.additions``, where they do not look; the others in both.
"""

from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg

from contracts.version import VERSION
from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)

#: The last migration of 0.1.0.
FIRST_RELEASE: Final = "0018"
_TABLE: Final = """
create table if not exists schema_migrations (
    name       text primary key,
    digest     text not null,
    applied_at timestamptz not null default now()
)"""


class Applied(NamedTuple):
    """One migration that the database has. ``works_with``: the number of the migration that a ledger has to know to go
    on beside it; None: it has to know this one. ``version``: which one applied it, where that was noted."""

    name: str
    digest: str
    works_with: str | None
    version: str | None


class NotAllowedError(Exception):
    """The owner of the tables may not make the schema ``ledger_schema``."""


async def make_record(connection: "Connection") -> None:
    """Makes room for what is applied. Safe to call again. Raises NotAllowedError."""
    await connection.execute(_TABLE)
    if await connection.fetchval(SQL["has_additions"]):
        return
    try:
        async with connection.transaction():
            for name in ("make_schema", "make_additions", "let_everybody_read", "let_everybody_read_additions"):
                await connection.execute(SQL[name])
    except asyncpg.InsufficientPrivilegeError as error:
        raise NotAllowedError(str(error)) from None


async def read_applied(connection: "Connection") -> list[Applied] | None:
    """None: the database has no schema yet."""
    if not await connection.fetchval(SQL["has_record"]):
        return None
    found = {row["name"]: Applied(*row) for row in await connection.fetch(SQL["applied"])}
    if await connection.fetchval(SQL["has_additions"]):
        found |= {row["name"]: Applied(*row) for row in await connection.fetch(SQL["additions"])}
    return sorted(found.values())


async def note_applied(connection: "Connection", name: str, digest: str, works_with: str) -> None:
    """Within the transaction that applies the migration, before it changes anything.

    Where ledgers of an older version cannot go on beside it, they are fenced off: each event that they would write is
    refused from then on. That takes a lock on the log, so that the migration sees all that they wrote before.
    """
    if name[: len(FIRST_RELEASE)] <= FIRST_RELEASE:
        await connection.execute(SQL["add_for_every_version"], name, digest)
        return
    await connection.execute(SQL["add"], name, digest, works_with, VERSION)
    if works_with > FIRST_RELEASE:
        await connection.execute(SQL["add_for_every_version"], name, digest)
        await _fence_off(connection)


async def _fence_off(connection: "Connection") -> None:
    noted = [Applied(*row) for row in await connection.fetch(SQL["additions"])]
    least = max(one.works_with or "" for one in noted)
    await connection.execute(SQL["make_fence"])
    await connection.execute(await connection.fetchval(SQL["fence_statement"], least))
