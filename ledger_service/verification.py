"""Projections beside what the log says: one snapshot of the database, in which both must agree, and nobody is locked.

Only reads: it leaves nothing behind however it ends, holds up no reader of the log, and runs on a copy that follows
another server as well.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from ledger_service.projections import PROJECTIONS, facts
from ledger_service.projections.projection import Projection
from ledger_service.store.pool import CONNECT_TIMEOUT_SECONDS, Connection
from ledger_service.store.tables import SQL, Table, read_tables

JOBS_DEFAULT: Final = 2
ROWS_PER_FETCH: Final = 1000
EVENTS_PER_REPORT: Final = 10_000
_REPORT: Final = "ledger.progress "
_TICK: Final = f"(position % {EVENTS_PER_REPORT} <> 0 or operation_id is null or report_progress(position))"

# Whole tables are read: what suits looking up few rows does not suit this. A statement ends with its client.
_SETTINGS: Final = {
    "timezone": "UTC",
    # From its beginning on, or it would not be known how far a scan of the log has come.
    "synchronize_seqscans": "off",
    "jit": "off",
    # Two jobs are two processes.
    "max_parallel_workers_per_gather": "0",
    "work_mem": "64MB",
    "plan_cache_mode": "force_custom_plan",
    "enable_mergejoin": "off",
    "client_connection_check_interval": "2s",
    "idle_in_transaction_session_timeout": "0",
}
_OF_ALL: Final = "mod(hashtext({column})::bigint & 2147483647, $1::bigint) = $2::bigint"
_OF_SOME: Final = "{column} = any ($1::text[])"


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not what the log says. ``live`` and ``wanted`` are the row as text, None where there is none;
    ``columns`` are those that differ, where both are there. ``account_id`` is empty for what is about no account."""

    projection: str
    account_id: str
    live: str | None
    wanted: str | None
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Scope:
    """What to look at: all accounts (None) or some; and of the projections some, those about no account too."""

    accounts: tuple[str, ...] | None = None
    projections: tuple[str, ...] = tuple(projection.name for projection in PROJECTIONS)

    def chosen(self, *, by_account: bool) -> list[Projection]:
        return [one for one in PROJECTIONS if one.name in self.projections and one.by_account is by_account]


@dataclass
class Verification:
    """Reads differences. ``report`` is told, now and then, up to which position the log was read."""

    database_url: str
    jobs: int = JOBS_DEFAULT
    report: Callable[[int], None] = field(default=lambda _: None)

    async def differences(self, scope: Scope) -> AsyncIterator[Difference]:
        """All differences, in no order. Raises what asyncpg raises."""
        found = asyncio.Queue[list[Difference] | None](maxsize=2 * self.jobs)
        working = asyncio.create_task(self._find(scope, found))
        try:
            while (portion := await found.get()) is not None:
                for difference in portion:
                    yield difference
            await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def _find(self, scope: Scope, found: "asyncio.Queue[list[Difference] | None]") -> None:
        """Puts all differences into the queue, and None at its end, also where it fails."""
        workers: list[asyncio.Task[None]] = []
        try:
            async with (
                connected(self.database_url, "verify") as holder,
                holder.transaction(isolation="repeatable_read", readonly=True),
            ):
                snapshot: str = await holder.fetchval(SQL["export_snapshot"])
                tables = await read_tables(holder, (projection.name for projection in PROJECTIONS))
                waiting = asyncio.Queue[_Part]()
                for part in self._parts(scope, tables):
                    waiting.put_nowait(part)
                workers += [
                    asyncio.create_task(self._work(snapshot, waiting, found))
                    for _ in range(min(self.jobs, waiting.qsize()))
                ]
                await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await found.put(None)

    def _parts(self, scope: Scope, tables: dict[str, Table]) -> "list[_Part]":
        parts = []
        by_account, others = scope.chosen(by_account=True), scope.chosen(by_account=False)
        if by_account and scope.accounts is not None:
            sql = compose(by_account, tables, whole=False)
            shares = (scope.accounts[number :: self.jobs] for number in range(self.jobs))
            parts += [_Part(sql, (list(share),), whole=False) for share in shares if share]
        elif by_account:
            sql = compose(by_account, tables, whole=True)
            parts += [_Part(sql, (self.jobs, number), whole=True) for number in range(self.jobs)]
        return parts + [_Part(compose_other(one, tables), (), whole=True) for one in others]

    async def _work(
        self, snapshot: str, waiting: "asyncio.Queue[_Part]", found: "asyncio.Queue[list[Difference] | None]"
    ) -> None:
        async with connected(self.database_url, "verify") as connection:
            connection.add_log_listener(self._heard)
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                await connection.execute(f"set transaction snapshot '{snapshot}'")
                while not waiting.empty():
                    part = waiting.get_nowait()
                    # Nothing is known of rows that are still to be made; with all of them, one wrong guess takes days.
                    await connection.execute(f"set local enable_nestloop = {'off' if part.whole else 'on'}")
                    rows = await connection.cursor(part.sql, *part.arguments)
                    while portion := await rows.fetch(ROWS_PER_FETCH):
                        await found.put([_difference(row) for row in portion])

    def _heard(self, _: "Connection", message: asyncpg.PostgresLogMessage) -> None:
        text = message.message or ""
        if text.startswith(_REPORT):
            self.report(int(text.removeprefix(_REPORT)))


