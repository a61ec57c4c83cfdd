"""Invoices that say sums, a row per day and model: the sums of our charges beside theirs."""

from collections.abc import Iterator
from typing import NamedTuple

from ledger_service.domain.reconciliation import How, Item, Status


class Bucket(NamedTuple):
    """``at``: where the day, or month, begins, in microseconds."""

    at: int
    model: str


class _Sum:
    __slots__ = ("charges", "lines", "ours", "theirs")

    def __init__(self) -> None:
        self.theirs = self.ours = self.lines = self.charges = 0


class Sums:
    """As many lines and charges as there are take no more room than there are buckets."""

    def __init__(self) -> None:
        self._sums: dict[Bucket, _Sum] = {}

    def add_line(self, bucket: Bucket, amount: int) -> None:
        found = self._of(bucket)
        found.theirs += amount
        found.lines += 1

    def add_charge(self, bucket: Bucket, amount: int) -> None:
        found = self._of(bucket)
        found.ours += amount
        found.charges += 1

    def _of(self, bucket: Bucket) -> _Sum:
        return self._sums.setdefault(bucket, _Sum())

    def items(self) -> Iterator[Item]:
        """One finding for each bucket in which anything is owed, in their order."""
        for bucket, one in sorted(self._sums.items()):
            if one.theirs or one.ours:
                yield Item(_status(one), How.SUM, bucket.model, bucket.at, one.theirs, one.ours, one.lines, one.charges)


def _status(one: _Sum) -> Status:
    if one.theirs == one.ours:
        return Status.MATCHED
    if not one.ours:
        return Status.MISSING_WITH_US
    return Status.PRICE_DIFFERENCE if one.theirs else Status.MISSING_WITH_THEM
