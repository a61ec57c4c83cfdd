"""Periods tile time: in any zone, for any anchor, without gaps or overlaps."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contracts.limits import Window
from ledger_service.domain.periods import Calendar, Period, period_of
from tests.oracle import window_bounds

#: Clocks that change at midnight, by half an hour, by 45 minutes; a day that did not exist; far east and far west.
ZONES = [
    "UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kathmandu", "Pacific/Apia", "America/New_York",
    "Australia/Lord_Howe", "Pacific/Chatham", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Africa/Cairo", "Asia/Beirut",
    "America/Havana", "Asia/Pyongyang", "America/Nuuk", "Antarctica/Troll",
]  # fmt: skip
WINDOWS = list(Window)
CALENDAR_WINDOWS = [Window.DAY, Window.MONTH, Window.BILLING_PERIOD]
INSTANT = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)

zones = st.sampled_from(ZONES)
anchors = st.dates(date(2000, 1, 1), date(2199, 12, 31))
moments = st.integers(0, 48 * 366 * 86_400).map(lambda seconds: datetime(2011, 12, 1, tzinfo=UTC) + seconds * SECOND)
calendars = st.builds(Calendar, zones, anchors)


@given(st.sampled_from(WINDOWS), moments, calendars)
@example(Window.DAY, datetime(2011, 12, 30, 10, 0, tzinfo=UTC), Calendar("Pacific/Apia"))
@example(Window.DAY, datetime(2018, 11, 4, 3, 0, tzinfo=UTC), Calendar("America/Sao_Paulo"))
@example(Window.DAY, datetime(2018, 2, 18, 2, 30, tzinfo=UTC), Calendar("America/Sao_Paulo"))
@example(Window.BILLING_PERIOD, datetime(2012, 2, 29, 12, tzinfo=UTC), Calendar("UTC", date(2012, 1, 31)))
def test_a_moment_lies_in_its_period_and_the_neighbours_touch(
    window: Window, moment: datetime, calendar: Calendar
) -> None:
    period = period_of(window, moment, calendar)
    assert period.start <= moment < period.end
    assert period_of(window, period.start, calendar) == period
    assert period_of(window, period.end - INSTANT, calendar) == period
    if window is not Window.LIFETIME:
        assert period_of(window, period.end, calendar).start == period.end
        assert period_of(window, period.start - INSTANT, calendar).end == period.start


@given(st.sampled_from(WINDOWS), moments, calendars)
@example(Window.DAY, datetime(2011, 12, 30, 9, 59, tzinfo=UTC), Calendar("Pacific/Apia"))
@example(Window.BILLING_PERIOD, datetime(2011, 12, 29, 12, tzinfo=UTC), Calendar("Pacific/Apia", date(2011, 1, 30)))
@example(Window.BILLING_PERIOD, datetime(2024, 2, 29, 12, tzinfo=UTC), Calendar("Europe/Berlin", date(2020, 2, 29)))
def test_periods_are_those_that_a_walk_over_the_calendar_finds(
    window: Window, moment: datetime, calendar: Calendar
) -> None:
    period = period_of(window, moment, calendar)
    assert (period.start, period.end) == window_bounds(
        window.value, moment, calendar.time_zone, calendar.billing_anchor
    )


@given(st.sampled_from(WINDOWS), moments, calendars, zones)
@example(Window.MINUTE, datetime(2026, 10, 25, 1, 30, 10, tzinfo=UTC), Calendar(), "Europe/Berlin")
def test_the_zone_in_which_a_moment_is_written_changes_nothing(
    window: Window, moment: datetime, calendar: Calendar, zone: str
) -> None:
    assert period_of(window, moment.astimezone(ZoneInfo(zone)), calendar) == period_of(window, moment, calendar)


@given(st.sampled_from(CALENDAR_WINDOWS), calendars, st.integers(2012, 2059))
def test_names_are_unique_within_decades(window: Window, calendar: Calendar, year: int) -> None:
    names: dict[str, Period] = {}
    moment = datetime(year, 1, 1, 12, tzinfo=UTC)
    for _ in range(60):
        period = period_of(window, moment, calendar)
        assert names.setdefault(period.name, period) == period
        moment = period.end
    assert len(names) == 60


def test_midnights_of_every_zone_tile_the_years_ahead() -> None:
    for zone in sorted(available_timezones() - {"localtime", "Factory"}):
        calendar = Calendar(zone, date(2026, 1, 31))
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        while moment < datetime(2028, 1, 1, tzinfo=UTC):
            period = period_of(Window.DAY, moment, calendar)
            assert period.start <= moment < period.end, zone
            assert timedelta(hours=20) <= period.end - period.start <= timedelta(hours=28), zone
            moment = period.end


@pytest.mark.parametrize(
    ("anchor", "moment", "period"),
    [
        (date(2026, 1, 31), "2026-02-15", ("2026-01-31", "2026-02-28")),
        (date(2026, 1, 31), "2026-02-28", ("2026-02-28", "2026-03-31")),
        (date(2026, 1, 31), "2028-02-29", ("2028-02-29", "2028-03-31")),
        (date(2028, 2, 29), "2027-02-28", ("2027-02-28", "2027-03-29")),
        (date(2026, 11, 15), "2026-11-14", ("2026-10-15", "2026-11-15")),
        (date(2026, 11, 15), "2026-12-31", ("2026-12-15", "2027-01-15")),
    ],
)
def test_a_billing_period_begins_on_the_anchors_day_or_the_months_last(
    anchor: date, moment: str, period: tuple[str, str]
) -> None:
    found = period_of(
        Window.BILLING_PERIOD, datetime.fromisoformat(moment).replace(tzinfo=UTC), Calendar("UTC", anchor)
    )
    assert (f"{found.start:%Y-%m-%d}", f"{found.end:%Y-%m-%d}") == period
    assert found.name == "/".join(period)
