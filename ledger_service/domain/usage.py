"""Usage totals: cells of the summary folded to what people ask for."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple


class SummaryCell(NamedTuple):
    """Totals of one operation, provider and model; ``calls`` and ``units`` of completed operations, ``cost`` of all."""

    operation: str
    provider: str
    model: str
    calls: int
    units: int
    cost_nanos: int
    failures: int


@dataclass(slots=True)
class Totals:
    calls: int = 0
    units: int = 0
    cost_nanos: int = 0
    failures: int = 0

    def add(self, cell: SummaryCell) -> None:
        self.calls += cell.calls
        self.units += cell.units
        self.cost_nanos += cell.cost_nanos
        self.failures += cell.failures


def totals_of(cells: Iterable[SummaryCell]) -> Totals:
    total = Totals()
    for cell in cells:
        total.add(cell)
    return total


def totals_by(cells: Iterable[SummaryCell], name: Callable[[SummaryCell], str]) -> dict[str, Totals]:
    """Totals per value of one dimension."""
    groups: dict[str, Totals] = {}
    for cell in cells:
        groups.setdefault(name(cell), Totals()).add(cell)
    return groups
