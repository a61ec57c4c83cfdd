"""Cells, as queries answer them → rows, others, totals and the period before."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ledger_service.domain.buckets import Bucket
from ledger_service.domain.usage_queries import DURATIONS, SUMS, Measure, Plan

#: The values of a row's dimensions, None where it has none; as a whole None of the others.
Group = tuple[str | None, ...] | None
Sums = tuple[int, int, int, int]
NOTHING: Sums = (0, 0, 0, 0)


class Cell(NamedTuple):
    """Amounts of one group in one bucket: calls, units, cost in nano-dollars, failures; and the durations at 50, 90, 95
    and 99 per cent in milliseconds, none where no operation is among them or they were not asked for. Buckets are
    numbered from 0, those of the period before first."""

    bucket: int
    group: Group
    sums: Sums
    durations: tuple[int | None, ...] = ()


def with_others(cells: Sequence[Cell], everybody: Sequence[Cell]) -> list[Cell] | None:
    """The cells of some groups, and as others what ``everybody``, the cells of all together, has more. None where that
    adds up to nothing somewhere: it does not tell whether there are others."""
    left = {cell.bucket: cell.sums for cell in everybody}
    for cell in cells:
        calls, units, cost, failures = left[cell.bucket]
        own_calls, own_units, own_cost, own_failures = cell.sums
        left[cell.bucket] = calls - own_calls, units - own_units, cost - own_cost, failures - own_failures
    if NOTHING in left.values():
        return None
    return [*cells, *(Cell(bucket, None, sums) for bucket, sums in left.items())]


class Amounts(NamedTuple):
    sums: Sums = NOTHING
    durations: tuple[int | None, ...] = ()

    def of(self, measure: Measure) -> int | None:
        """Cost in nano-dollars, durations in milliseconds; None where there is no such duration."""
        if measure in DURATIONS:
            place = DURATIONS.index(measure)
            return self.durations[place] if place < len(self.durations) else None
        return self.sums[SUMS.index(measure)]


@dataclass(frozen=True, slots=True)
class Row:
    """``previous``: of the same group in the bucket that has the same place in the period before; None where that has
    no such bucket, or was not asked for. ``group`` None: all groups that are not among the first."""

    bucket: Bucket
    group: Group
    amounts: Amounts
    previous: Amounts | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows by bucket, the largest first and the others last. Where neither a group nor its counterpart in the period
    before has anything, there is no row. The sums of ``totals`` are those of all rows; of ``previous`` of the whole
    period before, also where it has more buckets. ``groups``: a row a group, of the whole time; None: not asked for."""

    plan: Plan
    rows: list[Row]
    totals: Amounts
    previous: Amounts | None = None
    groups: list[Row] | None = None


@dataclass(slots=True)
class _Sides:
    amounts: Amounts = field(default_factory=Amounts)
    previous: Amounts = field(default_factory=Amounts)


def answer(plan: Plan, cells: Sequence[Cell], whole: Sequence[Cell], grouped: Sequence[Cell] = ()) -> Answer:
    """``whole`` and ``grouped``: the durations of all groups together, and of each, from `Plan.whole`; empty where they
    were not asked for."""
    before = len(plan.earlier)
    now = [cell for cell in cells if cell.bucket >= before]
    groups = None
    if plan.query.groups:
        groups = _rows(plan.whole(), grouped or _folded(cells, before))
        rows = _rows(replace(plan, earlier=()), [cell._replace(bucket=cell.bucket - before) for cell in now])
    else:
        rows = _rows(plan, cells)
    totals = _total(now, [one for one in whole if one.bucket >= bool(before)])
    if not plan.query.compare:
        return Answer(plan, rows, totals, None, groups)
    earlier = _total((cell for cell in cells if cell.bucket < before), [one for one in whole if one.bucket == 0])
    return Answer(plan, rows, totals, earlier, groups)


def _rows(plan: Plan, cells: Iterable[Cell]) -> list[Row]:
    before = len(plan.earlier)
    sides: dict[tuple[int, Group], _Sides] = {}
    for cell in cells:
        amounts = Amounts(cell.sums, cell.durations)
        if cell.bucket >= before:
            sides.setdefault((cell.bucket - before, cell.group), _Sides()).amounts = amounts
        elif cell.bucket < len(plan.buckets):
            sides.setdefault((cell.bucket, cell.group), _Sides()).previous = amounts
    rows = [
        Row(plan.buckets[place], group, side.amounts, side.previous if place < before else None)
        for (place, group), side in sides.items()
    ]
    rows.sort(key=lambda row: _order(plan.query.order_by, row))
    return rows


def _folded(cells: Iterable[Cell], before: int) -> list[Cell]:
    """The same as of two buckets, or of one where there is none before."""
    sums: dict[tuple[int, Group], Sums] = {}
    for cell in cells:
        place = int(cell.bucket >= before > 0), cell.group
        calls, units, cost, failures = sums.get(place, NOTHING)
        more_calls, more_units, more_cost, more_failures = cell.sums
        sums[place] = calls + more_calls, units + more_units, cost + more_cost, failures + more_failures
    return [Cell(bucket, group, amounts) for (bucket, group), amounts in sums.items()]


def _order(measure: Measure, row: Row) -> tuple[object, ...]:
    amount = row.amounts.of(measure)
    names = tuple(name or "" for name in row.group or ())
    return row.bucket.start, row.group is None, amount is None, -(amount or 0), names


def _total(cells: Iterable[Cell], whole: Sequence[Cell]) -> Amounts:
    columns = list(zip(*(cell.sums for cell in cells), strict=True))
    calls, units, cost, failures = (sum(column) for column in columns) if columns else NOTHING
    return Amounts((calls, units, cost, failures), whole[0].durations if whole else ())
