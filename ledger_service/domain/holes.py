"""Which gaps in a source's numbers are holes: those that stay, as events overtake each other on their way."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple


class Hole(NamedTuple):
    """Numbers of a source, inclusive."""

    source: str
    first: int
    last: int

    def holds(self, other: "Hole") -> bool:
        return self.source == other.source and self.first <= other.first and other.last <= self.last


def missing_since(gaps: Sequence[Hole], known: Mapping[Hole, datetime], now: datetime) -> dict[Hole, datetime]:
    """Since when each gap is known to be one: what is left of a larger one since that was."""
    by_source: dict[str, list[tuple[Hole, datetime]]] = {}
    for hole, since in known.items():
        by_source.setdefault(hole.source, []).append((hole, since))
    found = {}
    for gap in gaps:
        before = [since for hole, since in by_source.get(gap.source, ()) if hole.holds(gap)]
        found[gap] = min(before, default=now)
    return found


def overdue(known: Mapping[Hole, datetime], now: datetime, seconds: float) -> list[tuple[Hole, datetime]]:
    """The gaps that have been there for so long."""
    return [(hole, since) for hole, since in known.items() if now - since >= timedelta(seconds=seconds)]
