"""Credit grants, folded over stretches of time, say what a walk over single operations says."""

from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from contracts.limits import Limit, Meter, Window
from ledger_service.domain.counters import Balance, CounterKey, counted_by
from ledger_service.domain.credits import CreditLine, Grant, GrantState, credit_line
from ledger_service.domain.periods import BEGINNING, END_OF_TIME, Calendar
from tests.oracle import window_bounds

START = datetime(2026, 1, 20, tzinfo=UTC)
DAYS = 75
LAST = START + timedelta(days=DAYS)


@dataclass(frozen=True)
class Use:
    """One operation: when it was admitted, how much it counts, and whether it is still held."""

    at: datetime
    amount: int
    held: bool


@dataclass
class Walk:
    """One operation after the other, and one grant's change after the other, in the order of time."""

    base: int
    grants: tuple[Grant, ...]
    calendar: Calendar
    left: dict[str, int] = field(default_factory=dict)
    issued: dict[str, int] = field(default_factory=dict)
    lapsed: dict[str, int] = field(default_factory=dict)
    base_left: int = 0
    debt: int = 0

    def __post_init__(self) -> None:
        self.renewals = {grant.grant_id: self.renewals_of(grant) for grant in self.grants}

    def run(self, uses: list[Use], now: datetime) -> None:
        self.base_left = self.base
        first = min((grant.valid_from for grant in self.grants), default=END_OF_TIME)
        moments = {use.at for use in uses}
        for grant in self.grants:
            moments |= {grant.valid_from, grant.ends_at, *self.renewals[grant.grant_id]}
        for moment in sorted(moments):
            if moment <= now:
                self.change(moment)
                for use in uses:
                    if use.at == moment:
                        self.use(use, is_owed=now < first or moment >= first)

    def renewals_of(self, grant: Grant) -> list[datetime]:
        """Until well after the last moment of a test."""
        found: list[datetime] = []
        moment = grant.valid_from
        while grant.renews and moment < LAST + timedelta(days=70):
            zone, anchor = self.calendar.time_zone, self.calendar.billing_anchor
            moment = window_bounds(grant.renews.value, moment, zone, anchor)[1]
            if moment < grant.ends_at:
                found.append(moment)
        return found

    def change(self, moment: datetime) -> None:
        for grant in self.grants:
            name = grant.grant_id
            if moment == grant.ends_at:
                self.lapsed[name] = self.lapsed.get(name, 0) + self.left.pop(name, 0)
            elif moment in self.renewals[name]:
                kept = min(self.left[name], grant.rollover_maximum)
                self.lapsed[name] = self.lapsed.get(name, 0) + self.left[name] - kept
                self.left[name] = kept + grant.amount
                self.issued[name] += grant.amount
            elif moment == grant.valid_from:
                self.left[name] = self.issued[name] = grant.amount
        for name in self.order(moment):
            paid = min(self.left[name], self.debt)
            self.left[name] -= paid
            self.debt -= paid

    def order(self, moment: datetime) -> list[str]:
        def lapses_at(grant: Grant) -> datetime:
            return min((after for after in self.renewals[grant.grant_id] if after > moment), default=grant.expires_at)

        active = [grant for grant in self.grants if grant.grant_id in self.left]
        active.sort(key=lambda grant: (grant.priority, lapses_at(grant), grant.valid_from, grant.grant_id))
        return [grant.grant_id for grant in active]

    def use(self, use: Use, is_owed: bool) -> None:
        for _ in range(use.amount):
            name = next((name for name in self.order(use.at) if self.left[name]), None)
            if name is not None:
                self.left[name] -= 1
            elif self.base_left:
                self.base_left -= 1
            elif is_owed:
                self.debt += 1

    @property
    def available(self) -> int:
        return sum(self.left.values()) + self.base_left - self.debt

    @property
    def maximum(self) -> int:
        return self.base + sum(self.issued.values()) - sum(self.lapsed.values())

    def states(self) -> dict[str, GrantState]:
        states = {}
        for name in (grant.grant_id for grant in self.grants):
            issued, lapsed, left = self.issued.get(name, 0), self.lapsed.get(name, 0), self.left.get(name, 0)
            states[name] = GrantState(issued, issued - lapsed - left, left, lapsed)
        return states


def limit_of(base: int) -> Limit:
    return Limit(limit_id="credit", meter=Meter.CALLS, window=Window.LIFETIME, maximum=base, credit=True)


def line_of(base: int, grants: tuple[Grant, ...], calendar: Calendar, now: datetime) -> CreditLine:
    limit = limit_of(base)
    return credit_line(limit, counted_by(limit), "acme", grants, calendar, now)


def counters(line: CreditLine, uses: list[Use]) -> dict[CounterKey, Balance]:
    """Each counter as the ledger would have it: what was used in its half-open stretch."""
    balances = {}
    for key in line.keys:
        inside = [use for use in uses if key.period_start <= use.at < key.period_end]
        held = sum(use.amount for use in inside if use.held)
        balances[key] = Balance(sum(use.amount for use in inside) - held, held)
    return balances


