"""Reads of the usage log and the usage summary."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from ledger_service.domain.counters import ACCOUNT_SCOPE_KEY, Balance, CounterKey
from ledger_service.domain.periods import END_OF_TIME
from ledger_service.domain.usage import SummaryCell, Totals
from ledger_service.store.moments import Snapshot, snapshot_of
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)

_CELLS: Final = ("operations", "providers", "models", "calls", "units", "costs_nanos", "failures")
_COUNTERS: Final = ("period_ends", "period_starts", "counter_ids", "settled", "held")
_ADJUSTMENT: Final = "adjustment"
#: Outcomes that have an index of their own, and so statements that name them.
_KINDS: Final = {_ADJUSTMENT: "_of_adjustments", "failed": "_of_failures"}
#: Rows of the usage log that one page looks at: 10 to 30 ms where the database has them in memory.
WALKED_MAX: Final = 10_000
#: Corrections of one operation that are listed; all of them count.
CORRECTIONS_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class UsageLogFilter:
    """Half-open in time: ``start`` ≤ occurred_at < ``end``, and ``counted_start`` ≤ counted_at < ``counted_end``, the
    moment by which limits count. Of several operations, providers or models any will do. None selects all.

    ``outcome`` may be ``counted``: what calls and units are made up of, completed operations and corrections."""

    start: datetime | None = None
    end: datetime | None = None
    counted_start: datetime | None = None
    counted_end: datetime | None = None
    operations: Collection[str] | None = None
    providers: Collection[str] | None = None
    models: Collection[str] | None = None
    user_id: str | None = None
    project_id: str | None = None
    api_key_id: str | None = None
    outcome: str | None = None
    endpoint: str | None = None
    recorded_start: datetime | None = None
    recorded_end: datetime | None = None


class RowKey(NamedTuple):
    """What orders the rows of an account."""

    occurred_at: datetime
    operation_id: UUID


class LogPage(NamedTuple):
    """``end``: where the next page goes on; None: there are no more rows. Where the page is not full, it was looked at
    those until ``end`` alone, and more may be chosen after it."""

    rows: "list[asyncpg.Record]"
    end: RowKey | None = None
    is_full: bool = False


class Present(NamedTuple):
    """What is known of an account now; ``terms`` is for a TermsCache. ``balances`` are those of its counters that most
    limits look at: one that is not there may exist or not."""

    month: date
    is_known: bool
    terms: "asyncpg.Record"
    cells: list[SummaryCell]
    balances: dict[CounterKey, Balance]


async def read_present(
    connection: "Connection", account_id: str, month: date | None, default_plan_id: str | None
) -> tuple[Snapshot, Present]:
    """The account, and its totals of a month (its first day; None = the current one), in one statement: of one
    snapshot, whether or not there is a transaction around it."""
    [row] = await connection.fetch(SQL["present"], account_id, month, default_plan_id, END_OF_TIME)
    cells = map(SummaryCell, *(row[name] or () for name in _CELLS))
    counters = zip(*(row[name] or () for name in _COUNTERS), strict=True)
    balances = {
        CounterKey(account_id, ACCOUNT_SCOPE_KEY, end, start, counter_id): Balance(settled, held)
        for end, start, counter_id, settled, held in counters
    }
    return snapshot_of(row), Present(row["month"], row["is_known"], row, list(cells), balances)


async def read_summary(connection: "Connection", account_id: str, month: date) -> list[SummaryCell]:
    """The account's totals of a month (its first day), one per operation, provider and model."""
    return [SummaryCell(*row) for row in await connection.fetch(SQL["summary"], account_id, month)]


async def sum_usage_log(
    connection: "Connection", account_id: str, month: date, after: datetime | None = None
) -> list[SummaryCell]:
    """The same, added up from the usage log: for the past, or of what was recorded after a moment."""
    return [SummaryCell(*row) for row in await connection.fetch(SQL["summary_of_log"], account_id, month, after)]


