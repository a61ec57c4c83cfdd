"""Reads of the usage log from end to end, in stretches of bounded size, as PostgreSQL writes them for `copy`."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from ledger_service.domain.usage import Totals
from ledger_service.store import focus, moments
from ledger_service.store.forgotten_connections import make_pool
from ledger_service.store.pool import COMMAND_TIMEOUT_SECONDS, CONNECT_TIMEOUT_SECONDS, SILENT_CLIENTS, Pool
from ledger_service.store.queries import load
from ledger_service.store.usage import UsageLogFilter

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)
#: Each stands alone, over the whole usage log, and over fewer rows where these come before it under that name.
_STATEMENTS: Final = {**SQL, **focus.SQL}

SETTLE_SECONDS_MAX: Final = 10.0
#: Less than for other reads, as a snapshot of now is what most exports are of: writers write at once.
READS_ONLY_AFTER_SECONDS: Final = 5.0
#: A page is found by its keys, whatever the tables' statistics say, and comes in their order: another index and a sort
#: take three times as long. Each is planned for its own values.
_SERVER_SETTINGS: Final = {
    "application_name": "ledger-exports",
    "timezone": "UTC",
    "jit": "off",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "enable_incremental_sort": "off",
    "max_parallel_workers_per_gather": "0",
    "plan_cache_mode": "force_custom_plan",
    **SILENT_CLIENTS,
}


class Key(NamedTuple):
    """Of a row; rows are exported in the order of keys."""

    account_id: str
    occurred_at: datetime
    operation_id: UUID


@dataclass(frozen=True, slots=True)
class Selection:
    """What is exported: rows that fit the filter, of one account or of all, recorded at ``as_of`` or before."""

    as_of: datetime
    account_id: str | None = None
    filter: UsageLogFilter = field(default_factory=UsageLogFilter)


class Span(NamedTuple):
    """Of a selection: the rows after ``after`` and up to ``until``, which is one of them."""

    after: Key | None = None
    until: Key | None = None


ALL: Final = Span()


@dataclass(frozen=True, slots=True)
class Projection:
    """What a row is written as: a statement of exports.sql or focus.sql, and `copy`'s format."""

    statement: str
    copy_format: Literal["csv", "text"]


class Page(NamedTuple):
    """``data``: rows as `copy` writes them."""

    data: bytes
    rows: int


async def open_pool(database_url: str, connections_max: int, billing_account_id: str = "") -> Pool:
    """Opens no connection before it is needed. ``billing_account_id``: who bills, in FOCUS."""
    return await make_pool(
        database_url,
        min_size=0,
        max_size=connections_max,
        timeout=CONNECT_TIMEOUT_SECONDS,
        command_timeout=COMMAND_TIMEOUT_SECONDS,
        server_settings={**_SERVER_SETTINGS, "ledger.billing_account_id": billing_account_id},
    )


async def settled_moment(connection: "Connection", as_of: datetime | None = None) -> datetime:
    """A moment, ``as_of`` or now, up to which nothing more will be recorded: waits for transactions that began before.

    Raises as moments.settle() does.
    """

    async def look(moment: datetime | None) -> asyncpg.Record:
        return await moments.unsettled(connection, moment, READS_ONLY_AFTER_SECONDS)

    return await moments.settle(look, as_of, moments.Patience(SETTLE_SECONDS_MAX))


async def find_window_end(connection: "Connection", selection: Selection, span: Span, rows: int) -> Key | None:
    """The last key of a stretch of so many rows at the span's begin; None where it reaches to the span's end."""
    chosen = selection.filter
    found = await connection.fetchrow(
        SQL["window_end"],
        selection.account_id,
        chosen.start,
        chosen.end,
        *_parts(span.after),
        *_parts(span.until),
        rows,
    )
    return None if found is None else Key(*found)


async def read_page(connection: "Connection", projection: Projection, selection: Selection, span: Span) -> Page:
    """All rows of the span, written as the projection says."""
    chunks: list[bytes] = []

    async def keep(chunk: bytes) -> None:
        chunks.append(chunk)

    written = await connection.copy_from_query(
        _over(projection.statement), *_arguments(selection, span), output=keep, format=projection.copy_format
    )
    return Page(b"".join(chunks), int(written.removeprefix("COPY ")))


async def read_totals(connection: "Connection", selection: Selection, span: Span = ALL) -> tuple[int, Totals]:
    """How many rows there are, and what they count. Reads all of them."""
    row = await connection.fetchrow(_over("totals"), *_arguments(selection, span))
    assert row is not None, "an aggregate without groups has one row"
    return row["row_count"], Totals(row["calls"], row["units"], row["cost_nanos"], row["failures"])


async def read_days(connection: "Connection", selection: Selection) -> tuple[date, date] | None:
    """The first and the last day (UTC) on which rows may have occurred; None where there are none."""
    row = await connection.fetchrow(SQL["span"], selection.account_id)
    assert row is not None, "an aggregate without groups has one row"
    if row["first"] is None:
        return None
    chosen = selection.filter
    first = row["first"] if chosen.start is None else max(row["first"], chosen.start)
    last = row["last"] if chosen.end is None else min(row["last"], chosen.end - timedelta(microseconds=1))
    return None if first > last else (first.astimezone(UTC).date(), last.astimezone(UTC).date())


async def estimate_rows(connection: "Connection", selection: Selection, span: Span = ALL) -> int:
    """How many rows the planner expects: what it costs not to read them."""
    plan = await connection.fetchval(f"explain (format json) {SQL['selected']}", *_arguments(selection, span))
    return int(orjson.loads(plan)[0]["Plan"]["Plan Rows"])


def _over(statement: str) -> str:
    """The statement, over the rows that are selected."""
    return f"with usage_log as (\n{SQL['selected']}\n)\n{_STATEMENTS[statement]}"


def _arguments(selection: Selection, span: Span) -> tuple[object, ...]:
    chosen = selection.filter
    return (
        selection.account_id, chosen.start, chosen.end, chosen.recorded_start, chosen.recorded_end,
        chosen.counted_start, chosen.counted_end, chosen.operations, chosen.providers, chosen.models, chosen.user_id,
        chosen.project_id, chosen.api_key_id, chosen.outcome, chosen.endpoint, selection.as_of, *_parts(span.after),
        *_parts(span.until),
    )  # fmt: skip


def _parts(key: Key | None) -> tuple[object, ...]:
    return (None, None, None) if key is None else tuple(key)