@dataclass(frozen=True, slots=True)
class _Part:
    """A statement that finds differences, and its arguments."""

    sql: str
    arguments: tuple[object, ...]
    whole: bool


def _difference(row: asyncpg.Record) -> Difference:
    return Difference(row["projection"], row["account_id"], row["live"], row["wanted"], tuple(row["columns"] or ()))


@asynccontextmanager
async def connected(database_url: str, role: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """A connection for long statements over whole tables."""
    connection = await asyncpg.connect(
        database_url,
        timeout=CONNECT_TIMEOUT_SECONDS,
        server_settings={"application_name": f"ledger-{role}", **_SETTINGS},
    )
    try:
        yield connection
    finally:
        connection.terminate()


# --- the statements


def compose(projections: Sequence[Projection], tables: dict[str, Table], *, whole: bool) -> str:
    """One statement for projections about accounts, so that every body of the log is parsed once: of all accounts of a
    part ($1 parts, $2 which), or of some ($1)."""
    scope = _OF_ALL if whole else _OF_SOME
    of_events = scope.format(column="account_id")
    if whole:
        of_events += f" and {_TICK}"
    relations = [f"events as not materialized (select * from event_log where {of_events})"]
    relations += [
        f"{name} as {'' if name in facts.KEPT else 'not '}materialized ({sql})" for name, sql in facts.RELATIONS.items()
    ]
    for projection in (one for one in PROJECTIONS if one.by_account):
        table = projection.name
        of_rows = scope.format(column="account_id")
        relations.append(f"live_{table} as not materialized (select * from {table} where {of_rows})")
        relations.append(f"rebuilt_{table} as ({projection.rebuild_sql})")
    return _statement(relations, [_comparison(one, tables[one.name]) for one in projections])


def compose_other(projection: Projection, tables: dict[str, Table]) -> str:
    """The same for one that is about no account."""
    table = projection.name
    relations = [
        "events as not materialized (select * from event_log)",
        f"live_{table} as not materialized (select * from {table})",
        f"rebuilt_{table} as ({projection.rebuild_sql})",
    ]
    return _statement(relations, [_comparison(projection, tables[table])])


def _statement(relations: Sequence[str], comparisons: Sequence[str]) -> str:
    return "with " + ",\n".join(relations) + "\n" + "\nunion all\n".join(comparisons)


def _comparison(projection: Projection, table: Table) -> str:
    first = table.key[0]
    told = [column for column in table.columns if column not in projection.untold and column not in table.key]
    differs = {column: table.compared(column, "l", "r", projection.json_by_meaning) for column in told}
    columns = ", ".join(f"case when {condition} then '{_plain(column)}' end" for column, condition in differs.items())
    account_id = f"coalesce(l.{first}, r.{first})" if projection.by_account else "''"
    return (
        f"select '{table.name}' as projection, {account_id} as account_id, "
        f"case when l.{first} is not null then {table.row_text('l')} end as live, "
        f"case when r.{first} is not null then {table.row_text('r', projection.untold)} end as wanted, "
        f"case when l.{first} is not null and r.{first} is not null "
        f"then array_remove(array[{columns}]::text[], null) end as columns\n"
        f"from {_here(f'live_{table.name}', projection.moving_sql)} l "
        f"full join {_here(f'rebuilt_{table.name}', projection.archived_sql, projection.moving_sql)} r "
        f"on {table.same_key('l', 'r')}\n"
        f"where l.{first} is null or r.{first} is null or {' or '.join(differs.values())}"
    )


def _here(relation: str, *elsewhere: str | None) -> str:
    """SQL: the relation without its rows that lie elsewhere."""
    conditions = [f"not ({one})" for one in elsewhere if one is not None]
    return f"(select * from {relation} t where {' and '.join(conditions)})" if conditions else relation


def _plain(column: str) -> str:
    return column.strip('"')


async def described(
    connection: Connection, table: Table, differences: Collection[Difference]
) -> "list[tuple[str | None, str | None]]":
    """The rows of differences of one projection as JSON objects: live, and as the log says."""
    rows = await connection.fetch(
        f"select to_json(u.live::{table.name})::text, to_json(u.wanted::{table.name})::text "
        "from unnest($1::text[], $2::text[]) with ordinality as u (live, wanted, place) order by place",
        [one.live for one in differences],
        [one.wanted for one in differences],
    )
    return [(row[0], row[1]) for row in rows]
