"""What a correction adds: decided from what it is about and all that was corrected of that before.

A chain is an operation, or a free adjustment that is about none, with all corrections of it in their order. What it
comes to is the sum of their amounts. A void brings it to nothing, whatever came between, and nothing follows a void. A
free adjustment within a chain can be taken back by itself. A re-rating is taken back by another one.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

from contracts.adjustments import AdjustmentKind


class Amounts(NamedTuple):
    """Signed: what something counts, or what a correction adds to it."""

    calls: int = 0
    units: int = 0
    failures: int = 0
    cost_nanos: int = 0

    def negated(self) -> "Amounts":
        return Amounts(*(-amount for amount in self))


class Entry(NamedTuple):
    """``kind``: None for the operation itself. ``voids``: the entry that a void takes back."""

    entry_id: UUID
    kind: AdjustmentKind | None
    amounts: Amounts
    voids: UUID | None = None


class Chain(NamedTuple):
    """What corrections are about, and those that there are."""

    root: Entry
    corrections: Sequence[Entry] = ()

    def entries(self) -> Iterable[Entry]:
        return (self.root, *self.corrections)

    def current(self) -> Amounts:
        """What it comes to now."""
        return sum_of(entry.amounts for entry in self.entries())

    def is_voided(self, entry_id: UUID) -> bool:
        """Whether an entry was taken back, by itself or with its whole chain."""
        taken_back = {entry.voids for entry in self.corrections}
        return entry_id in taken_back or self.root.entry_id in taken_back


class VoidedError(Exception):
    """What a correction is about was taken back already."""


class NotVoidableError(Exception):
    """Voids and re-ratings are not taken back by a void."""


def sum_of(amounts: Iterable[Amounts]) -> Amounts:
    some = list(amounts)
    return Amounts(*(sum(column) for column in zip(*some, strict=True))) if some else Amounts()


def void(chain: Chain, entry_id: UUID) -> Amounts:
    """What a void of the chain's root, or of a free adjustment in it, adds. Raises VoidedError, NotVoidableError."""
    target = next(entry for entry in chain.entries() if entry.entry_id == entry_id)
    if target.kind not in (None, AdjustmentKind.ADJUSTMENT):
        raise NotVoidableError
    if chain.is_voided(entry_id):
        raise VoidedError
    return (chain.current() if target is chain.root else target.amounts).negated()


def rerate(chain: Chain, cost_nanos: int) -> Amounts:
    """What brings the cost of an operation to ``cost_nanos``. Raises VoidedError."""
    if chain.is_voided(chain.root.entry_id):
        raise VoidedError
    return Amounts(cost_nanos=cost_nanos - chain.current().cost_nanos)


def add(chain: Chain, amounts: Amounts) -> Amounts:
    """Free amounts about something. Raises VoidedError."""
    if chain.is_voided(chain.root.entry_id):
        raise VoidedError
    return amounts
