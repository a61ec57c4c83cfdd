"""Questions about usage: what may be asked, and which table has the whole answer."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

from ledger_service.domain.buckets import (
    Bucket,
    Interval,
    MovedHour,
    are_whole_hours,
    broken_days,
    buckets_count_at_most,
    cut,
    hours_of,
    moved_hours,
    previous_start,
    whole_days_count,
)
from ledger_service.domain.usage_months import Months, months_of

#: Of an answer: more is an export's business.
BUCKETS_MAX: Final = 10_000
CELLS_MAX: Final = 100_000
GROUPS_MAX: Final = 4
TOP_MAX: Final = 1_000
FILTERS_MAX: Final = 20
VALUES_MAX: Final = 200
VALUE_LENGTH_MAX: Final = 1_024
METADATA: Final = "metadata."
#: Of an answer from days, they are read as hours where they are no more than these, the ends of a month and its weeks.
BROKEN_FEW: Final = 12
#: More are read as hours, with all others: three months of a zone's days, and the three before.
BROKEN_DAYS_MAX: Final = 200
#: All accounts' rows of a day are as many as those of two hours.
_DAY_IN_HOURS: Final = 2
#: The first accounts are found by months where these leave no more of the hours to be read than one in so many.
_HOURS_BESIDE_MONTHS: Final = 3


class Dimension(StrEnum):
    """What usage is grouped and filtered by; ``metadata.KEY`` stands beside them."""

    ACCOUNT = "account"
    USER = "user"
    PROJECT = "project"
    API_KEY = "api_key"
    OPERATION = "operation"
    PROVIDER = "provider"
    MODEL = "model"
    OUTCOME = "outcome"
    ENDPOINT = "endpoint"


class Measure(StrEnum):
    """``duration_…``: so many of a hundred operations took no longer, in milliseconds."""

    CALLS = "calls"
    UNITS = "units"
    COST = "cost"
    FAILURES = "failures"
    DURATION_P50 = "duration_p50"
    DURATION_P90 = "duration_p90"
    DURATION_P95 = "duration_p95"
    DURATION_P99 = "duration_p99"


#: In the order in which queries answer them.
SUMS: Final = (Measure.CALLS, Measure.UNITS, Measure.COST, Measure.FAILURES)
DURATIONS: Final = (Measure.DURATION_P50, Measure.DURATION_P90, Measure.DURATION_P95, Measure.DURATION_P99)


class Source(StrEnum):
    """The table that an answer comes from; days of which only a part is asked for, from that by hours. By months it is
    found which accounts are the first: theirs are then read by hours, and the others' by what all have."""

    USAGE_DAILY_ALL = "usage_daily_all"
    USAGE_HOURLY_ALL = "usage_hourly_all"
    USAGE_HOURLY = "usage_hourly"
    USAGE_SUMMARY = "usage_summary"
    USAGE_LOG = "usage_log"


