"""What a statement says, in one snapshot."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from contracts.statements import (
    ENTRIES_MAX,
    EntryKind,
    Figures,
    Statement,
    StatementEntry,
    StatementLine,
    StatementRest,
)
from ledger_service.store.archives import refuse_archived
from ledger_service.store.periods import find_closing
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


class Place(NamedTuple):
    """Of an entry among those of its statement."""

    position: int
    operation_id: UUID

    @classmethod
    def read(cls, cursor: str | None) -> "Place":
        """Of a cursor (contracts.statements.Cursor); None: before the first."""
        if cursor is None:
            return cls(0, UUID(int=0))
        position, _, operation_id = cursor.partition("_")
        return cls(int(position), UUID(operation_id))

    def __str__(self) -> str:
        return f"{self.position}_{self.operation_id}"


async def read_statement(
    connection: "Connection", account_id: str, month: date, cursor: str | None = None
) -> Statement:
    """The account's statement of a month in UTC (its first day), with the entries after the cursor. To be read in
    one snapshot."""
    await refuse_archived(connection, datetime(month.year, month.month, 1, tzinfo=UTC), "a statement of that month")
    place = Place.read(cursor)
    closed = await find_closing(connection, account_id, month)
    opening = await connection.fetchrow(SQL["opening"], account_id, month)
    lines = await connection.fetch(SQL["lines"], account_id, month)
    sections = {row["section"]: row for row in await connection.fetch(SQL["sections"], account_id, month)}
    entries = await connection.fetch(SQL["entries"], account_id, month, ENTRIES_MAX, *place)
    rest = []
    if len(entries) == ENTRIES_MAX:
        place = Place(entries[-1]["position"], entries[-1]["operation_id"])
        rest = await connection.fetch(SQL["rest"], account_id, month, *place)
    assert opening is not None, "a sum has one row"
    before, total = Figures(**_figures(opening)), _sum(_figures(row) for row in lines)
    return Statement(
        account_id=account_id,
        period=f"{month:%Y-%m}",
        closed=closed,
        opening=before,
        **{name: _of(sections.get(name)) for name in ("usage", "late", "corrections")},
        total=total,
        closing=_sum([before.model_dump(), total.model_dump()]),
        lines=[
            StatementLine(operation=row["operation"], provider=row["provider"], model=row["model"], **_figures(row))
            for row in lines
        ],
        entries=[_entry(row) for row in entries],
        entries_in_all=sum(sections[name]["rows"] for name in ("late", "corrections") if name in sections),
        rest=[_rest(row) for row in rest],
        next_cursor=str(place) if rest else None,
    )


def _entry(row: "asyncpg.Record") -> StatementEntry:
    return StatementEntry(
        kind=EntryKind(row["kind"] or EntryKind.LATE),
        id=row["operation_id"],
        reference=row["reference"],
        author=row["author"],
        reason=row["reason"],
        operation=row["operation"],
        provider=row["provider"],
        model=row["model"],
        occurred_at=row["occurred_at"],
        recorded_at=row["recorded_at"],
        **_figures(row),
    )


def _rest(row: "asyncpg.Record") -> StatementRest:
    return StatementRest(
        kind=EntryKind(row["kind"]),
        operation=row["operation"],
        provider=row["provider"],
        model=row["model"],
        entries=row["entries"],
        **_figures(row),
    )


def _figures(row: "asyncpg.Record") -> dict[str, int]:
    return {"calls": row["calls"], "units": row["units"], "failures": row["failures"], "cost": row["cost_nanos"]}


def _of(section: "asyncpg.Record | None") -> Figures:
    return Figures() if section is None else Figures(**_figures(section))


def _sum(some: Iterable[Mapping[str, int]]) -> Figures:
    total = dict.fromkeys(Figures.model_fields, 0)
    for one in some:
        total = {name: total[name] + one[name] for name in total}
    return Figures(**total)
