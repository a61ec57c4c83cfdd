"""A range as months and hours: together they are all of its hours, once."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta

from hypothesis import example, given
from hypothesis import strategies as st

from ledger_service.domain.buckets import add_months
from ledger_service.domain.usage_months import months_of

HOUR = timedelta(hours=1)
BEGIN = datetime(2023, 11, 1, tzinfo=UTC)  # a leap day is among what follows
hours = st.integers(0, 24 * 366)


def hours_between(start: datetime, end: datetime) -> Counter[datetime]:
    return Counter(start + number * HOUR for number in range((end - start) // HOUR))


def hours_of_month(first: date) -> Counter[datetime]:
    later = add_months(first, 1)
    return hours_between(*(datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (first, later)))


@given(start=hours, length=st.integers(1, 24 * 120), asked_after=hours)
@example(start=0, length=30 * 24, asked_after=0)
@example(start=0, length=12 * 24, asked_after=12 * 24 - 5)
def test_months_and_hours_are_all_hours_of_the_range_once(start: int, length: int, asked_after: int) -> None:
    begin, asked_at = BEGIN + start * HOUR, BEGIN + asked_after * HOUR
    end = begin + length * HOUR
    found = months_of(begin, end, asked_at)

    have = Counter[datetime]()
    for month in found.months:
        have.update(hours_of_month(month))
    for some in found.hours:
        for hour, count in hours_between(some.start, some.end).items():
            have[hour] += some.sign * count
    assert {hour: count for hour, count in have.items() if count} == hours_between(begin, end)
    read = [hour for some in found.hours for hour in hours_between(some.start, some.end) if hour + HOUR <= asked_at]
    assert found.hours_count == len(read) <= length


def test_a_month_that_is_not_over_is_its_month() -> None:
    first, tomorrow = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 4, tzinfo=UTC)
    found = months_of(first, tomorrow, tomorrow - 7 * HOUR)
    assert (found.months, found.hours_count) == ([date(2026, 11, 1)], 0)
