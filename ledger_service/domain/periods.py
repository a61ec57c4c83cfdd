"""Windows of limits as periods of time: half-open, in UTC, without gaps."""

from calendar import monthrange
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final, assert_never
from zoneinfo import ZoneInfo

from contracts.limits import Window

#: A lifetime has no end; PostgreSQL and Python agree on this one.
BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
END_OF_TIME: Final = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Period:
    """``start`` ≤ moment < ``end``, both UTC; ``name`` is what people read: ``2026-11``."""

    start: datetime
    end: datetime
    name: str


@dataclass(frozen=True, slots=True)
class Calendar:
    """Where an account's days, months and billing periods begin.

    ``latest`` remembers the period of each window that was asked for last: the next moment is most often in it too.
    """

    time_zone: str = "UTC"
    billing_anchor: date = date(2000, 1, 1)
    latest: dict[Window, Period] = field(default_factory=dict, init=False, repr=False, compare=False)


def period_of(window: Window, moment: datetime, calendar: Calendar) -> Period:
    """The period of a window in which a moment (any zone) lies.

    Days, months and billing periods begin at midnight of the account's time zone; minutes and hours run in UTC, so
    that each has its full length when clocks change.
    """
    period = calendar.latest.get(window)
    if period is None or not period.start <= moment < period.end:
        period = calendar.latest[window] = _period_of(window, moment.astimezone(UTC), calendar)
    return period


def _period_of(window: Window, moment: datetime, calendar: Calendar) -> Period:
    match window:
        case Window.MINUTE:
            return _fixed(moment, timedelta(minutes=1), "%Y-%m-%dT%H:%MZ")
        case Window.HOUR:
            return _fixed(moment, timedelta(hours=1), "%Y-%m-%dT%HZ")
        case Window.DAY:
            day = _local_date(moment, calendar)
            return _dates(day, day + timedelta(days=1), calendar, day.isoformat())
        case Window.MONTH:
            first = _local_date(moment, calendar).replace(day=1)
            return _dates(first, _add_months(first, 1, 1), calendar, f"{first:%Y-%m}")
        case Window.BILLING_PERIOD:
            return _billing_period(moment, calendar)
        case Window.LIFETIME:
            return Period(BEGINNING, END_OF_TIME, "lifetime")
        case _:
            assert_never(window)


def _fixed(moment: datetime, length: timedelta, name: str) -> Period:
    start = moment - (moment - BEGINNING) % length
    return Period(start, start + length, start.strftime(name))


def _billing_period(moment: datetime, calendar: Calendar) -> Period:
    day, anchor_day = _local_date(moment, calendar), calendar.billing_anchor.day
    start = _add_months(day.replace(day=1), 0, anchor_day)
    if start > day:
        start = _add_months(day.replace(day=1), -1, anchor_day)
    end = _add_months(start.replace(day=1), 1, anchor_day)
    return _dates(start, end, calendar, f"{start.isoformat()}/{end.isoformat()}")


def _add_months(first: date, months: int, day: int) -> date:
    """The given day of a month, or that month's last day where it is shorter: 31 → 28 February → 31 March."""
    index = first.year * 12 + first.month - 1 + months
    year, month = divmod(index, 12)
    return date(year, month + 1, min(day, monthrange(year, month + 1)[1]))


def _local_date(moment: datetime, calendar: Calendar) -> date:
    day = moment.astimezone(ZoneInfo(calendar.time_zone)).date()
    # Clocks that go back over midnight bring a day back that is over: what they show twice is of the one after it.
    following = day + timedelta(days=1)
    return following if moment >= _midnight(following, calendar) else day


def _dates(start: date, end: date, calendar: Calendar, name: str) -> Period:
    return Period(_midnight(start, calendar), _midnight(end, calendar), name)


def _midnight(day: date, calendar: Calendar) -> datetime:
    # Where midnight does not exist (clocks jump over it), fold=0 gives the instant of the jump: days still tile.
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(calendar.time_zone)).astimezone(UTC)
