"""Numbered plain SQL, forward only. Each file runs once, in its own transaction, under one lock for all processes.

A file may begin with ``-- works with: 0018``: ledgers that know the migrations up to that one go on beside it, and can
be started on it. Without the line, only those that know the migration itself can.
"""

import re
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg

from contracts.version import VERSION
from ledger_service.store.schema_record import Applied, NotAllowedError, make_record, note_applied, read_applied

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

_LOCK: Final = 7_205_759_403_792_794  # any number that nobody else uses in this database
#: Of one migration, which may lose against services that run.
ATTEMPTS_MAX: Final = 5
_WORKS_WITH: Final = re.compile(r"\A-- works with: ([0-9]{4})$", re.MULTILINE)


class Migration(NamedTuple):
    name: str
    sql: str

    @property
    def digest(self) -> str:
        return sha256(self.sql.encode()).hexdigest()

    @property
    def number(self) -> str:
        return self.name.partition("_")[0]

    @property
    def works_with(self) -> str:
        """The number of the migration that a ledger has to know to go on beside this one."""
        found = _WORKS_WITH.search(self.sql)
        return found[1] if found else self.number


class MigrationError(Exception):
    """The database's schema does not fit this version of the ledger."""


@cache
def _read() -> tuple[Migration, ...]:
    folder = files("ledger_service.store").joinpath("migrations")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return tuple(Migration(name, folder.joinpath(name).read_text()) for name in names)


def migrations() -> list[Migration]:
    """All migrations in order."""
    return list(_read())


@cache
def known_to_sessions() -> dict[str, str]:
    """Settings of the sessions that write: which schema their ledger knows; see schema_record.note_applied."""
    return {"ledger.schema": _read()[-1].number}


async def migrate(database_url: str) -> list[str]:
    """Applies what is missing and answers its names. Safe to run again, and from several processes at once.

    Where the schema is newer than this code, and this code can work with it, nothing is done. Raises MigrationError
    where an applied migration was edited, this code is too old for the schema, or PostgreSQL refuses a migration.
    """
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("select pg_advisory_lock($1)", _LOCK)
        await _make_record(connection)
        applied = await read_applied(connection) or []
        require_fit(applied)
        have = {one.name for one in applied}
        missing = [migration for migration in _read() if migration.name not in have]
        for migration in missing:
            await _apply(connection, migration)
        return [migration.name for migration in missing]
    finally:
        await connection.close()


async def _apply(connection: "Connection", migration: Migration) -> None:
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            async with connection.transaction():
                await note_applied(connection, migration.name, migration.digest, migration.works_with)
                await connection.execute(migration.sql)
        except asyncpg.DeadlockDetectedError as error:
            # Services go on meanwhile, and take their locks in an order of their own.
            if attempt == ATTEMPTS_MAX:
                raise MigrationError(
                    f"{migration.name} lost against running services {attempt} times: {error}"
                ) from None
        except asyncpg.PostgresError as error:
            raise MigrationError(f"{migration.name} failed, and nothing of it was applied: {error}") from error
        else:
            return


async def _make_record(connection: "Connection") -> None:
    try:
        await make_record(connection)
    except NotAllowedError as error:
        raise MigrationError(
            f"{error}: as a superuser, run: create schema ledger_schema authorization "
            f"{await connection.fetchval('select quote_ident(current_user)')}"
        ) from None


async def check_schema(connection: "Connection") -> list[str]:
    """Raises MigrationError unless this version can work with the schema.

    Answers the migrations that it does not know, and that leave it at work: those of a newer version.
    """
    applied = await read_applied(connection)
    if applied is None:
        raise MigrationError("the database has no schema yet: run `ledger migrate`")
    newer = require_fit(applied)
    have = {one.name for one in applied}
    missing = [migration.name for migration in _read() if migration.name not in have]
    if missing:
        raise MigrationError(f"the database misses {', '.join(missing)}: run `ledger migrate` of version {VERSION}")
    return newer


def can_work_with(unknown: Applied) -> bool:
    """Whether this version goes on beside an applied migration that it does not know."""
    return unknown.works_with is not None and unknown.works_with <= _read()[-1].number


def require_fit(applied: Iterable[Applied]) -> list[str]:
    """The applied migrations that this code does not know, where it can work with them; else raises MigrationError."""
    known = {migration.name: migration.digest for migration in _read()}
    newer = []
    for one in applied:
        if one.name not in known:
            if not can_work_with(one):
                wanted = f"version {one.version} or newer" if one.version else "a newer version"
                raise MigrationError(
                    f"the database has {one.name}, which version {VERSION} does not know and cannot work with: "
                    f"start {wanted}; the schema itself is not rolled back (deploy/guides/upgrades.md)"
                )
            newer.append(one.name)
        elif known[one.name] != one.digest:
            raise MigrationError(f"{one.name} was applied in another form: migrations must not be edited")
    return newer
