"""Analytics: ranges are cut without gaps in any zone; rollups say what the log says; nothing gets lost in groups."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ledger_service.domain.buckets import (
    Interval,
    buckets_count_at_most,
    cut,
    following,
    midnight,
    name_of,
    previous_start,
)
from ledger_service.domain.usage_answers import Answer, Group, answer
from ledger_service.domain.usage_queries import (
    BUCKETS_MAX,
    Measure,
    Source,
    TooMuchError,
    UsageQuery,
    plan,
)
from ledger_service.intake import add_to_batch
from ledger_service.recording import Batch, record
from ledger_service.store.analytics import open_analytics_pool, read_cells
from ledger_service.store.pool import Pool
from tests.builders import completed, failed, to_bytes
from tests.servers import as_service

#: Half hours and quarters, clocks that change at midnight, by half an hour, and one that left out a whole date.
ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe",
    "America/Havana", "America/Sao_Paulo", "Pacific/Apia", "Africa/Casablanca",
    "Asia/Pyongyang",
]  # fmt: skip
moments = st.integers(0, 19 * 365 * 86_400).map(
    lambda second: datetime(2008, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
)
zones = st.sampled_from(ZONES).map(ZoneInfo)
CUTS = [interval for interval in Interval if interval is not Interval.NONE]


@given(start=moments, days=st.floats(0.001, 500), interval=st.sampled_from(CUTS), zone=zones)
@example(datetime(2011, 12, 28, tzinfo=UTC), 5, Interval.DAY, ZoneInfo("Pacific/Apia"))
@example(datetime(2026, 10, 3, tzinfo=UTC), 1, Interval.HOUR, ZoneInfo("Australia/Lord_Howe"))
@example(datetime(2018, 5, 4, 10, tzinfo=UTC), 1, Interval.HOUR, ZoneInfo("Asia/Pyongyang"))
@example(datetime(2018, 11, 3, tzinfo=UTC), 3, Interval.DAY, ZoneInfo("America/Sao_Paulo"))
@settings(max_examples=100)
def test_buckets_have_no_gaps_and_are_what_the_zones_calendar_says(
    start: datetime, days: float, interval: Interval, zone: ZoneInfo
) -> None:
    end = start + timedelta(days=min(days, 5) if interval is Interval.HOUR else days)
    buckets = cut(start, end, interval, zone)
    assert (buckets[0].start, buckets[-1].end) == (start, end)
    assert all(one.end == other.start for one, other in pairwise(buckets))
    assert all(one.start < one.end for one in buckets)
    assert len(buckets) <= buckets_count_at_most(start, end, interval)
    for one, other in pairwise(buckets):
        last = (other.start - timedelta(microseconds=1)).astimezone(zone)
        first = other.start.astimezone(zone)
        match interval:
            case Interval.HOUR:
                assert first.minute == 0 or last.utcoffset() != first.utcoffset()
                assert one.end - one.start <= timedelta(hours=1)
            case Interval.DAY:
                assert last.date() < first.date()
            case Interval.WEEK:
                assert first.isocalendar()[:2] != last.isocalendar()[:2]
            case Interval.MONTH:
                assert (first.year, first.month) != (last.year, last.month)
    for bucket in buckets:
        # Both ends of a bucket are of the same hour, day, week or month: it is nowhere too long.
        inside = bucket.end - timedelta(microseconds=1)
        if interval is not Interval.HOUR:
            assert name_of(inside, interval, zone) == bucket.name


@given(
    first=st.dates(date(2008, 1, 1), date(2026, 1, 1)), months=st.integers(1, 14), days=st.integers(1, 40), zone=zones
)
def test_the_period_before_has_as_many_months_or_days_and_ends_where_the_range_begins(
    first: date, months: int, days: int, zone: ZoneInfo
) -> None:
    begin = first.replace(day=1)
    index = begin.year * 12 + begin.month - 1
    later, earlier = (date(n // 12, n % 12 + 1, 1) for n in (index + months, index - months))
    assert previous_start(midnight(begin, zone), midnight(later, zone), zone) == midnight(earlier, zone)
    until = begin + timedelta(days=days)
    if until.day != 1 and zone.key != "Pacific/Apia":
        back = begin - timedelta(days=days)
        assert previous_start(midnight(begin, zone), midnight(until, zone), zone) == midnight(back, zone)
    start = midnight(begin, zone) + timedelta(minutes=7)
    assert previous_start(start, start + timedelta(hours=5), zone) == start - timedelta(hours=5)


@settings(max_examples=12)
@given(start=moments, years=st.integers(1, 150), interval=st.sampled_from(list(Interval)), zone=zones)
def test_no_plan_has_more_buckets_than_it_may(start: datetime, years: int, interval: Interval, zone: ZoneInfo) -> None:
    query = UsageQuery(start, start + timedelta(days=365 * years), interval, zone)
    try:
        made = plan(query)
    except TooMuchError:
        assert interval in (Interval.HOUR, Interval.DAY)
    else:
        assert len(made.buckets) <= BUCKETS_MAX


def test_a_zone_that_is_no_whole_hours_off_is_answered_by_the_log() -> None:
    day = UsageQuery(
        datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC), Interval.DAY, ZoneInfo("UTC")
    )
    assert plan(day).source is Source.USAGE_DAILY_ALL
    assert plan(replace(day, interval=Interval.HOUR)).source is Source.USAGE_HOURLY_ALL
    assert plan(replace(day, zone=ZoneInfo("Europe/Berlin"))).source is Source.USAGE_DAILY_ALL
    assert plan(replace(day, group_by=("account",))).source is Source.USAGE_HOURLY
    assert plan(replace(day, zone=ZoneInfo("Asia/Kathmandu"))).source is Source.USAGE_LOG
    assert plan(replace(day, group_by=("user",))).source is Source.USAGE_LOG
    assert plan(replace(day, order_by=Measure.DURATION_P50)).source is Source.USAGE_LOG
    assert plan(replace(day, start=day.start + timedelta(minutes=30))).source is Source.USAGE_LOG


@given(start=moments, hours=st.integers(1, 2000), interval=st.sampled_from(list(Interval)), zone=zones)
@example(datetime(2026, 11, 2, tzinfo=UTC), 24, Interval.NONE, ZoneInfo("UTC"))
@example(datetime(2026, 11, 2, 1, tzinfo=UTC), 24, Interval.NONE, ZoneInfo("UTC"))
@example(datetime(2026, 3, 1, tzinfo=UTC), 90 * 24, Interval.WEEK, ZoneInfo("Europe/Berlin"))
@example(datetime(2026, 3, 1, 5, tzinfo=UTC), 90 * 24, Interval.DAY, ZoneInfo("Europe/Berlin"))
@example(datetime(2026, 10, 1, 17, tzinfo=UTC), 60 * 24 + 7, Interval.DAY, ZoneInfo("America/New_York"))
@settings(max_examples=100)
def test_days_and_hours_that_are_read_are_all_hours_once_and_no_day_is_in_two_intervals(
    start: datetime, hours: int, interval: Interval, zone: ZoneInfo
) -> None:
    start = start.replace(minute=0, second=0)
    end = start + timedelta(hours=hours)
    made = plan(UsageQuery(start, end, interval, zone, compare=True))
    if made.source is not Source.USAGE_DAILY_ALL:
        assert not made.moved
        assert not made.broken_days
        assert not made.hours
        return
    buckets, day = [*made.earlier, *made.buckets], timedelta(days=1)
    midnights = [
        midnight(buckets[0].start.date() + n * day, ZoneInfo("UTC")) for n in range((end - buckets[0].start).days + 3)
    ]
    # As the statements choose them.
    begins = buckets[0].start - day + timedelta(hours=1) if made.moved else buckets[0].start
    days = [one for one in midnights if begins <= one < end and one not in made.broken_days]
    assert days

    def place(moment: datetime) -> int:
        [found] = [number for number, bucket in enumerate(buckets) if bucket.start <= moment < bucket.end]
        return found

    read = Counter((hour, place(hour)) for hour in made.hours)
    for one in days:
        if not made.moved:
            assert [bucket for bucket in buckets if bucket.start < one + day and one < bucket.end][1:] == []
        read.update((one + timedelta(hours=hour), place(one + timedelta(hours=12))) for hour in range(24))
    for moved in made.moved:
        read[moved.hour, place(moved.noon)] -= 1
        if moved.to is not None:
            read[moved.hour, place(moved.to)] += 1
    every = [buckets[0].start + timedelta(hours=hour) for hour in range((end - buckets[0].start) // timedelta(hours=1))]
    assert {key: count for key, count in read.items() if count} == {(hour, place(hour)): 1 for hour in every}


# --- rollups beside the log

BEGIN = datetime(2026, 3, 27, tzinfo=UTC)
HOURS = 24 * 5  # the night in which Europe's clocks change is among them


@pytest.fixture
async def reads(database_url: str) -> AsyncIterator[Pool]:
    pool = await open_analytics_pool(as_service(database_url), 60)
    yield pool
    await pool.close()


events = st.lists(
    st.tuples(
        st.integers(0, HOURS * 3600 - 1),
        st.sampled_from(["acme", "apex", "zed"]),
        st.sampled_from(["generate", "edit"]),
        st.sampled_from(["far", "near", "local"]),
        st.sampled_from(["m1", "m2"]),
        st.booleans(),
        st.integers(1, 5),
        st.integers(0, 10**9),
        st.integers(0, 1000),
    ),
    min_size=1,
    max_size=40,
)
queries = st.builds(
    UsageQuery,
    start=st.integers(0, HOURS // 2).map(lambda hour: BEGIN + timedelta(hours=hour)),
    end=st.integers(HOURS // 2 + 1, HOURS).map(lambda hour: BEGIN + timedelta(hours=hour)),
    interval=st.sampled_from(list(Interval)),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]).map(ZoneInfo),
    group_by=st.lists(
        st.sampled_from(["account", "operation", "provider", "model", "outcome"]), unique=True, max_size=4
    ).map(tuple),
    filters=st.fixed_dictionaries(
        {},
        optional={
            "account": st.frozensets(st.sampled_from(["acme", "apex"]), min_size=1),
            "provider": st.frozensets(st.sampled_from(["far", "near", "nobody"]), min_size=1),
            "outcome": st.just(frozenset({"completed"})),
        },
    ),
    order_by=st.sampled_from([Measure.COST, Measure.CALLS, Measure.UNITS, Measure.FAILURES]),
    top=st.none() | st.integers(1, 3),
    compare=st.booleans(),
)


async def answered(pool: Pool, query: UsageQuery, source: Source) -> Answer:
    made = replace(plan(query), source=source)
    async with pool.acquire() as connection, connection.transaction():
        return answer(*await read_cells(connection, made, 30))


@settings(max_examples=12)
@given(happened=events, asked=st.lists(queries, min_size=3, max_size=6))
async def test_what_a_rollup_answers_is_what_the_log_says(
    happened: list[tuple], asked: list[UsageQuery], writing_pool: Pool, reads: Pool
) -> None:
    """More and more is in the log from one example to the next: that changes nothing."""
    batch = Batch()
    for second, account, operation, provider, model, is_failed, quantity, nanos, duration in happened:
        event = (failed if is_failed else completed)(
            time=BEGIN + timedelta(seconds=second), account_id=account, operation=operation, provider=provider,
            model=model, quantity=quantity, cost=f"0.{nanos:09d}"[:11], duration_ms=duration,
        )  # fmt: skip
        add_to_batch(batch, to_bytes(event), "tests", None)
    assert len((await record(writing_pool, batch)).receipts) == len(happened)
    for one in asked:
        query = replace(one, group_by=one.group_by[:4])
        source = plan(query).source
        assert source is not Source.USAGE_LOG
        rolled_up, told = await answered(reads, query, source), await answered(reads, query, Source.USAGE_LOG)
        assert rolled_up == replace(told, plan=rolled_up.plan)
        if source is Source.USAGE_DAILY_ALL:
            by_hours = await answered(reads, query, Source.USAGE_HOURLY_ALL)
            assert by_hours == replace(told, plan=by_hours.plan)
        await _agrees_with_the_rows(reads, query, rolled_up)


async def _agrees_with_the_rows(pool: Pool, query: UsageQuery, found: Answer) -> None:
    """An oracle of its own: every row of the usage log, added up in Python."""
    rows = await pool.fetch(
        """
        select account_id as account, occurred_at, operation, provider, model, outcome, quantity, cost_nanos
        from usage_log
        """
    )
    expected, total, by_group = Counter[tuple[str, Group, int]](), [0] * 4, Counter[Group]()
    for logged in rows:
        if not query.start <= logged["occurred_at"] < query.end:
            continue
        if any(logged[name] not in values for name, values in query.filters.items()):
            continue
        done = logged["outcome"] == "completed"
        sums = (int(done), logged["quantity"] if done else 0, logged["cost_nanos"], int(not done))
        group = tuple(logged[name] for name in query.group_by)
        for place, amount in enumerate(sums):
            expected[name_of(logged["occurred_at"], query.interval, query.zone), group, place] += amount
            total[place] += amount
        by_group[group] += sums[("calls", "units", "cost", "failures").index(query.order_by.value)]
    assert found.totals.sums == tuple(total)
    columns = zip(*(row.amounts.sums for row in found.rows), strict=True)
    assert tuple(sum(column) for column in columns) in (found.totals.sums, ())
    if query.top is None:
        shown = Counter[tuple[str, Group, int]]()
        for row in found.rows:
            for place, amount in enumerate(row.amounts.sums):
                shown[row.bucket.name, row.group, place] += amount
        assert +shown == +expected
    else:
        groups = {row.group for row in found.rows} - {None}
        assert len(groups) <= query.top
        least = min((by_group[group] for group in groups), default=0)
        assert all(amount <= least for group, amount in by_group.items() if group not in groups)


def test_following_leaves_out_no_moment() -> None:
    zone = ZoneInfo("Pacific/Apia")
    moment = datetime(2011, 12, 30, 9, tzinfo=UTC)
    assert following(moment, Interval.DAY, zone) == datetime(2011, 12, 30, 10, tzinfo=UTC)
    assert name_of(following(moment, Interval.DAY, zone), Interval.DAY, zone) == "2011-12-31"