_ROLLED_UP: Final = frozenset({Dimension.OPERATION, Dimension.PROVIDER, Dimension.MODEL, Dimension.OUTCOME})
_OF_ACCOUNTS: Final = _ROLLED_UP | {Dimension.ACCOUNT}
_IN_MONTHS: Final = _ROLLED_UP - {Dimension.OUTCOME}


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """A question. ``start`` and ``end`` are UTC and half-open. ``filters``: dimension → the values that will do, where
    an empty one is what has none; all of the filters have to hold. ``groups``: each group over the whole time, too; the
    period before is then one, which they are compared with, and not the intervals. ``asked_at``: nothing has happened
    since; None: not known."""

    start: datetime
    end: datetime
    interval: Interval
    zone: ZoneInfo
    group_by: tuple[str, ...] = ()
    filters: Mapping[str, frozenset[str]] = field(default_factory=dict)
    measures: tuple[Measure, ...] = SUMS
    order_by: Measure = Measure.COST
    top: int | None = None
    compare: bool = False
    groups: bool = False
    as_of: datetime | None = None
    asked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How it is answered. ``earlier``: the buckets of the period before, which ends where the first of ``buckets``
    begins. ``reasons``: why no rollup has the answer. ``broken_days``: those of UTC that are not read as days, and
    ``hours``, what is read of them; others that lie in two buckets are read as days, and ``moved``. ``months``: what
    finds the first accounts."""

    query: UsageQuery
    source: Source
    reasons: tuple[str, ...]
    buckets: Sequence[Bucket]
    earlier: Sequence[Bucket]
    broken_days: Sequence[datetime] = ()
    hours: Sequence[datetime] = ()
    moved: Sequence[MovedHour] = ()
    months: Months | None = None

    @property
    def starts(self) -> list[datetime]:
        return [bucket.start for bucket in (*self.earlier, *self.buckets)]

    @property
    def has_durations(self) -> bool:
        return any(measure in DURATIONS for measure in (*self.query.measures, self.query.order_by))

    def whole(self) -> "Plan":
        """The same without groups and intervals: for totals of what cannot be added up."""
        first = self.earlier[:1] and [Bucket(self.earlier[0].start, self.earlier[-1].end, "")]
        return Plan(self.query, self.source, self.reasons, [Bucket(self.query.start, self.query.end, "")], first)

    def by_hours(self) -> "Plan":
        """The same from the rollup of each account by hours."""
        return Plan(self.query, Source.USAGE_HOURLY, self.reasons, self.buckets, self.earlier)

    def of_accounts(self, accounts: Collection[str]) -> "Plan":
        """The same of these accounts alone, each of them."""
        filters = {**self.query.filters, Dimension.ACCOUNT: frozenset(accounts)}
        return replace(self.by_hours(), query=replace(self.query, filters=filters, top=None))

    def of_everybody(self) -> "Plan":
        """The same of all accounts together."""
        query = replace(self.query, group_by=(), top=None)
        return _of_all_accounts(query, self.buckets, self.earlier)


class TooMuchError(ValueError):
    """The question is for more than is answered at once. ``field`` says what to change."""

    def __init__(self, field: str, rule: str, message: str) -> None:
        super().__init__(message)
        self.field, self.rule, self.message = field, rule, message


def plan(query: UsageQuery) -> Plan:
    """Raises TooMuchError where the answer would have more buckets, or certainly more cells, than it may."""
    _bound(buckets_count_at_most(query.start, query.end, query.interval) > 2 * BUCKETS_MAX)
    buckets = cut(query.start, query.end, query.interval, query.zone)
    earlier: Sequence[Bucket] = ()
    if query.compare:
        start = previous_start(query.start, query.end, query.zone)
        earlier = cut(start, query.start, Interval.NONE if query.groups else query.interval, query.zone)
    _bound(len(buckets) + len(earlier) > BUCKETS_MAX)
    if query.top is not None and (len(buckets) + len(earlier)) * (query.top + 1) > CELLS_MAX:
        raise TooMuchError(
            "top", "cells", f"{query.top} groups and the others in each interval are more than {CELLS_MAX:,} cells"
        )
    reasons = tuple(_reasons(query, [bucket.start for bucket in (*earlier, *buckets)]))
    if reasons:
        return Plan(query, Source.USAGE_LOG, reasons, buckets, earlier)
    if Dimension.ACCOUNT in {*query.group_by, *query.filters}:
        months = _months(query)
        source = Source.USAGE_HOURLY if months is None else Source.USAGE_SUMMARY
        return Plan(query, source, (), buckets, earlier, months=months)
    return _of_all_accounts(query, buckets, earlier)


def _months(query: UsageQuery) -> Months | None:
    """What finds the first accounts, where that is quicker than to read what all of them have by hours."""
    if query.group_by != (Dimension.ACCOUNT,) or query.top is None or not _IN_MONTHS.issuperset(query.filters):
        return None
    months = months_of(query.start, query.end, query.asked_at or query.end)
    hours = (query.end - query.start) // timedelta(hours=1)
    return months if months.months and months.hours_count * _HOURS_BESIDE_MONTHS <= hours else None


def _of_all_accounts(query: UsageQuery, buckets: Sequence[Bucket], earlier: Sequence[Bucket]) -> Plan:
    starts = [bucket.start for bucket in (*earlier, *buckets)]
    edges = [*starts, query.end]
    broken = broken_days(edges)
    if len(broken) <= BROKEN_FEW and whole_days_count(starts[0], query.end, broken):
        hours = hours_of(broken, starts[0], query.end)
        return Plan(query, Source.USAGE_DAILY_ALL, (), buckets, earlier, broken, hours)
    moved = moved_hours(edges) if len(broken) <= BROKEN_DAYS_MAX else []
    uncounted = sorted({*broken} - {noon.replace(hour=0) for _, noon, _ in moved})
    hours = hours_of(uncounted, starts[0], query.end)
    days = whole_days_count(starts[0], query.end, uncounted)
    every = (query.end - starts[0]) // timedelta(hours=1)
    # To move an hour takes half as long again as to read it.
    if not moved or 3 * (len(moved) + len(hours) + _DAY_IN_HOURS * days) > 2 * every:
        return Plan(query, Source.USAGE_HOURLY_ALL, (), buckets, earlier)
    return Plan(query, Source.USAGE_DAILY_ALL, (), buckets, earlier, uncounted, hours, moved)


def _bound(is_too_much: bool) -> None:
    if is_too_much:
        message = f"more than {BUCKETS_MAX:,} intervals: choose a longer one, or a shorter time"
        raise TooMuchError("interval", "buckets", message)


def _reasons(query: UsageQuery, starts: list[datetime]) -> list[str]:
    """Why the rollups, which have sums by hours in UTC, do not have the answer."""
    found = [f"{name} is in no rollup" for name in _unrolled((*query.group_by, *query.filters))]
    if any(measure in DURATIONS for measure in (*query.measures, query.order_by)):
        found.append("durations are in no rollup")
    if not are_whole_hours([*starts, query.end]):
        found.append("rollups are of whole hours in UTC")
    if query.as_of is not None:
        found.append("rollups are of all that is known now")
    return found


def _unrolled(names: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name not in _OF_ACCOUNTS]
