"""ALwrity's log wrapping: rows older than 90 days, or beyond the newest 4,000, become one [AGGREGATED] row per provider
and billing period and are deleted. Files from before and from after say the same calls in two ways; this tells which.

The aggregated row has the time of the oldest row that it stands for, and is never deleted itself. So a file without it
is from before, and rows of its provider and period from that time on, unless a file with it still has them, are in it.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from ledger_service.domain.alwrity.standing import NOTHING, Figures
from ledger_service.domain.alwrity.usage import Usage
from ledger_service.domain.alwrity.values import name_of


class Aggregate(NamedTuple):
    """An [AGGREGATED] row. ``sources``: which of the files have it, one bit each; none where the ledger alone does."""

    event_id: UUID
    provider: str
    period: str
    at: datetime
    sources: int


class Detail(NamedTuple):
    """A row of a single call that the ledger has."""

    event_id: UUID
    at: datetime
    figures: Figures


def aggregate_of(usage: Usage, sources: int) -> Aggregate:
    return Aggregate(usage.event_id, name_of(usage.provider), usage.period, usage.occurred_at, sources)


def stands_in(usage: Usage, sources: int, aggregates: Iterable[Aggregate]) -> bool:
    """Whether a row of a single call, which these files have, is in an aggregated row already."""
    return any(
        not one.sources & sources
        and one.at <= usage.occurred_at
        and (one.provider, one.period) == (name_of(usage.provider), usage.period)
        for one in aggregates
    )


def recorded_before(
    aggregate: Aggregate, details: Iterable[Detail], places: Mapping[UUID, int], aggregates: Collection[Aggregate]
) -> Figures:
    """Of the calls that an aggregated row stands for, those that the ledger has one by one.

    ``details``: what it has of the provider and period; ``places``: which files have them. Where there are several
    aggregated rows, a later one begins where the one before ends.
    """
    later = [
        one.at
        for one in aggregates
        if (one.provider, one.period) == (aggregate.provider, aggregate.period) and one.at > aggregate.at
    ]
    end = min(later, default=None)
    found = NOTHING
    for detail in details:
        is_within = aggregate.at <= detail.at and (end is None or detail.at < end)
        if is_within and not places.get(detail.event_id, 0) & aggregate.sources:
            found = found.plus(detail.figures)
    return found
