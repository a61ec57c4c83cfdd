"""Windows as periods: they tile time without gaps, whatever the calendar and the clocks do."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.limits import Window
from ledger_service.domain.periods import BEGINNING, END_OF_TIME, Calendar, period_of

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "America/Havana",
    "Africa/Cairo",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
]
#: Clocks as they are kept now. Until 2011 some jumped back over midnight, which gave one date two stretches of time.
FIRST = datetime(2012, 1, 1, tzinfo=UTC)
LAST = datetime(2199, 12, 31, tzinfo=UTC)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def billing(anchor: str, moment: str, zone: str = "UTC") -> str:
    return period_of(Window.BILLING_PERIOD, utc(moment), Calendar(zone, date.fromisoformat(anchor))).name


# --- names and bounds


@pytest.mark.parametrize(
    ("window", "start", "end", "name"),
    [
        (Window.MINUTE, "2026-11-22T10:15", "2026-11-22T10:16", "2026-11-22T10:15Z"),
        (Window.HOUR, "2026-11-22T10:00", "2026-11-22T11:00", "2026-11-22T10Z"),
        (Window.DAY, "2026-11-22", "2026-11-23", "2026-11-22"),
        (Window.MONTH, "2026-11-01", "2026-12-01", "2026-11"),
        (Window.BILLING_PERIOD, "2026-11-15", "2026-12-15", "2026-11-15/2026-12-15"),
    ],
)
def test_period_around_a_moment(window: Window, start: str, end: str, name: str) -> None:
    period = period_of(window, utc("2026-11-22T10:15:30.5"), Calendar("UTC", date(2026, 11, 15)))
    assert (period.start, period.end, period.name) == (utc(start), utc(end), name)


def test_lifetime_has_neither_beginning_nor_end() -> None:
    period = period_of(Window.LIFETIME, utc("2026-11-22"), Calendar("Asia/Tokyo"))
    assert (period.start, period.end, period.name) == (BEGINNING, END_OF_TIME, "lifetime")


@pytest.mark.parametrize("window", [Window.MINUTE, Window.HOUR, Window.DAY, Window.MONTH])
def test_period_holds_its_start_and_not_its_end(window: Window) -> None:
    period = period_of(window, utc("2026-11-22T10:15:30"), Calendar())
    assert period_of(window, period.start, Calendar()) == period
    assert period_of(window, period.end - timedelta(microseconds=1), Calendar()) == period
    assert period_of(window, period.end, Calendar()).start == period.end


def test_december_is_followed_by_january() -> None:
    assert period_of(Window.MONTH, utc("2026-12-31T23:59:59"), Calendar()).end == utc("2027-01-01")


@pytest.mark.parametrize(
    ("at", "zone"),
    [
        ("2026-11-30T23:30", "Asia/Tokyo"),
        ("2026-10-25T00:30", "Europe/Berlin"),
        ("2026-10-25T01:30", "Europe/Berlin"),  # the second half past two of that night
    ],
)
def test_zone_of_the_moment_does_not_matter(at: str, zone: str) -> None:
    moment = utc(at)
    there = moment.astimezone(ZoneInfo(zone))
    for window in Window:
        period = period_of(window, there, Calendar())
        assert period == period_of(window, moment, Calendar())
        assert period.start.tzinfo is UTC
        assert period.end.tzinfo is UTC


# --- billing anchors


@pytest.mark.parametrize(
    ("anchor", "moment", "name"),
    [
        ("2026-01-31", "2026-01-31", "2026-01-31/2026-02-28"),
        ("2026-01-31", "2026-02-27T23:59:59", "2026-01-31/2026-02-28"),
        ("2026-01-31", "2026-02-28", "2026-02-28/2026-03-31"),
        ("2026-01-31", "2026-03-30T23:59:59", "2026-02-28/2026-03-31"),
        ("2026-01-31", "2026-03-31", "2026-03-31/2026-04-30"),
        ("2026-01-31", "2026-04-30", "2026-04-30/2026-05-31"),
        ("2026-01-31", "2026-12-31", "2026-12-31/2027-01-31"),
        ("2026-01-30", "2026-02-28", "2026-02-28/2026-03-30"),
        ("2026-01-30", "2026-03-29", "2026-02-28/2026-03-30"),
        ("2026-01-30", "2026-03-30", "2026-03-30/2026-04-30"),
        ("2026-01-29", "2026-02-28", "2026-02-28/2026-03-29"),
        ("2026-01-31", "2028-02-28", "2028-01-31/2028-02-29"),
        ("2026-01-31", "2028-02-29", "2028-02-29/2028-03-31"),
        ("2026-01-30", "2028-02-29", "2028-02-29/2028-03-30"),
        ("2026-01-29", "2028-02-28", "2028-01-29/2028-02-29"),
        ("2026-01-29", "2028-02-29", "2028-02-29/2028-03-29"),
        ("2028-02-29", "2027-02-28", "2027-02-28/2027-03-29"),
        ("2028-02-29", "2029-02-28", "2029-02-28/2029-03-29"),
        ("2028-02-29", "2029-03-28", "2029-02-28/2029-03-29"),
        ("2000-01-31", "2100-02-28", "2100-02-28/2100-03-31"),
        ("2026-11-01", "2026-11-01", "2026-11-01/2026-12-01"),
        ("2026-11-15", "2026-11-14T23:59:59", "2026-10-15/2026-11-15"),
        ("2026-11-15", "2026-01-01", "2025-12-15/2026-01-15"),
        ("2030-06-28", "2026-02-28", "2026-02-28/2026-03-28"),
    ],
)
def test_billing_period_begins_on_the_anchors_day_or_the_months_last(anchor: str, moment: str, name: str) -> None:
    assert billing(anchor, moment) == name


def test_short_month_does_not_shift_the_months_after_it() -> None:
    starts = []
    moment = utc("2026-01-31")
    for _ in range(14):
        period = period_of(Window.BILLING_PERIOD, moment, Calendar("UTC", date(2026, 1, 31)))
        starts.append(period.start.day)
        moment = period.end
    assert starts == [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31, 28]


def test_billing_period_begins_at_midnight_where_the_account_is() -> None:
    assert billing("2026-11-15", "2026-11-14T14:59:59", "Asia/Tokyo") == "2026-10-15/2026-11-15"
    assert billing("2026-11-15", "2026-11-14T15:00:00", "Asia/Tokyo") == "2026-11-15/2026-12-15"


# --- time zones


@pytest.mark.parametrize(
    ("zone", "moment", "start", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00", "2026-03-28T23:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00", "2026-10-24T22:00", 25),
        ("America/New_York", "2026-03-08T12:00", "2026-03-08T05:00", 23),
        ("America/New_York", "2026-11-01T12:00", "2026-11-01T04:00", 25),
        ("Asia/Kathmandu", "2026-11-22T12:00", "2026-11-21T18:15", 24),
        ("Pacific/Kiritimati", "2026-11-22T12:00", "2026-11-22T10:00", 24),
        ("Australia/Lord_Howe", "2026-04-04T16:00", "2026-04-04T13:00", 24.5),
    ],
)
def test_day_is_as_long_as_it_is_where_the_account_is(zone: str, moment: str, start: str, hours: float) -> None:
    period = period_of(Window.DAY, utc(moment), Calendar(zone))
    assert period.start == utc(start)
    assert period.end - period.start == timedelta(hours=hours)


@pytest.mark.parametrize(
    ("zone", "day", "jump"),
    [
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00"),
        ("Africa/Cairo", "2024-04-26", "2024-04-25T22:00"),
        ("America/Havana", "2024-03-10", "2024-03-10T05:00"),
        ("Asia/Beirut", "2024-03-31", "2024-03-30T22:00"),
    ],
)
def test_day_whose_midnight_does_not_exist_begins_when_the_clocks_jump(zone: str, day: str, jump: str) -> None:
    before = period_of(Window.DAY, utc(jump) - timedelta(microseconds=1), Calendar(zone))
    after = period_of(Window.DAY, utc(jump), Calendar(zone))
    assert after.name == day
    assert before.end == after.start == utc(jump)
    assert after.end - after.start == timedelta(hours=23)


def test_day_whose_midnight_comes_twice_begins_with_the_first() -> None:
    period = period_of(Window.DAY, utc("2024-11-03T12:00"), Calendar("America/Havana"))
    assert period.start == utc("2024-11-03T04:00")
    assert period.end - period.start == timedelta(hours=25)
    assert period_of(Window.DAY, utc("2024-11-03T05:30"), Calendar("America/Havana")) == period


def test_day_that_a_country_skipped_leaves_no_gap() -> None:
    before = period_of(Window.DAY, utc("2011-12-30T09:59:59"), Calendar("Pacific/Apia"))
    after = period_of(Window.DAY, utc("2011-12-30T10:00:00"), Calendar("Pacific/Apia"))
    assert (before.name, after.name) == ("2011-12-29", "2011-12-31")
    assert before.end == after.start


def test_month_begins_at_midnight_where_the_account_is() -> None:
    assert period_of(Window.MONTH, utc("2026-12-31T23:30"), Calendar("Europe/Berlin")).name == "2027-01"
    assert period_of(Window.MONTH, utc("2027-01-01T04:59:59"), Calendar("America/New_York")).name == "2026-12"
    assert period_of(Window.MONTH, utc("2027-01-01T05:00:00"), Calendar("America/New_York")).name == "2027-01"


@pytest.mark.parametrize("window", [Window.MINUTE, Window.HOUR])
def test_minutes_and_hours_have_their_full_length_when_clocks_change(window: Window) -> None:
    twice = [utc("2026-10-25T00:30"), utc("2026-10-25T01:30")]  # both are half past two in Berlin
    first, second = (period_of(window, moment, Calendar("Europe/Berlin")) for moment in twice)
    assert first.name != second.name
    assert first.end - first.start == second.end - second.start


# --- for any moment


@settings(max_examples=500)
@given(
    window=st.sampled_from(list(Window)),
    moment=st.datetimes(FIRST.replace(tzinfo=None), LAST.replace(tzinfo=None), timezones=st.just(UTC)),
    zone=st.sampled_from(ZONES),
    anchor=st.dates(date(2000, 1, 1), date(2199, 12, 31)),
)
def test_periods_tile_time(window: Window, moment: datetime, zone: str, anchor: date) -> None:
    calendar = Calendar(zone, anchor)
    period = period_of(window, moment, calendar)
    assert period.start <= moment < period.end
    assert period_of(window, period.start, calendar) == period
    assert period_of(window, period.end - timedelta(microseconds=1), calendar) == period
    if window is not Window.LIFETIME:
        following = period_of(window, period.end, calendar)
        assert following.start == period.end
        assert following.name != period.name


@settings(max_examples=500)
@given(st.dates(date(2000, 1, 1), date(2199, 12, 31)), st.dates(date(2012, 1, 1), date(2199, 12, 31)))
def test_a_year_has_twelve_billing_periods(anchor: date, day: date) -> None:
    calendar = Calendar("UTC", anchor)
    first = period_of(Window.BILLING_PERIOD, datetime(day.year, day.month, day.day, tzinfo=UTC), calendar)
    moment = first.start
    for _ in range(12):
        period = period_of(Window.BILLING_PERIOD, moment, calendar)
        assert timedelta(days=28) <= period.end - period.start <= timedelta(days=31)
        moment = period.end
    assert moment.year == first.start.year + 1
    assert moment.month == first.start.month


@pytest.mark.parametrize("zone", ["America/St_Johns", "America/Goose_Bay", "America/Moncton", "Antarctica/Casey"])
@pytest.mark.parametrize("window", [Window.DAY, Window.MONTH, Window.BILLING_PERIOD])
def test_clocks_that_go_back_over_midnight_do_not_bring_the_day_before_back(zone: str, window: Window) -> None:
    """In Newfoundland it was 0:01, and then 23:01 of the day before: until 2011, and wherever somebody decides so."""
    local, half = ZoneInfo(zone), timedelta(minutes=30)
    moments = [datetime(2000, 1, 1, tzinfo=UTC) + number * half for number in range(11 * 366 * 48)]
    back = [one for one in moments if one.astimezone(local).date() < (one - half).astimezone(local).date()]
    assert back
    for moment in (one + number * half for one in back for number in range(-4, 9)):
        calendar = Calendar(zone, moment.astimezone(local).date())
        period = period_of(window, moment, calendar)
        assert period.start <= moment < period.end
        assert period_of(window, period.end, calendar).start == period.end
        assert period_of(window, period.start, calendar) == period
