"""How a range of time is cut into hours, days, weeks or months of a time zone, and what came before it."""

from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple, assert_never
from zoneinfo import ZoneInfo

_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_NOON: Final = timedelta(hours=12)
#: However the clocks change, the next midnight is no farther away: of whole dates, some were left out.
_DAYS_AHEAD_MAX: Final = 3


class Interval(StrEnum):
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    NONE = "none"


class Bucket(NamedTuple):
    """``start`` ≤ moment < ``end``, both UTC; ``name`` is what people read: ``2026-11-05``."""

    start: datetime
    end: datetime
    name: str


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """When a date begins, in UTC. Where clocks jump over midnight, that is the instant of the jump."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def buckets_count_at_most(start: datetime, end: datetime, interval: Interval) -> int:
    """No fewer than there are: known before any is made."""
    length = {
        Interval.HOUR: _HOUR / 2,  # where clocks change by half an hour, one hour is in two parts
        Interval.DAY: timedelta(hours=22),
        Interval.WEEK: timedelta(days=6),
        Interval.MONTH: timedelta(days=27),
    }
    return 1 if interval is Interval.NONE else (end - start) // length[interval] + 2


def cut(start: datetime, end: datetime, interval: Interval, zone: ZoneInfo) -> list[Bucket]:
    """The buckets of a range, without gaps; the first and the last are cut where the range ends within them."""
    if interval is Interval.NONE:
        return [Bucket(start, end, "")]
    edges = [start]
    while edges[-1] < end:
        edges.append(min(following(edges[-1], interval, zone), end))
    return [Bucket(begin, until, name_of(begin, interval, zone)) for begin, until in pairwise(edges)]


def following(moment: datetime, interval: Interval, zone: ZoneInfo) -> datetime:
    """Where the bucket ends in which a moment (UTC) lies."""
    day = moment.astimezone(zone).date()
    match interval:
        case Interval.HOUR:
            return _next_hour(moment, zone)
        case Interval.DAY:
            return _midnight_after(moment, day + timedelta(days=1), zone)
        case Interval.WEEK:
            return _midnight_after(moment, day + timedelta(days=7 - day.weekday()), zone)
        case Interval.MONTH:
            return _midnight_after(moment, add_months(day.replace(day=1), 1), zone)
        case Interval.NONE:
            raise ValueError("there is nothing after all of it")
        case _:
            assert_never(interval)


def _midnight_after(moment: datetime, day: date, zone: ZoneInfo) -> datetime:
    # A date that a zone left out begins and ends at the same instant.
    for days in range(_DAYS_AHEAD_MAX):
        found = midnight(day + timedelta(days=days), zone)
        if found > moment:
            return found
    raise AssertionError("unreachable: time zones leave out one date at most")


def _next_hour(moment: datetime, zone: ZoneInfo) -> datetime:
    """Where the zone's clock next shows a full hour, or jumps past one."""
    local = moment.astimezone(zone)
    into = timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
    later = moment + _HOUR - into
    after = later.astimezone(zone)
    # Clocks that jump by half an hour: the full hour that came sooner, unless that was before.
    full = later - timedelta(minutes=after.minute, seconds=after.second)
    return full if full > moment and full.astimezone(zone).minute == 0 else later


def name_of(moment: datetime, interval: Interval, zone: ZoneInfo) -> str:
    """What a bucket is called in which a moment lies."""
    local = moment.astimezone(zone)
    match interval:
        case Interval.HOUR:
            return local.replace(minute=0, second=0, microsecond=0).isoformat(timespec="minutes")
        case Interval.DAY:
            return local.date().isoformat()
        case Interval.WEEK:
            year, week, _ = local.isocalendar()
            return f"{year}-W{week:02d}"
        case Interval.MONTH:
            return f"{local:%Y-%m}"
        case Interval.NONE:
            return ""
        case _:
            assert_never(interval)


def add_months(first: date, months: int) -> date:
    """The first day of a month so many months later, or, below zero, earlier."""
    year, month = divmod(first.year * 12 + first.month - 1 + months, 12)
    return date(year, month + 1, 1)


def previous_start(start: datetime, end: datetime, zone: ZoneInfo) -> datetime:
    """Where the period before a range begins: it ends where the range begins, and has as many months, if that is whole
    months of the zone, else as many days, if it is whole days, else the same length."""
    first, last = _whole_days(start, end, zone)
    if first is None or last is None:
        return start - (end - start)
    if first.day == 1 and last.day == 1:
        months = (last.year - first.year) * 12 + last.month - first.month
        return midnight(add_months(first, -months), zone)
    return midnight(first - (last - first), zone)


def _whole_days(start: datetime, end: datetime, zone: ZoneInfo) -> tuple[date | None, date | None]:
    days = [moment.astimezone(zone).date() for moment in (start, end)]
    if [midnight(day, zone) for day in days] == [start, end]:
        return days[0], days[1]
    return None, None


def are_whole_hours(moments: list[datetime]) -> bool:
    """Whether all are full hours in UTC, as rollups have them."""
    return all(not (moment.minute or moment.second or moment.microsecond) for moment in moments)


def broken_days(edges: list[datetime]) -> list[datetime]:
    """When the days of UTC begin that have one of the moments (UTC) within them: they are not whole between these."""
    return sorted({start for edge in edges if (start := day_of(edge)) != edge})


def whole_days_count(start: datetime, end: datetime, broken: list[datetime]) -> int:
    """How many days of UTC lie between two moments and are not broken."""
    first, last = day_of(start), day_of(end)
    return (last - first) // _DAY - sum(first <= day < last for day in broken)


def hours_of(days: list[datetime], start: datetime, end: datetime) -> list[datetime]:
    """The hours of these days between two moments, which are full hours."""
    hours = (day + number * _HOUR for day in days for number in range(24))
    return [hour for hour in hours if start <= hour < end]


class MovedHour(NamedTuple):
    """It is counted with the noon of its day, and is to be with ``to``: where its part of the day begins; None: that is
    outside of the range."""

    hour: datetime
    noon: datetime
    to: datetime | None


def moved_hours(edges: list[datetime]) -> list[MovedHour]:
    """What to move where each broken day of a range counts as a whole where its noon lies, if that is in the range.
    Edges are full hours in order, the range's own first and last."""
    within: dict[datetime, list[datetime]] = {}
    for edge in edges:
        if (day := day_of(edge)) != edge:
            within.setdefault(day, []).append(edge)
    return [
        MovedHour(begin + number * _HOUR, day + _NOON, begin if edges[0] <= begin < edges[-1] else None)
        for day, cuts in within.items()
        if edges[0] <= day + _NOON < edges[-1]
        for begin, until in pairwise([day, *cuts, day + _DAY])
        if not begin <= day + _NOON < until
        for number in range((until - begin) // _HOUR)
    ]


def day_of(moment: datetime) -> datetime:
    """When the moment's day begins, in its zone."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)
