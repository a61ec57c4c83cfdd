"""A range of time as months of UTC, and the hours by which these are too little or too much."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from ledger_service.domain.buckets import Interval, following

_HOUR: Final = timedelta(hours=1)
_UTC: Final = ZoneInfo("UTC")


class Hours(NamedTuple):
    """``start`` ≤ hour < ``end``. ``sign`` is 1 where the months lack them, -1 where the range does not have them."""

    start: datetime
    end: datetime
    sign: int


@dataclass(frozen=True, slots=True)
class Months:
    """What the range has is what ``months`` (their first days) have, with ``hours`` added and taken away.

    ``hours_count``: those of the hours that something can have happened in.
    """

    months: list[date]
    hours: list[Hours]
    hours_count: int


def months_of(start: datetime, end: datetime, asked_at: datetime) -> Months:
    """Of whole hours in UTC. Each month is taken as a whole, or by its hours, whichever leaves fewer of these: after
    ``asked_at`` there is nothing to read."""
    whole, hours, count = [], list[Hours](), 0
    for first, begin, until in _touched(start, end):
        inside = Hours(max(start, begin), min(end, until), 1)
        outside = [Hours(*one, -1) for one in ((begin, inside.start), (inside.end, until)) if one[0] < one[1]]
        too_much, too_little = sum(_past(one, asked_at) for one in outside), _past(inside, asked_at)
        if too_much <= too_little:
            whole.append(first)
            hours += outside
        else:
            hours.append(inside)
        count += min(too_much, too_little)
    return Months(whole, hours, count)


def _touched(start: datetime, end: datetime) -> Iterator[tuple[date, datetime, datetime]]:
    """Each month that has a part of the range: its first day, when it begins, and when it ends."""
    begin = start.replace(day=1, hour=0)
    while begin < end:
        until = following(begin, Interval.MONTH, _UTC)
        yield begin.date(), begin, until
        begin = until


def _past(hours: Hours, asked_at: datetime) -> int:
    return max(0, (min(hours.end, asked_at) - hours.start) // _HOUR)
