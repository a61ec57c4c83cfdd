"""Reads of the rollups, and of the usage log where they do not have the answer."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg
import orjson

from ledger_service.domain.usage_answers import Cell, with_others
from ledger_service.domain.usage_months import Months
from ledger_service.domain.usage_queries import CELLS_MAX, GROUPS_MAX, METADATA, Dimension, Plan, Source
from ledger_service.store import connections
from ledger_service.store.archives import refuse_archived, usage_log_begins
from ledger_service.store.forgotten_connections import make_pool
from ledger_service.store.pool import CONNECT_TIMEOUT_SECONDS, SILENT_CLIENTS, Pool, nothing_to_reset
from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)
# Whole ranges are read, not single rows, and each question has its own plan.
_SETTINGS: Final = {
    "application_name": "ledger-analytics",
    "jit": "off",
    "plan_cache_mode": "force_custom_plan",
    "work_mem": "32MB",
    "client_connection_check_interval": "2s",
}
#: There are so many models that their sums in intervals which are no longer, on average, are half as many as the rows.
FINE_DAYS_MAX: Final = timedelta(days=3)


class TooSlowError(Exception):
    """The statement took longer than it may, and was ended."""


#: Beyond what a statement may take, for its way there and back, and for PostgreSQL to end it.
ANSWER_MARGIN_SECONDS: Final = 10.0


async def open_analytics_pool(database_url: str, seconds_max: float) -> Pool:
    """Connections for long reads; none is opened before it is needed. PostgreSQL ends what takes longer than
    ``seconds_max``: where it has not even said so, the network has forgotten the connection."""
    return await make_pool(
        database_url,
        min_size=0,
        max_size=connections.ANALYTICS,
        timeout=CONNECT_TIMEOUT_SECONDS,
        command_timeout=seconds_max + ANSWER_MARGIN_SECONDS,
        reset=nothing_to_reset,
        server_settings={**SILENT_CLIENTS, **_SETTINGS},
    )


class Cells(NamedTuple):
    """What was read, and by which plan. ``whole``, of all groups together in each period, and ``grouped``, of each:
    where there are durations."""

    plan: Plan
    cells: list[Cell]
    whole: Sequence[Cell] = ()
    grouped: Sequence[Cell] = ()


async def read_cells(connection: "Connection", plan: Plan, seconds_max: float) -> Cells:
    """The cells of a plan, one more than CELLS_MAX where there are too many. Within the caller's transaction, one
    snapshot. Raises TooSlowError where a statement takes longer than ``seconds_max``."""
    try:
        if plan.months is not None and await _has_archived(connection, plan.months):
            plan = plan.by_hours()
        # Where days or months have the answer, it is there before parallel workers are.
        alone = plan.source in (Source.USAGE_DAILY_ALL, Source.USAGE_SUMMARY)
        await connection.execute(SQL["settings"], f"{seconds_max * 1000:.0f}", alone)
        if plan.source is Source.USAGE_SUMMARY:
            cells = await _read_first_accounts(connection, plan)
            if cells is not None:
                return Cells(plan, cells)
            plan = plan.by_hours()
        cells = await _read(connection, plan, plan.query.group_by, plan.query.top)
        if not plan.has_durations or len(cells) > CELLS_MAX:
            return Cells(plan, cells)
        whole, query = plan.whole(), plan.query
        grouped = await _read(connection, whole, query.group_by, query.top) if query.groups else ()
        return Cells(plan, cells, await _read(connection, whole, (), None), grouped)
    except asyncpg.QueryCanceledError:
        raise TooSlowError from None


async def _has_archived(connection: "Connection", months: Months) -> bool:
    """Of months in archives, it is not known what in them came late and is of another one."""
    begins = await usage_log_begins(connection)
    return begins is not None and min(months.months) < begins.date()


async def _read_first_accounts(connection: "Connection", plan: Plan) -> list[Cell] | None:
    """None where it cannot be said by months whether there are others."""
    query, months = plan.query, plan.months
    assert months is not None
    rows = await connection.fetch(
        SQL["first_accounts"], months.months, *([hours[place] for hours in months.hours] for place in range(3)),
        *_values(plan, _OF_MONTHS), query.order_by.value, query.top, query.start, query.end,
    )  # fmt: skip
    accounts = [row["account_id"] for row in rows]
    cells = await _read(connection, plan.of_accounts(accounts), query.group_by, None)
    if query.top is not None and len(accounts) < query.top and not query.compare:
        return cells  # there are no others; of the period before that is not said
    return with_others(cells, await _read(connection, plan.of_everybody(), (), None))


async def _read(connection: "Connection", plan: Plan, group_by: Sequence[str], top: int | None) -> list[Cell]:
    query, dimensions = plan.query, list(group_by)
    keys = [*dimensions, *[None] * (GROUPS_MAX - len(dimensions))]
    starts, end = plan.starts, plan.buckets[-1].end
    arguments: list[object] = [
        starts[0], end, starts, len(plan.earlier), *(_column(name) for name in keys), *_values(plan, _OF_ROLLUPS), top,
        query.order_by.value, CELLS_MAX + 1,
    ]  # fmt: skip
    statement = plan.source.value  # statements are named as their tables
    if plan.source is Source.USAGE_DAILY_ALL:
        arguments += [plan.broken_days, plan.hours]
        if plan.moved:
            statement = "usage_daily_all_moved"
            arguments += [[one[place] for one in plan.moved] for place in range(3)]
        elif Dimension.MODEL in group_by and end - starts[0] <= FINE_DAYS_MAX * len(starts):
            statement = "usage_daily_all_finely"
    if plan.source is Source.USAGE_LOG:
        await refuse_archived(connection, starts[0], "what no rollup has")
        arguments += [*_values(plan, _OF_LOG), _metadata(plan), *(_metadata_key(name) for name in keys), query.as_of]
        if plan.has_durations:
            statement = "usage_log_durations"
    rows = await connection.fetch(SQL[statement], *arguments)
    return [
        Cell(
            bucket=row["bucket"] - 1,
            group=None if row["is_others"] else tuple(row[f"k{n + 1}"] or None for n in range(len(dimensions))),
            sums=(int(row["calls"]), int(row["units"]), int(row["cost_nanos"]), int(row["failures"])),
            durations=tuple(row["durations"] or ()) if plan.has_durations else (),
        )
        for row in rows
    ]


_OF_ROLLUPS: Final = (
    Dimension.ACCOUNT, Dimension.OPERATION, Dimension.PROVIDER, Dimension.MODEL, Dimension.OUTCOME,
)  # fmt: skip
_OF_MONTHS: Final = (Dimension.OPERATION, Dimension.PROVIDER, Dimension.MODEL)
_OF_LOG: Final = (Dimension.USER, Dimension.PROJECT, Dimension.API_KEY, Dimension.ENDPOINT)


def _values(plan: Plan, dimensions: Sequence[Dimension]) -> list[list[str] | None]:
    filters = plan.query.filters
    return [sorted(filters[dimension]) if dimension in filters else None for dimension in dimensions]


def _metadata(plan: Plan) -> str | None:
    wanted = {
        name.removeprefix(METADATA): sorted(values)
        for name, values in plan.query.filters.items()
        if name.startswith(METADATA)
    }
    return orjson.dumps(wanted).decode() if wanted else None


def _column(name: str | None) -> str | None:
    return "metadata" if name is not None and name.startswith(METADATA) else name


def _metadata_key(name: str | None) -> str | None:
    return name.removeprefix(METADATA) if name is not None and name.startswith(METADATA) else None
