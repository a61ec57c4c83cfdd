"""What becomes of the versions of prices when some are put: new, changed, or as they were; they never overlap."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from contracts.prices import Price
from ledger_service.domain.rating import Key


class Version(NamedTuple):
    """A version as it stands. ``version`` counts its changes; ``shipped``: as the shipped file has it."""

    price: Price
    version: int
    shipped: bool
    recorded_at: datetime


class Put(NamedTuple):
    """A version that somebody wants to stand."""

    key: Key
    price: Price
    shipped: bool = False


class Overlap(NamedTuple):
    """Why a version cannot stand: the field that says so, and the version that it overlaps with."""

    field: str
    message: str
    other: Price


class Change(StrEnum):
    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    #: Put only where no administrator has put a price, and one has.
    KEPT = "kept"
    OVERLAP = "overlap"


class Outcome(NamedTuple):
    """What a put comes to. ``before``: what stood there; ``after``: what is to stand, where that is another."""

    put: Put
    change: Change
    before: Version | None = None
    after: Version | None = None
    overlap: Overlap | None = None


Standing = Mapping[Key, Sequence[Version]]


def outcomes_of(standing: Standing, puts: Sequence[Put], now: datetime) -> list[Outcome]:
    """In the order of the puts, of which no two may have the same key and ``valid_from``.

    Overlaps are those of what would stand in the end, so that the order of the puts does not matter.
    """
    final = {key: {version.price.valid_from: version.price for version in some} for key, some in standing.items()}
    for put in puts:
        final.setdefault(put.key, {})[put.price.valid_from] = put.price
    return [_outcome(put, standing.get(put.key, ()), final[put.key].values(), now) for put in puts]


def outcomes_where_nobody_put(standing: Standing, puts: Sequence[Put], now: datetime) -> list[Outcome]:
    """The same, but what an administrator has put a version of is kept with all its versions, and so is what would
    overlap."""
    kept = {key for key, some in standing.items() if not all(version.shipped for version in some)}
    outcomes = outcomes_of(standing, puts, now)
    kept |= {outcome.put.key for outcome in outcomes if outcome.overlap}
    return [
        Outcome(one.put, Change.KEPT, one.before) if one.put.key in kept and one.change is not Change.UNCHANGED else one
        for one in outcomes
    ]


def _outcome(put: Put, versions: Sequence[Version], others: Iterable[Price], now: datetime) -> Outcome:
    before = next((one for one in versions if one.price.valid_from == put.price.valid_from), None)
    overlap = find_overlap(put.price, others)
    if overlap is not None:
        return Outcome(put, Change.OVERLAP, before, overlap=overlap)
    if before is None:
        return Outcome(put, Change.NEW, None, Version(put.price, 1, put.shipped, now))
    if before.price == put.price:
        return Outcome(put, Change.UNCHANGED, before)
    return Outcome(put, Change.CHANGED, before, Version(put.price, before.version + 1, put.shipped, now))


def find_overlap(price: Price, others: Iterable[Price]) -> Overlap | None:
    """A version with an end ends no later than the next begins; one without gives way to the next."""
    for other in sorted(others, key=lambda one: one.valid_from):
        if other.valid_from < price.valid_from:
            if other.valid_until is not None and other.valid_until > price.valid_from:
                message = f"lies before {other.valid_until.isoformat()}, until which the version from "
                return Overlap("valid_from", f"{message}{other.valid_from.isoformat()} is valid", other)
        elif other.valid_from > price.valid_from:
            if price.valid_until is not None and price.valid_until > other.valid_from:
                message = f"reaches past {other.valid_from.isoformat()}, from which another version is valid"
                return Overlap("valid_until", message, other)
            break
    return None


def in_force_until(price: Price, others: Iterable[Price]) -> datetime | None:
    """Where a version ends: at its own end, or where the next begins; None = open."""
    ends = [other.valid_from for other in others if other.valid_from > price.valid_from]
    if price.valid_until is not None:
        ends.append(price.valid_until)
    return min(ends, default=None)