async def read_usage_log(
    connection: "Connection",
    account_id: str,
    chosen: UsageLogFilter,
    after: RowKey | None,
    rows_max: int,
    walked_max: int | None = WALKED_MAX,
) -> LogPage:
    """A page of the usage log, newest first, after the given (occurred_at, operation_id).

    It looks at ``walked_max`` rows at most (None: at all), so that it takes no longer where few of very many rows are
    chosen; but at all corrections, which are few, where those are chosen.
    """
    occurred_at, operation_id = after or (None, None)
    place = (account_id, chosen.start, chosen.end, occurred_at, operation_id)
    wanted = (
        chosen.operations, chosen.providers, chosen.models, chosen.user_id, chosen.project_id, chosen.api_key_id,
        chosen.outcome, chosen.endpoint, chosen.recorded_start, chosen.recorded_end, chosen.counted_start,
        chosen.counted_end,
    )  # fmt: skip
    kind = await _kind(connection, account_id, chosen, walked_max)
    walks = f"walked_until{kind}" in SQL
    rows = await connection.fetch(SQL[f"log_page{kind}"], *place, rows_max, *wanted, *([walked_max] if walks else []))
    if len(rows) == rows_max:
        return LogPage(rows, RowKey(rows[-1]["occurred_at"], rows[-1]["operation_id"]), is_full=True)
    if not walks or walked_max is None or (rows_max <= walked_max and all(value is None for value in wanted)):
        return LogPage(rows)
    last = await connection.fetchrow(SQL[f"walked_until{kind}"], *place, walked_max)
    return LogPage(rows, None if last is None else RowKey(*last))


async def _kind(connection: "Connection", account_id: str, chosen: UsageLogFilter, walked_max: int | None) -> str:
    """Which of the statements: it ends the name."""
    ranges = chosen.counted_start, chosen.counted_end
    if chosen.outcome != _ADJUSTMENT and walked_max is not None and any(ranges):
        # What was counted long ago is far down the log, and at hand by its own index.
        rows = await connection.fetchval(SQL["counted_up_to"], account_id, *ranges, walked_max + 1)
        if rows <= walked_max:
            return "_of_counted"
    return _KINDS.get(chosen.outcome or "", "")


@dataclass(frozen=True, slots=True)
class CorrectionFilter:
    """``start`` ≤ recorded_at < ``end``; of several kinds any will do. None selects all."""

    account_id: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    kinds: Collection[str] | None = None
    author: str | None = None


async def read_corrections(
    connection: "Connection", chosen: CorrectionFilter, after: tuple[datetime, str, UUID] | None, rows_max: int
) -> "list[asyncpg.Record]":
    """A page of corrections, as the usage log has them, newest recorded first, after (recorded_at, account_id,
    operation_id)."""
    asked = chosen.start, chosen.end, chosen.kinds, chosen.author, *(after or (None, None, None)), rows_max
    if chosen.account_id is None:
        return await connection.fetch(SQL["corrections"], *asked)
    return await connection.fetch(SQL["corrections_of_account"], *asked, chosen.account_id)


async def find_accounts(connection: "Connection", operation_id: UUID) -> list[str]:
    """Whose limit checks had this operation_id: two at most."""
    return [row["account_id"] for row in await connection.fetch(SQL["accounts_of"], operation_id)]


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the usage log, its corrections in the order in which they were recorded, and the events of all of them,
    its decision's first. ``amounts``: what it comes to."""

    row: "asyncpg.Record"
    corrections: "Sequence[asyncpg.Record]"
    events: "Sequence[asyncpg.Record]"
    amounts: Totals


async def read_entry(connection: "Connection", account_id: str, operation_id: UUID) -> Entry | None:
    """None where the account's usage log has no such operation, or adjustment."""
    rows = await connection.fetch(SQL["entry"], account_id, operation_id, CORRECTIONS_MAX)
    if not rows or rows[0]["operation_id"] != operation_id:
        return None
    sums = await connection.fetchrow(SQL["entry_amounts"], account_id, operation_id)
    events = await connection.fetch(SQL["events_of"], account_id, operation_id, [row["event_id"] for row in rows])
    return Entry(rows[0], rows[1:], events, Totals(*(sums or ())))
