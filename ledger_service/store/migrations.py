"""Numbered plain SQL, forward only. Each file runs once, in its own transaction, under one lock for all processes."""

from hashlib import sha256
from importlib.resources import files
from typing import Final, NamedTuple

import asyncpg

_LOCK: Final = 7_205_759_403_792_794  # any number that nobody else uses in this database
_TABLE: Final = """
create table if not exists schema_migrations (
    name       text primary key,
    digest     text not null,
    applied_at timestamptz not null default now()
)"""


class Migration(NamedTuple):
    name: str
    sql: str

    @property
    def digest(self) -> str:
        return sha256(self.sql.encode()).hexdigest()


class MigrationError(Exception):
    """The database's schema does not fit this version of the ledger."""


def migrations() -> list[Migration]:
    """All migrations in order."""
    folder = files("ledger_service.store").joinpath("migrations")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [Migration(name, folder.joinpath(name).read_text()) for name in names]


async def migrate(database_url: str) -> list[str]:
    """Applies what is missing and answers its names. Safe to run again, and from several processes at once.

    Raises MigrationError where an applied migration was edited, or the database is newer than this code.
    """
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("select pg_advisory_lock($1)", _LOCK)
        await connection.execute(_TABLE)
        applied = await _applied(connection)
        _refuse_foreign(applied)
        missing = [migration for migration in migrations() if migration.name not in applied]
        for migration in missing:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "insert into schema_migrations (name, digest) values ($1, $2)", migration.name, migration.digest
                )
        return [migration.name for migration in missing]
    finally:
        await connection.close()


async def check_schema(
    connection: "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]",
) -> None:
    """Raises MigrationError unless exactly this version's migrations are applied."""
    if await connection.fetchval("select to_regclass('schema_migrations')") is None:
        raise MigrationError("the database has no schema yet: run `ledger migrate`")
    applied = await _applied(connection)
    _refuse_foreign(applied)
    missing = [migration.name for migration in migrations() if migration.name not in applied]
    if missing:
        raise MigrationError(f"the database misses {', '.join(missing)}: run `ledger migrate`")


async def _applied(
    connection: "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]",
) -> dict[str, str]:
    rows = await connection.fetch("select name, digest from schema_migrations")
    return {row["name"]: row["digest"] for row in rows}


def _refuse_foreign(applied: dict[str, str]) -> None:
    known = {migration.name: migration.digest for migration in migrations()}
    for name, digest in applied.items():
        if name not in known:
            raise MigrationError(f"the database has {name}, which this version does not know: use a newer version")
        if known[name] != digest:
            raise MigrationError(f"{name} was applied in another form: migrations must not be edited")
