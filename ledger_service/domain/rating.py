"""Rating: what a check may cost at worst, by the versioned prices of the catalogue.

How attributes choose a price. A variant is excluded by an attribute that its conditions name with another value. What
the check does not name excludes nothing, nor does what cannot be compared: a text (``"auto"``) where numbers are
priced, or a number where texts are. A text that is a whole number is that number. Other texts are compared as they
are, case included.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeAlias

from contracts.money import COST_NANOS_MAX, format_nanos
from contracts.prices import Condition, NumberRange, Price, Variant, plain

#: (provider, operation, model)
Key: TypeAlias = tuple[str, str, str]


class Rateable(Protocol):
    """What rating reads of a limit check."""

    @property
    def provider(self) -> str: ...
    @property
    def operation(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def quantity(self) -> int: ...
    @property
    def attributes(self) -> Mapping[str, str | int] | None: ...


class CostTooLargeError(ValueError):
    """The worst case is more than an operation may cost: the quantity is too large for its price."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """A condition, ready to compare: values, or the range between ``low`` and ``high``."""

    values: frozenset[str | int]
    low: int
    high: int | None
    has_numbers: bool
    has_texts: bool

    def excludes(self, value: str | int) -> bool:
        if isinstance(value, str):
            return self.has_texts and value not in self.values
        if not self.has_numbers:
            return False
        if self.values:
            return value not in self.values
        return value < self.low or (self.high is not None and value > self.high)


def _rule(condition: Condition) -> _Rule:
    if isinstance(condition, NumberRange):
        return _Rule(frozenset(), condition.at_least or 0, condition.at_most, has_numbers=True, has_texts=False)
    values = frozenset(plain(value) for value in (condition if isinstance(condition, list) else [condition]))
    numbers = any(isinstance(value, int) for value in values)
    return _Rule(values, 0, None, numbers, any(isinstance(value, str) for value in values))


#: The conditions of a variant, by the names of the attributes.
_Rules: TypeAlias = tuple[tuple[str, _Rule], ...]


@dataclass(frozen=True, slots=True)
class PriceVersion:
    """A price as it stands in the catalogue: ``version`` counts the changes of the one that begins at
    ``price.valid_from``."""

    price: Price
    version: int
    _rules: tuple[_Rules, ...] = field(init=False, repr=False, compare=False)
    #: (price of a unit, conditions), the dearest first: the first that is not excluded is the worst case.
    _dearest_first: tuple[tuple[int, _Rules], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rules = tuple(
            tuple((name, _rule(condition)) for name, condition in variant.when.items())
            for variant in self.price.variants
        )
        priced = [(variant.price, some) for variant, some in zip(self.price.variants, rules, strict=True)]
        object.__setattr__(self, "_rules", rules)
        object.__setattr__(self, "_dearest_first", tuple(sorted(priced, key=lambda one: -one[0])))

    @property
    def valid_from(self) -> datetime:
        return self.price.valid_from

    def holds_at(self, moment: datetime) -> bool:
        """By its own times; a later version may hold already."""
        until = self.price.valid_until
        return self.price.valid_from <= moment and (until is None or moment < until)

    def variants_for(self, attributes: Mapping[str, str | int]) -> list[tuple[int, Variant]]:
        """Those that the attributes do not exclude, with their places."""
        given = _plain(attributes)
        return [
            (index, variant)
            for index, (variant, rules) in enumerate(zip(self.price.variants, self._rules, strict=True))
            if not _excluded(rules, given)
        ]

    def dearest_for(self, attributes: Mapping[str, str | int]) -> int | None:
        """The price of a unit by the dearest of those; None = there is none."""
        given = _plain(attributes)
        for unit_price, rules in self._dearest_first:
            if not _excluded(rules, given):
                return unit_price
        return None


def _plain(attributes: Mapping[str, str | int]) -> dict[str, str | int]:
    return {name: plain(value) for name, value in attributes.items()}


def _excluded(rules: _Rules, given: Mapping[str, str | int]) -> bool:
    for name, rule in rules:  # noqa: SIM110 - a generator costs twice as much, and every check comes through here
        if name in given and rule.excludes(given[name]):
            return True
    return False


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All prices, immutable: of each (provider, operation, model) its versions, oldest first."""

    prices: Mapping[Key, tuple[PriceVersion, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def with_versions(self, changed: Iterable[tuple[Key, PriceVersion]]) -> "Catalogue":
        """Another catalogue in which these take the place of those with the same key and ``valid_from``."""
        prices = dict(self.prices)
        for key, version in changed:
            others = (other for other in prices.get(key, ()) if other.valid_from != version.valid_from)
            prices[key] = tuple(sorted((*others, version), key=lambda one: one.valid_from))
        return Catalogue(MappingProxyType(prices))

    def in_force(self, key: Key, now: datetime) -> PriceVersion | None:
        """The version that holds: the latest that has begun, unless it is over."""
        versions = self.prices.get(key, ())
        place = bisect_right(versions, now, key=lambda version: version.valid_from)
        return versions[place - 1] if place and versions[place - 1].holds_at(now) else None


class Rated(NamedTuple):
    """What a check is held at, and the version of the price that says so."""

    unit_price_nanos: int
    cost_nanos: int
    version: int
    valid_from: datetime


def worst_case(catalogue: Catalogue, check: Rateable, now: datetime) -> Rated | None:
    """The dearest price that the check may turn out to have, times its quantity; None = it has no price.

    Raises CostTooLargeError where that is more than COST_NANOS_MAX.
    """
    found = catalogue.in_force((check.provider, check.operation, check.model), now)
    if found is None:
        return None
    unit_price = found.dearest_for(check.attributes or {})
    if unit_price is None:
        return None
    cost = unit_price * check.quantity
    if cost > COST_NANOS_MAX:
        raise CostTooLargeError(
            f"{check.quantity} units at ${format_nanos(unit_price)} cost more than one operation may: "
            f"${format_nanos(COST_NANOS_MAX)}"
        )
    return Rated(unit_price, cost, found.version, found.valid_from)
