"""Credit grants, folded purely: what is there at a moment, given what was used in which stretch of time.

Grants cut time into half-open stretches: at their beginnings, their ends and their renewals. What is settled and held
in a stretch is an ordinary counter, so a late settlement changes the stretch in which its hold was placed, and the fold
over all stretches says what that means for today:

* At a stretch's start, what is left of grants that end there lapses; grants that renew there keep at most their
  rollover maximum, and get their amount anew; grants that begin get theirs.
* What is used burns the active grants, in the order of (priority, when it would lapse, beginning, id), then the limit's
  own maximum, and then becomes debt. Whatever grants come later pay debt first, in the same order.
* Use before the first grant's beginning counts against the limit's own maximum alone, and is never debt: whoever buys a
  first credit does not owe what was used before there was any.
"""

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import accumulate
from typing import Final, NamedTuple

from contracts.limits import Limit, Meter, Window
from ledger_service.domain.counters import ACCOUNT_SCOPE_KEY, Balance, Counted, CounterKey
from ledger_service.domain.periods import BEGINNING, END_OF_TIME, Calendar, period_of

#: How many counters a check of one credit limit may have to look at, through all the years that a grant renews.
STRETCHES_MAX: Final = 500
_RENEWAL_MONTHS: Final = 120


# Equal to itself alone: tuples of grants are looked up on every check, and kept as long as they are true.
@dataclass(frozen=True, slots=True, eq=False)
class Grant:
    """One grant on one limit, as the core counts it. See contracts.credits.CreditGrant.

    It is active from ``valid_from`` until ``ends_at``. ``expires_at`` gives its place in the order; the two differ for
    a grant that was ended before its time, which leaves all that was used before as it was.
    """

    grant_id: str
    limit_id: str
    meter: Meter
    amount: int
    priority: int
    valid_from: datetime
    expires_at: datetime
    ends_at: datetime
    renews: Window | None
    rollover_maximum: int
    version: int


class GrantState(NamedTuple):
    """What a grant has given and has left: ``issued`` = ``used`` + ``remaining`` + ``lapsed``."""

    issued: int
    used: int
    remaining: int
    lapsed: int


class _Stretch(NamedTuple):
    """Time without a change; grants by their index. ``order``: those active, in the order in which they are burnt."""

    start: datetime
    end: datetime
    ending: tuple[int, ...]
    renewing: tuple[int, ...]
    beginning: tuple[int, ...]
    order: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """Grants that last for ever and are burnt after all others, each after those that began earlier.

    Only their sum matters to anything else, so their beginnings cut no time: a thousand top-ups cost one counter.
    """

    grants: tuple[Grant, ...]
    begin: tuple[datetime, ...]
    sums: tuple[int, ...]

    def before(self, moment: datetime) -> int:
        return self.sums[bisect_left(self.begin, moment)]

    def until(self, moment: datetime) -> int:
        return self.sums[bisect_right(self.begin, moment)]


@dataclass(frozen=True, slots=True, eq=False)
class _Timeline:
    """The stretches of one limit's grants. ``before_first``: the first stretch is the time before all grants."""

    grants: tuple[Grant, ...]
    pool: _Pool
    stretches: tuple[_Stretch, ...]
    starts: tuple[datetime, ...]
    before_first: bool


class _Position(NamedTuple):
    """Where the fold is at the start of a stretch. ``reserve``: what is left of the limit's own maximum, less what the
    pool gave and less debt."""

    left: tuple[int, ...]
    issued: tuple[int, ...]
    lapsed: tuple[int, ...]
    reserve: int


@dataclass(frozen=True, slots=True)
class CreditLine:
    """A credit limit's grants and the counters of the stretches between their changes, the current stretch last."""

    keys: tuple[CounterKey, ...]
    moment: datetime
    _timeline: _Timeline
    _current: int
    #: Stretches without a key, at the beginning.
    _skipped: int

    def standing(self, balances: Mapping[CounterKey, Balance], base: int) -> tuple[int, int, int]:
        """Maximum, settled and held; ``base`` is the limit's own maximum.

        The maximum is ``base`` and all that was granted so far, less what lapsed, so that maximum - settled - held is
        what can be used now: below 0 where there is debt. Use before the first grant is in settled and held as far as
        ``base`` covered it.
        """
        settled = sum(balances[key].settled for key in self.keys)
        held = sum(balances[key].held for key in self.keys)
        position = self._position(balances, base)
        maximum = base + sum(position.issued) + self._timeline.pool.until(self.moment) - sum(position.lapsed)
        if self._timeline.before_first and self._current > 0 and not self._skipped:
            forgiven = max(balances[self.keys[0]].used - base, 0)
            settled_forgiven = min(forgiven, balances[self.keys[0]].settled)
            settled, held = settled - settled_forgiven, held - (forgiven - settled_forgiven)
        return maximum, settled, held

    def grant_states(self, balances: Mapping[CounterKey, Balance], base: int) -> dict[str, GrantState]:
        """How each grant stands, by grant_id. One that has not begun has issued nothing."""
        timeline = self._timeline
        position = self._position(balances, base)
        left = list(position.left)
        used = balances[self.keys[-1]].used
        reserve = _burn(left, timeline.stretches[self._current].order, used, position.reserve)
        states = {
            grant.grant_id: GrantState(issued, issued - remaining - lapsed, remaining, lapsed)
            for grant, issued, remaining, lapsed in zip(
                timeline.grants, position.issued, left, position.lapsed, strict=True
            )
        }
        given = max(-reserve, 0)
        for grant in timeline.pool.grants:
            issued = grant.amount if grant.valid_from <= self.moment else 0
            used = min(issued, given)
            given -= used
            states[grant.grant_id] = GrantState(issued, used, issued - used, 0)
        return states

    def _position(self, balances: Mapping[CounterKey, Balance], base: int) -> _Position:
        used = tuple([balances[key].used for key in self.keys[:-1]])
        return _fold(self._timeline, base, (0,) * self._skipped + used, self._current)