def grant_of(grant_id: str, valid_from: datetime, **fields: object) -> Grant:
    some = Grant(grant_id, "credit", Meter.CALLS, 3, 100, valid_from, END_OF_TIME, END_OF_TIME, None, 0, 1)
    grant = replace(some, **fields)  # type: ignore[arg-type]  # a test names the fields that it is about
    return replace(grant, ends_at=min(grant.ends_at, grant.expires_at))


# Few moments and small amounts, so that beginnings, ends, renewals and operations coincide, and credit runs out. Months
# begin on days 12 and 40, billing periods of the 31st on days 11 and 39.
moments = st.sampled_from([START + timedelta(days=day) for day in (0, 5, 11, 12, 20, 39, 40, DAYS)])
calendars = st.builds(
    Calendar, st.sampled_from(["UTC", "Europe/Berlin"]), st.sampled_from([date(2020, 1, 31), date(2020, 1, 1)])
)
uses = st.lists(st.builds(Use, moments, st.integers(1, 6), st.booleans()), max_size=8)
nows = st.one_of(st.just(LAST), moments)
often = settings(max_examples=400)


@st.composite
def grants(draw: st.DrawFn) -> tuple[Grant, ...]:
    found = []
    for number in range(draw(st.integers(0, 5))):
        begin = draw(moments)
        later = st.sampled_from([END_OF_TIME, END_OF_TIME, *(begin + timedelta(days=days) for days in (7, 20, 28))])
        found.append(
            grant_of(
                f"grant-{number}",
                begin,
                amount=draw(st.integers(1, 6)),
                priority=draw(st.sampled_from([100, 100, 5, 200])),
                expires_at=draw(later),
                ends_at=draw(st.one_of(st.just(END_OF_TIME), later)),
                renews=draw(st.sampled_from([None, None, None, Window.MONTH, Window.BILLING_PERIOD])),
                rollover_maximum=draw(st.sampled_from([0, 2, 100])),
            )
        )
    return tuple(found)


@often
@given(st.sampled_from([0, 0, 4]), grants(), calendars, uses, nows)
@example(
    0,
    (grant_of("new", START + timedelta(days=20)), grant_of("old", START + timedelta(days=5), priority=5)),
    Calendar(),
    [Use(START, 9, False), Use(START + timedelta(days=5), 5, True)],
    LAST,
)
def test_the_fold_over_stretches_is_the_walk_over_operations(
    base: int, granted: tuple[Grant, ...], calendar: Calendar, used: list[Use], now: datetime
) -> None:
    used = [use for use in used if use.at <= now]
    walk = Walk(base, granted, calendar)
    walk.run(used, now)
    line = line_of(base, granted, calendar, now)
    balances = counters(line, used)
    maximum, settled, held = line.standing(balances, base)
    assert maximum - settled - held == walk.available
    assert maximum == walk.maximum
    assert line.grant_states(balances, base) == walk.states()


@given(st.sampled_from([0, 4]), grants(), calendars, moments)
def test_the_stretches_tile_time_up_to_one_in_which_now_lies(
    base: int, granted: tuple[Grant, ...], calendar: Calendar, now: datetime
) -> None:
    keys = line_of(base, granted, calendar, now).keys
    assert all(before.period_end == after.period_start for before, after in pairwise(keys))
    assert keys[-1].period_start <= now < keys[-1].period_end
    first = min((grant.valid_from for grant in granted), default=END_OF_TIME)
    assert keys[0].period_start == (first if base == 0 and first <= now else BEGINNING)


@given(grants(), calendars, uses, st.permutations(range(8)), nows)
def test_neither_the_order_of_grants_nor_that_of_operations_matters(
    granted: tuple[Grant, ...], calendar: Calendar, used: list[Use], order: list[int], now: datetime
) -> None:
    line = line_of(0, granted, calendar, now)
    other = line_of(0, tuple(granted[at] for at in order if at < len(granted)), calendar, now)
    assert sorted(line.keys) == sorted(other.keys)
    balances = counters(line, used)
    assert line.standing(balances, 0) == other.standing(balances, 0)
    assert line.grant_states(balances, 0) == other.grant_states(balances, 0)


@given(grants(), calendars, uses, nows)
def test_whoever_takes_exactly_what_is_available_has_nothing_left(
    granted: tuple[Grant, ...], calendar: Calendar, used: list[Use], now: datetime
) -> None:
    used = [use for use in used if use.at <= now]
    line = line_of(0, granted, calendar, now)
    maximum, settled, held = line.standing(counters(line, used), 0)
    available = maximum - settled - held
    assume(available > 0)
    used.append(Use(now, available, True))
    states = line.grant_states(counters(line, used), 0)
    assert sum(state.remaining for state in states.values()) == 0
    assert line.standing(counters(line, used), 0) == (maximum, settled, held + available)


@given(st.lists(moments, min_size=1, max_size=30), st.integers(0, 3))
def test_grants_that_last_cost_one_counter_together(begins: list[datetime], soon: int) -> None:
    granted = tuple(grant_of(f"top-up-{number}", begin) for number, begin in enumerate(begins))
    assert len(line_of(0, granted, Calendar(), LAST).keys) == 1
    ending = tuple(
        grant_of(f"gift-{number}", START + timedelta(days=number), expires_at=LAST) for number in range(soon)
    )
    assert len(line_of(0, granted + ending, Calendar(), LAST - timedelta(days=1)).keys) <= 1 + soon
