"""Repricing: what an operation costs by the price in force when it was admitted, and what that changes in sum."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple, TypeVar
from uuid import UUID

from contracts.money import COST_NANOS_MAX
from contracts.repricings import (
    RANKED_MAX,
    AccountDifference,
    DayDifference,
    Difference,
    ModelDifference,
    RepricingResult,
)
from ledger_service.domain.rating import Catalogue, PriceVersion

Key = TypeVar("Key", str, tuple[str, str, str])


class Completed(NamedTuple):
    """An operation as a repricing sees it. ``cost_nanos``: with all that was corrected of it. ``attributes``: those of
    its limit check; none where there was no check. ``elsewhere_nanos``: what others billed that were called before the
    one that did it."""

    account_id: str
    operation_id: UUID
    operation: str
    provider: str
    model: str
    quantity: int
    admitted_at: datetime
    cost_nanos: int
    is_voided: bool
    attributes: Mapping[str, str | int]
    elsewhere_nanos: int = 0


class Kept(StrEnum):
    """Why an operation stays as it is."""

    UNCHANGED = "unchanged"
    VOIDED = "voided"
    UNPRICED = "unpriced"
    AMBIGUOUS = "ambiguous"


class Rated(NamedTuple):
    """What an operation shall cost, with what others billed for it, and by which price."""

    cost_nanos: int
    unit_price_nanos: int
    version: PriceVersion


def rate(catalogue: Catalogue, operation: Completed) -> Rated | Kept:
    """Unlike a limit check, which holds the worst case, this needs one price: where the attributes leave several, and
    those differ, it is ambiguous."""
    if operation.is_voided:
        return Kept.VOIDED
    version = catalogue.in_force((operation.provider, operation.operation, operation.model), operation.admitted_at)
    if version is None:
        return Kept.UNPRICED
    prices = {variant.price for _, variant in version.variants_for(operation.attributes)}
    if len(prices) != 1:
        return Kept.AMBIGUOUS if prices else Kept.UNPRICED
    [unit_price] = prices
    cost = unit_price * operation.quantity + operation.elsewhere_nanos
    if cost > COST_NANOS_MAX:
        return Kept.UNPRICED
    return Kept.UNCHANGED if cost == operation.cost_nanos else Rated(cost, unit_price, version)


def rerating_id(repricing_id: UUID, operation_id: UUID) -> UUID:
    """The id of the adjustment by which a repricing rates an operation again: always the same, a UUIDv7 with the
    repricing's own time."""
    digest = int.from_bytes(sha256(repricing_id.bytes + operation_id.bytes).digest()[:10])
    milliseconds = repricing_id.int >> 80
    return UUID(
        int=(milliseconds << 80)
        | (0x7 << 76)
        | ((digest >> 62 & 0xFFF) << 64)
        | (0b10 << 62)
        | (digest & ((1 << 62) - 1))
    )


class _Sum:
    def __init__(self) -> None:
        self.operations = self.before = self.after = 0

    def add(self, before: int, after: int) -> None:
        self.operations += 1
        self.before += before
        self.after += after

    def shown(self) -> dict[str, int]:
        difference = self.after - self.before
        return {"operations": self.operations, "before": self.before, "after": self.after, "difference": difference}


@dataclass
class Report:
    """Adds up what changes. In memory it has one sum an account, model and day."""

    kept: Counter[str] = field(default_factory=Counter)
    looked_at: int = 0
    total: _Sum = field(default_factory=_Sum)
    _accounts: dict[str, _Sum] = field(default_factory=lambda: defaultdict(_Sum))
    _models: dict[tuple[str, str, str], _Sum] = field(default_factory=lambda: defaultdict(_Sum))
    _days: dict[date, _Sum] = field(default_factory=lambda: defaultdict(_Sum))

    def changed(self, operation: Completed, before: int, after: int) -> None:
        kind = (operation.provider, operation.operation, operation.model)
        day = operation.admitted_at.astimezone(UTC).date()
        for one in (self.total, self._accounts[operation.account_id], self._models[kind], self._days[day]):
            one.add(before, after)

    def result(self, repricing_id: UUID, *, applied: bool) -> RepricingResult:
        kept = {name: self.kept[name] for name in ("unchanged", "voided", "unpriced", "ambiguous", "earlier")}
        return RepricingResult.model_construct(
            None,
            repricing_id=repricing_id,
            applied=applied,
            looked_at=self.looked_at,
            total=Difference.model_construct(None, **self.total.shown()),
            **kept,
            by_account=[
                AccountDifference.model_construct(None, account_id=name, **one.shown())
                for name, one in _largest(self._accounts.items())
            ],
            by_model=[
                ModelDifference.model_construct(None, provider=kind[0], operation=kind[1], model=kind[2], **one.shown())
                for kind, one in _largest(self._models.items())
            ],
            by_day=[
                DayDifference.model_construct(None, day=day, **one.shown()) for day, one in sorted(self._days.items())
            ],
        )


def _largest(sums: Iterable[tuple[Key, _Sum]]) -> list[tuple[Key, _Sum]]:
    ranked = sorted(sums, key=lambda item: (-abs(item[1].after - item[1].before), item[0]))
    return ranked[:RANKED_MAX]
