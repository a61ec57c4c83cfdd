"""What a reconciliation comes to: totals that add up, and every finding that is no plain match."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from ledger_service.domain.reconciliation import Item, Status

#: Findings that are kept to be shown and to be proposed from; all of them are counted, and go to the export.
KEPT_MAX: Final = 2_000_000


class Tally:
    """Lines and charges of some findings, and what they come to in nano-dollars."""

    __slots__ = ("charges", "findings", "lines", "ours", "theirs")

    def __init__(self) -> None:
        self.findings = self.lines = self.charges = self.theirs = self.ours = 0

    @property
    def difference(self) -> int:
        return self.theirs - self.ours

    @property
    def percent(self) -> str | None:
        """Of ours, with two decimals; None where we have nothing."""
        if not self.ours:
            return None
        return str((Decimal(self.difference) * 100 / abs(self.ours)).quantize(Decimal("0.01")))

    def add(self, item: Item) -> None:
        self.findings += 1
        self.lines += item.line_count
        self.charges += item.charge_count
        self.theirs += item.theirs
        self.ours += item.ours

    def sums(self) -> tuple[int, int, int, int]:
        return (self.lines, self.charges, self.theirs, self.ours)


class Report:
    """Findings, added one by one."""

    def __init__(self) -> None:
        self.total = Tally()
        self.by_status = {status: Tally() for status in Status}
        self.by_model: dict[str, Tally] = {}
        #: All but plain matches, in the order in which they came.
        self.differences: list[Item] = []
        self.not_kept = 0

    def add(self, item: Item) -> None:
        self.total.add(item)
        self.by_status[item.status].add(item)
        self.by_model.setdefault(item.model, Tally()).add(item)
        if item.status is Status.MATCHED:
            return
        if len(self.differences) < KEPT_MAX:
            self.differences.append(item)
        else:
            self.not_kept += 1

    @property
    def agrees(self) -> bool:
        """Whether nothing is left to be explained: neither an amount nor anything in doubt."""
        return all(
            not tally.findings
            for status, tally in self.by_status.items()
            if status is not Status.MATCHED
        )  # fmt: skip

    def largest(self, count: int) -> list[Item]:
        """The findings with the largest differences, in one order whatever order they came in."""
        return sorted(self.differences, key=_weight)[:count]

    def models(self) -> list[tuple[str, Tally]]:
        """Those with the largest differences first."""
        return sorted(self.by_model.items(), key=lambda one: (-abs(one[1].difference), one[0]))


def _weight(item: Item) -> tuple[int, int, str, int, int, str]:
    line = item.lines[0] if item.lines else None
    place = (line.file, line.number) if line else (0, 0)
    return (-abs(item.difference), item.at, item.model, *place, str(item.charge.entry_id) if item.charge else "")


def add_all(report: Report, items: Iterable[Item]) -> Report:
    for item in items:
        report.add(item)
    return report