def credit_line(
    limit: Limit, counted: Counted, account_id: str, grants: tuple[Grant, ...], calendar: Calendar, now: datetime
) -> CreditLine:
    """The credit line of a limit at a moment, from all grants of an account."""
    without_base = limit.maximum_amount == 0
    timeline = _timeline(limit.limit_id, limit.meter, without_base, grants, calendar, _horizon(now))
    current = bisect_right(timeline.starts, now) - 1
    # What was used before the first grant matters only to a maximum of the limit's own.
    skipped = int(without_base and timeline.before_first and current > 0)
    return CreditLine(
        _keys(timeline, skipped, current, account_id, counted.counter_id), now, timeline, current, skipped
    )


def stretches_needed(limit: Limit, grants: tuple[Grant, ...], calendar: Calendar, now: datetime) -> int:
    """How many stretches the grants of a limit come to within the next ten years."""
    horizon = _horizon(now, _RENEWAL_MONTHS)
    timeline = _timeline(limit.limit_id, limit.meter, limit.maximum_amount == 0, grants, calendar, horizon)
    return len(timeline.stretches)


def granted_at_most(limit: Limit, grants: Iterable[Grant], calendar: Calendar, now: datetime) -> int:
    """What the grants of a limit come to within the next ten years, if nothing of it lapses."""
    horizon = _horizon(now, _RENEWAL_MONTHS)
    return sum(
        grant.amount * (1 + len(_renewals(grant, calendar, horizon)))
        for grant in grants
        if (grant.limit_id, grant.meter) == (limit.limit_id, limit.meter)
    )


def _horizon(now: datetime, months: int = 3) -> datetime:
    """Renewals are worked out until then: well past the next one, which is at most the end of the next month; and the
    same for a whole month, so that what is worked out can be kept."""
    year, month = divmod(now.year * 12 + now.month - 1 + months, 12)
    return datetime(year, month + 1, 1, tzinfo=UTC)


@lru_cache(maxsize=4096)
def _keys(timeline: _Timeline, skipped: int, current: int, account_id: str, counter_id: str) -> tuple[CounterKey, ...]:
    return tuple(
        CounterKey(account_id, ACCOUNT_SCOPE_KEY, stretch.end, stretch.start, counter_id)
        for stretch in timeline.stretches[skipped : current + 1]
    )


# --- time, cut into stretches


@lru_cache(maxsize=4096)
def _timeline(
    limit_id: str, meter: Meter, without_base: bool, grants: tuple[Grant, ...], calendar: Calendar, horizon: datetime
) -> _Timeline:
    mine = [
        grant
        for grant in grants
        if (grant.limit_id, grant.meter) == (limit_id, meter) and grant.valid_from < grant.ends_at
    ]
    if not mine:
        return _Timeline((), _pool([]), (_Stretch(BEGINNING, END_OF_TIME, (), (), (), ()),), (BEGINNING,), True)
    cutting, pooled = _divide(sorted(mine, key=_place)) if without_base else (mine, [])
    first = min(grant.valid_from for grant in mine)
    renewals = [_renewals(grant, calendar, horizon) for grant in cutting]
    cuts = {first}
    for grant, moments in zip(cutting, renewals, strict=True):
        cuts.update((grant.valid_from, grant.ends_at), moments)
    starts = sorted({BEGINNING, *cuts} - {END_OF_TIME})
    return _Timeline(
        tuple(cutting),
        _pool(pooled),
        tuple(_stretches(starts, cutting, renewals, calendar)),
        tuple(starts),
        starts[0] < first,
    )


