"""From the rows of a usage report to the table that a chart is drawn from: a row a period, a column a group."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from math import ceil

from contracts.web.own_api import Document

OTHERS = "all others"
NONE = "none"
_DAY = timedelta(days=1)
_NOTHING = Decimal()


@dataclass(frozen=True)
class Table:
    """Amounts by period and group; ``totals`` of each group, dearest first, and of each period."""

    groups: Sequence[str]
    periods: Sequence[str]
    amounts: Sequence[Sequence[Decimal]]
    totals: Sequence[Decimal]

    @property
    def rows(self) -> list[tuple[str, Sequence[Decimal], Decimal]]:
        """Period, its amounts by group, their sum."""
        return [(period, row, sum(row, Decimal())) for period, row in zip(self.periods, self.amounts, strict=True)]

    @property
    def total(self) -> Decimal:
        return sum(self.totals, Decimal())


def pivot(rows: Sequence[Document], measure: str, periods: Sequence[str], missing: Decimal = _NOTHING) -> Table:
    """``rows`` as `GET /v1/usage` has them, grouped by one dimension or more. ``periods``: all that there are, also
    those in which nothing happened, which the report leaves out: there the amount is ``missing``."""
    cells: dict[tuple[str, str], Decimal] = {}
    totals: dict[str, Decimal] = {}
    for row in rows:
        group, amount = name_of(row), Decimal(row[measure] or 0)
        cells[row["period"], group] = cells.get((row["period"], group), Decimal()) + amount
        totals[group] = totals.get(group, Decimal()) + amount
    groups = sorted(totals, key=lambda group: (group == OTHERS, -totals[group], group))
    amounts = [[cells.get((period, group), missing) for group in groups] for period in periods]
    return Table(groups, periods, amounts, [totals[group] for group in groups])


def name_of(row: Document) -> str:
    """What a row's group is called."""
    if row["kind"] == "others":
        return OTHERS
    return " · ".join(NONE if value is None else str(value) for value in row["group"].values()) or "all"


def days(start: datetime, end: datetime) -> list[str]:
    """``["2026-11-01", …]``, as periods of the interval day are called; the last one may have only begun."""
    return [(start + timedelta(days=number)).date().isoformat() for number in range(ceil((end - start) / _DAY))]


def change(now: str | int, before: str | int) -> Decimal | None:
    """In percent; None where there was nothing before."""
    earlier = Decimal(before)
    return 100 * (Decimal(now) - earlier) / abs(earlier) if earlier else None
