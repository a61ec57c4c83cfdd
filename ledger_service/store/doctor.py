"""What PostgreSQL tells of itself to `ledger doctor`. Each is a query of its own: one that a role may not run, or an
older schema does not have, must not keep the others from being answered."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from contracts.subjects import STREAM
from ledger_service.domain.doctor import server_checks
from ledger_service.domain.doctor.facts import (
    Archiver,
    Flow,
    Horizon,
    Mark,
    Migrations,
    Prepared,
    Reader,
    Role,
    Server,
    Sizes,
    Slot,
    TableHealth,
    Webhooks,
)
from ledger_service.store import stream_marks
from ledger_service.store.dead_letters import count_open_by_code
from ledger_service.store.figures import read_standing
from ledger_service.store.migrations import can_work_with, migrations
from ledger_service.store.privileges import APPEND_ONLY, NOBODY_READS, READ_ONLY, find_readers, may_rewrite
from ledger_service.store.queries import load
from ledger_service.store.schema_record import read_applied
from ledger_service.store.webhooks import read_figures

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)

#: Settings that checks look at beside those that must have one value.
_SETTINGS: Final = ("max_connections", "archive_mode", "wal_level", "max_wal_size")


class HiddenError(Exception):
    """What there is cannot be seen by our role; its text says why."""


async def read_server(connection: "Connection") -> Server:
    return Server(**_only(await connection.fetch(SQL["server"])))


async def read_settings(connection: "Connection") -> Mapping[str, str]:
    names = [*_SETTINGS, *(one.name for one in server_checks.SETTINGS)]
    return {row["name"]: row["setting"] for row in await connection.fetch(SQL["settings"], names)}


async def read_migrations(connection: "Connection") -> Migrations:
    known = {one.name: one.digest for one in migrations()}
    if not await connection.fetchval(SQL["sees_schema"]):
        raise HiddenError("our role may not use the schema: see roles.rights")
    applied = await read_applied(connection) or []
    newer = (one.name for one in applied if one.name not in known and can_work_with(one))
    return Migrations({one.name: one.digest for one in applied}, known, frozenset(newer))


async def read_role(connection: "Connection") -> Role:
    found = _only(await connection.fetch(SQL["role"]))
    found |= {name: tuple(found[name]) for name in ("powers", "member_of", "owns")}
    return Role(**found, may_rewrite=await may_rewrite(connection))


async def read_lacking_rights(connection: "Connection") -> Mapping[str, tuple[str, ...]]:
    rows = await connection.fetch(SQL["rights"], list(APPEND_ONLY), list(READ_ONLY))
    return {row["name"]: tuple(row["lacking"]) for row in rows}


async def read_readers(connection: "Connection") -> tuple[Reader, ...]:
    names = await find_readers(connection)
    rows = await connection.fetch(SQL["readers"], names, ["finance"], list(NOBODY_READS))
    return tuple(Reader(row["name"], row["reads"], tuple(row["reads_too_much"]), tuple(row["writes"])) for row in rows)


async def read_anybody_may_connect(connection: "Connection") -> bool:
    return bool(await connection.fetchval(SQL["anybody_may_connect"]))


async def read_horizon(connection: "Connection") -> Horizon:
    waiting = await connection.fetchval(SQL["horizon"])
    writers = await connection.fetch(SQL["writers"])
    ages = [row["seconds"] for row in writers if row["seconds"] is not None]
    unborn = await connection.fetchval(SQL["unborn"])
    sessions = tuple(row["session"] for row in writers)
    return Horizon(waiting, max(ages, default=None), sessions, None if unborn is None else int(unborn))


async def read_prepared(connection: "Connection") -> tuple[Prepared, ...]:
    return tuple(Prepared(**row) for row in await connection.fetch(SQL["prepared"]))


async def read_slots(connection: "Connection") -> tuple[Slot, ...]:
    return tuple(Slot(**row) for row in await connection.fetch(SQL["slots"]))


async def read_archiver(connection: "Connection") -> Archiver:
    return Archiver(**_only(await connection.fetch(SQL["archiver"])))


async def read_tables(connection: "Connection") -> tuple[TableHealth, ...]:
    return tuple(
        TableHealth(row["name"], row["rows"], row["dead"], row["changed"], row["analyzed"])
        for row in await connection.fetch(SQL["tables"])
    )


async def read_frozen_age(connection: "Connection") -> int:
    return int(await connection.fetchval(SQL["frozen_age"]))


async def read_sizes(connection: "Connection") -> Sizes:
    return Sizes(**_only(await connection.fetch(SQL["sizes"])))


async def read_wal_bytes(connection: "Connection") -> int:
    return int(await connection.fetchval(SQL["wal_bytes"]))


async def read_flow(connection: "Connection") -> Flow:
    standing = await read_standing(connection)
    holes = {
        one.source: sum(last - first + 1 for first, last in one.missing) for one in await stream_marks.holes(connection)
    }
    letters = await count_open_by_code(connection)
    return Flow(standing.holds_open, standing.holds_overdue_seconds, letters, holes)


async def read_webhooks(connection: "Connection") -> Webhooks:
    figures = await read_figures(connection)
    return Webhooks(sum(one.disabled for one in figures), max(one.lag_seconds for one in figures))


async def read_mark(connection: "Connection") -> Mark | None:
    rows = await connection.fetch(SQL["mark"], STREAM)
    return Mark(**rows[0]) if rows else None


async def plan_exists(connection: "Connection", plan_id: str) -> bool:
    return bool(await connection.fetchval(SQL["plan_exists"], plan_id))


def _only(rows: list[Any]) -> dict[str, Any]:  # Any: asyncpg's records, and columns of many types
    [row] = rows
    return dict(row)