def _divide(grants: Sequence[Grant]) -> tuple[list[Grant], list[Grant]]:
    """Those that cut time, and those of the pool: the longest end of the order (see _Pool) that may be one."""
    at = len(grants)
    while at and _lasts(grants[at - 1]) and (at == len(grants) or grants[at - 1].valid_from <= grants[at].valid_from):
        at -= 1
    return list(grants[:at]), list(grants[at:])


def _lasts(grant: Grant) -> bool:
    return grant.renews is None and grant.ends_at == END_OF_TIME


def _pool(grants: Sequence[Grant]) -> _Pool:
    sums = accumulate((grant.amount for grant in grants), initial=0)
    return _Pool(tuple(grants), tuple(grant.valid_from for grant in grants), tuple(sums))


def _place(grant: Grant) -> tuple[int, datetime, datetime, str]:
    """The order in which grants are burnt, as far as it is the same at all times."""
    # One that renews would lapse at its period's end: sooner than any that lasts for ever.
    expires_at = BEGINNING if grant.renews else grant.expires_at
    return grant.priority, expires_at, grant.valid_from, grant.grant_id


def _renewals(grant: Grant, calendar: Calendar, horizon: datetime) -> list[datetime]:
    """The moments before the horizon at which its amount comes anew."""
    moments: list[datetime] = []
    if grant.renews is None:
        return moments
    until = min(grant.ends_at, horizon)
    moment = period_of(grant.renews, grant.valid_from, calendar).end
    while moment < until:
        moments.append(moment)
        moment = period_of(grant.renews, moment, calendar).end
    return moments


def _stretches(
    starts: Sequence[datetime],
    grants: Sequence[Grant],
    renewals: Sequence[Sequence[datetime]],
    calendar: Calendar,
) -> Iterator[_Stretch]:
    ending, renewing, beginning = _by_moment(), _by_moment(), _by_moment()
    for index, (grant, moments) in enumerate(zip(grants, renewals, strict=True)):
        beginning[grant.valid_from].append(index)
        ending[grant.ends_at].append(index)
        for moment in moments:
            renewing[moment].append(index)

    def place(index: int, start: datetime) -> tuple[int, datetime, datetime, str]:
        grant = grants[index]
        # Of one that was ended early, too: else what was used before would have been burnt in another order.
        lapses_at = grant.expires_at
        if grant.renews is not None:
            lapses_at = min(lapses_at, period_of(grant.renews, start, calendar).end)
        return grant.priority, lapses_at, grant.valid_from, grant.grant_id

    active: list[tuple[tuple[int, datetime, datetime, str], int]] = []  # in the order in which they are burnt
    placed: dict[int, tuple[tuple[int, datetime, datetime, str], int]] = {}
    for start, end in zip(starts, [*starts[1:], END_OF_TIME], strict=True):
        for index in (*ending[start], *renewing[start]):
            del active[bisect_left(active, placed.pop(index))]
        for index in (*renewing[start], *beginning[start]):
            placed[index] = (place(index, start), index)
            insort(active, placed[index])
        yield _Stretch(
            start,
            end,
            tuple(ending[start]),
            tuple(renewing[start]),
            tuple(beginning[start]),
            tuple([index for _, index in active]),
        )


def _by_moment() -> defaultdict[datetime, list[int]]:
    return defaultdict(list)


# --- the fold


@lru_cache(maxsize=4096)  # past stretches seldom change, and a batch decides many checks on the same
def _fold(timeline: _Timeline, base: int, used: tuple[int, ...], current: int) -> _Position:
    """The position at the start of a stretch; ``used``: what was used in each of the stretches before it."""
    grants, pool = timeline.grants, timeline.pool
    left, issued, lapsed = [0] * len(grants), [0] * len(grants), [0] * len(grants)
    reserve = base
    for at, stretch in enumerate(timeline.stretches[: current + 1]):
        if at:
            reserve = _burn(left, timeline.stretches[at - 1].order, used[at - 1], reserve)
            if at == 1 and timeline.before_first:
                reserve = max(reserve, 0)
        for index in stretch.ending:
            lapsed[index] += left[index]
            left[index] = 0
        for index in stretch.renewing:
            lapsed[index] += max(left[index] - grants[index].rollover_maximum, 0)
            left[index] = min(left[index], grants[index].rollover_maximum)
        for index in (*stretch.renewing, *stretch.beginning):
            issued[index] += grants[index].amount
            left[index] += grants[index].amount
        debt = -(reserve + pool.before(stretch.start))
        if debt > 0:
            reserve += debt + _burn(left, stretch.order, debt, 0)
    return _Position(tuple(left), tuple(issued), tuple(lapsed), reserve)


def _burn(left: list[int], order: Iterable[int], used: int, reserve: int) -> int:
    """Takes what was used out of what is left of grants, in order. Answers the reserve less what they did not cover."""
    for index in order:
        if used <= 0:
            break
        taken = min(left[index], used)
        left[index] -= taken
        used -= taken
    return reserve - used
