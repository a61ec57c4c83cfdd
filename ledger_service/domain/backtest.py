"""What-if: the operations of one account, in order of admission, decided anew against a proposed plan.

Limits, windows, counters and shares are those of live checks. Each operation is held at what its limit check held (its
actual cost where nobody checked it) from its admission until it occurred, and then counted as what it used; so calls
that ran at once meet here as they met then. One that would have been denied leaves no trace.

Corrections count from when they were recorded, in the windows of what they correct, as they do live; those of
operations that would have been denied do not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heappop, heappush
from typing import Final, NamedTuple
from uuid import UUID

from contracts.limits import LimitCheck, Meter, Mode, Plan, Scope, Window
from ledger_service.domain.counters import ACCOUNT_SCOPE_KEY, Balance, Counted, counted_by, scope_keys
from ledger_service.domain.decide import LIMIT_EXCEEDED, Verdict, claims_of, decide, has_room
from ledger_service.domain.periods import BEGINNING, Calendar, Period, period_of
from ledger_service.domain.terms import Terms

COMPLETED: Final = "completed"
DENIED: Final = "denied"

#: Operations, providers and models come from callers: what is remembered of them is bounded.
_SELECTIONS_MAX: Final = 10_000

#: Calls, units and nano-dollars of an operation, which a meter chooses from.
Amounts = tuple[int, int, int]
_AMOUNT_OF: Final = {Meter.CALLS: 0, Meter.UNITS: 1, Meter.COST: 2}
#: Who an operation is of: the account, its user (a correction may have none), project and api key, which a scope
#: chooses from.
_Callers = tuple[str, str | None, str | None, str | None]
_CALLER_OF: Final = {Scope.ACCOUNT: 0, Scope.USER: 1, Scope.PROJECT: 2, Scope.API_KEY: 3}
#: Counters that an operation touches, each with the place of its amount.
_Touched = list[tuple[int, Balance]]


class Operation(NamedTuple):
    """A row of the usage log, or (``outcome`` = denied) a denied check, whose cost is its estimate.

    ``held_cost_nanos``: what its limit check held; None where there was none; of a denied one 0 where it was known to
    cost nothing. ``admitted_at``: counted_at of the log.
    """

    account_id: str
    operation_id: UUID
    user_id: str
    project_id: str | None
    api_key_id: str | None
    operation: str
    requested_provider: str
    provider: str
    model: str
    quantity: int
    cost_nanos: int
    held_cost_nanos: int | None
    outcome: str
    admitted_at: datetime
    occurred_at: datetime


class Correction(NamedTuple):
    """An adjustment, with what it adds. ``corrects``: the operation that it is about, or another adjustment.

    ``counted_at`` chooses the windows in which it counts; ``at``: when it was recorded, not before the replay begins.
    """

    account_id: str
    corrects: UUID | None
    user_id: str | None
    project_id: str | None
    api_key_id: str | None
    operation: str
    provider: str
    model: str
    calls: int
    units: int
    cost_nanos: int
    counted_at: datetime
    at: datetime


class Refusal(NamedTuple):
    """Why an operation would have been denied; ``limit_id`` where a limit is the reason."""

    code: str
    limit_id: str | None


class OutOfOrderError(Exception):
    """Operations came in another order than that of their admission."""


class _CounterKind(NamedTuple):
    """A counter of the proposal, for whichever account and period."""

    counted: Counted
    scope: Scope
    window: Window


class _Selection(NamedTuple):
    """What one operation, provider and model meets: the counters, by number, and the hard limits, in the plan's order,
    each as place of its counter among them, place of its amount, maximum and answer."""

    refusal: Refusal | None
    counters: tuple[int, ...]
    hard: tuple[tuple[int, int, int, Refusal], ...]


@dataclass(frozen=True, slots=True)
class Proposal:
    """The plan that is tried, on every account alike: an account's overrides and credit grants stay out."""

    plan: Plan
    plan_id: str | None = None
    plan_version: int | None = None
    kinds: list[_CounterKind] = field(init=False, repr=False)
    _selections: dict[tuple[str, str, str], _Selection] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        kinds = {}
        for limit in self.plan.limits:
            counted = counted_by(limit)
            kinds[counted.counter_id] = _CounterKind(counted, limit.scope, limit.window)
        object.__setattr__(self, "kinds", list(kinds.values()))

    def terms(self, calendar: Calendar) -> Terms:
        """The proposal as terms of an account with this calendar."""
        return Terms(self.plan_id or "", self.plan, calendar, self.plan_version)

    def select(self, operation: str, provider: str, model: str) -> _Selection:
        """What such operations meet."""
        kind = (operation, provider, model)
        found = self._selections.get(kind)
        if found is None:
            if len(self._selections) >= _SELECTIONS_MAX:
                self._selections.clear()
            found = self._selections[kind] = self._select(operation, provider, model)
        return found

    def _select(self, operation: str, provider: str, model: str) -> _Selection:
        check = _a_check(operation=operation, provider=provider, model=model)
        # What is denied whatever the limits say.
        refusal = _refusal_of(decide(check, self.terms(Calendar()), [], {}, BEGINNING, ttl_seconds=0))
        numbers = [number for number, kind in enumerate(self.kinds) if kind.counted.selects(check)]
        places = {self.kinds[number].counted.counter_id: place for place, number in enumerate(numbers)}
        hard = []
        for limit in self.plan.limits:
            place = places.get(counted_by(limit).counter_id)
            if place is not None and limit.mode is Mode.HARD:
                full = Refusal(LIMIT_EXCEEDED, limit.limit_id)
                hard.append((place, _AMOUNT_OF[limit.meter], limit.maximum_amount, full))
        return _Selection(refusal, tuple(numbers), tuple(hard))


class Opening(NamedTuple):
    """A counter, for whomever of its scope, whose period began before the replay."""

    scope: Scope
    counted: Counted
    period: Period


def openings_of(proposal: Proposal, calendar: Calendar, start: datetime) -> list[Opening]:
    """The counters whose period began before the replay does: what was used of them by then is to be counted first."""
    found = []
    for counted, scope, window in proposal.kinds:
        period = period_of(window, start, calendar)
        if period.start < start:
            found.append(Opening(scope, counted, period))
    return found


#: (counter_id, scope_key) → used in the counter's period before the replay begins.
OpeningAmounts = Mapping[tuple[str, str], int]


class _Counter:
    """One counter of the account in its current period, for each caller; earlier periods are forgotten."""

    __slots__ = ("amount_of", "balances", "begins", "caller_of", "kind", "opened_before", "until")

    def __init__(self, kind: _CounterKind) -> None:
        self.kind = kind
        self.amount_of = _AMOUNT_OF[kind.counted.meter]
        self.caller_of = _CALLER_OF[kind.scope]
        self.balances: dict[str, Balance] = {}
        self.begins = self.until = BEGINNING
        self.opened_before = False


class AccountReplay:
    """Decides the operations of one account, which must come in order of admission."""

    def __init__(
        self,
        account_id: str,
        proposal: Proposal,
        calendar: Calendar,
        start: datetime,
        openings: OpeningAmounts,
        *,
        has_corrections: bool = False,
    ) -> None:
        """``has_corrections``: some will come, so that it is remembered what was denied."""
        self._account_id = account_id
        self._proposal = proposal
        self._calendar = calendar
        self._start = start
        self._openings = openings
        self._now = start
        self._counters = [_Counter(kind) for kind in proposal.kinds]
        #: A heap of what is held: when it ends, a number that makes it unique, and what then changes.
        self._open: list[tuple[datetime, int, _Touched, Amounts, _Touched, Amounts]] = []
        self._admitted = 0
        self._denied: set[UUID] | None = set() if has_corrections else None
        #: Of periods that have not begun: number of the counter, caller, when it counts, and how much.
        self._later: list[tuple[int, str, datetime, int]] = []

    def correct(self, correction: Correction) -> None:
        """Counts a correction, unless it is about what the proposal has denied. Raises OutOfOrderError."""
        self._go_to(correction.at)
        if self._denied and correction.corrects in self._denied:
            return
        callers = (ACCOUNT_SCOPE_KEY, correction.user_id, correction.project_id, correction.api_key_id)
        amounts = (correction.calls, correction.units, correction.cost_nanos)
        selection = self._proposal.select(correction.operation, correction.provider, correction.model)
        for number, one in zip(selection.counters, self._met(selection, callers), strict=True):
            if one is None:
                continue
            counter, (index, balance) = self._counters[number], one
            if correction.counted_at >= counter.until:
                caller = callers[counter.caller_of]
                assert caller is not None
                self._later.append((number, caller, correction.counted_at, amounts[index]))
            elif correction.counted_at >= counter.begins:
                balance.settled += amounts[index]

    def decide(self, operation: Operation) -> Refusal | None:
        """None where the proposal admits the operation, which then counts; else why not. Raises OutOfOrderError."""
        (_, _, user, project, key, kind, requested, provider, model, quantity, cost, held, outcome, now, end) = (
            operation
        )
        self._go_to(now)
        callers = (ACCOUNT_SCOPE_KEY, user, project, key)
        selection = self._proposal.select(kind, requested, model)
        met = self._met(selection, callers)
        asked = (1, quantity, cost if held is None else held)
        is_denied = outcome == DENIED
        if is_denied and not cost and held is None:
            refusal = self._refusal_unpriced(operation)
        else:
            refusal = selection.refusal or _refusal(selection, met, asked)
        if refusal is not None:
            if self._denied is not None and not is_denied:
                self._denied.add(operation.operation_id)
            return refusal
        used = asked if is_denied else (1, quantity, cost) if outcome == COMPLETED else (0, 0, cost)
        touched = [one for one in met if one is not None]
        # Holds are placed at the provider that was asked for, usage counts at the one that did the work.
        counted = touched
        if provider != requested:
            counted = [one for one in self._met(self._proposal.select(kind, provider, model), callers) if one]
        if end <= now:
            _count(counted, used)
        elif touched or counted:
            for index, balance in touched:
                balance.held += asked[index]
            self._admitted += 1
            heappush(self._open, (end, self._admitted, touched, asked, counted, used))
        return None

    @property
    def remembered(self) -> int:
        """Balances and open holds in memory; where there are corrections, what was denied as well."""
        balances = sum(len(counter.balances) for counter in self._counters)
        return len(self._open) + balances + len(self._denied or ()) + len(self._later)

    def _go_to(self, now: datetime) -> None:
        if now < self._now:
            raise OutOfOrderError(f"{self._account_id}: {now} after {self._now}")
        self._now = now
        open_holds = self._open
        while open_holds and open_holds[0][0] <= now:
            _settle(*heappop(open_holds)[2:])

    def _met(self, selection: _Selection, callers: _Callers) -> list[tuple[int, Balance] | None]:
        """The selected counters as they stand; None for one whose scope the operation does not name."""
        met: list[tuple[int, Balance] | None] = []
        for number in selection.counters:
            counter = self._counters[number]
            if counter.until <= self._now:
                self._begin_period(number, counter)
            caller = callers[counter.caller_of]
            if caller is None:
                met.append(None)
                continue
            balance = counter.balances.get(caller)
            if balance is None:
                balance = counter.balances[caller] = self._opening_balance(counter, callers)
            met.append((counter.amount_of, balance))
        return met

    def _begin_period(self, number: int, counter: _Counter) -> None:
        # Open holds keep the balances that they still change; nothing else asks for an ended period.
        period = period_of(counter.kind.window, self._now, self._calendar)
        counter.balances = {}
        counter.begins, counter.until = period.start, period.end
        counter.opened_before = period.start < self._start
        if self._later:
            self._count_later(number, counter)

    def _count_later(self, number: int, counter: _Counter) -> None:
        left = []
        for one in self._later:
            of, caller, counted_at, amount = one
            if of != number or counted_at >= counter.until:
                left.append(one)
            elif counted_at >= counter.begins:
                counter.balances.setdefault(caller, Balance()).settled += amount
        self._later = left

    def _opening_balance(self, counter: _Counter, callers: _Callers) -> Balance:
        if not counter.opened_before:
            return Balance()
        key = scope_keys(_a_check(callers))[counter.kind.scope]
        assert key is not None
        return Balance(settled=self._openings.get((counter.kind.counted.counter_id, key), 0))

    def _refusal_unpriced(self, operation: Operation) -> Refusal | None:
        """The live decision on a check of which nobody knew the cost."""
        callers: _Callers = (ACCOUNT_SCOPE_KEY, operation.user_id, operation.project_id, operation.api_key_id)
        check = _a_check(
            callers, operation.operation, operation.requested_provider, operation.model, operation.quantity
        )
        terms = self._proposal.terms(self._calendar)
        claims = claims_of(check, terms, self._now)
        selection = self._proposal.select(check.operation, check.provider, check.model)
        met = self._met(selection, callers)
        by_id = {
            self._counters[number].kind.counted.counter_id: one[1]
            for number, one in zip(selection.counters, met, strict=True)
            if one is not None
        }
        balances = {claim.key: by_id[claim.counted.counter_id] for claim in claims}
        return _refusal_of(decide(check, terms, claims, balances, self._now, ttl_seconds=0))


def _refusal_of(verdict: Verdict) -> Refusal | None:
    denial = verdict.body["denial"]
    return None if denial is None else Refusal(denial["code"], denial["limit_id"])


def _refusal(selection: _Selection, met: list[tuple[int, Balance] | None], asked: Amounts) -> Refusal | None:
    """The first hard limit without room."""
    for place, index, maximum, refusal in selection.hard:
        one = met[place]
        if one is not None and not has_room(maximum, one[1].settled + one[1].held, asked[index]):
            return refusal
    return None


def _settle(held: _Touched, asked: Amounts, counted: _Touched, used: Amounts) -> None:
    for index, balance in held:
        balance.held -= asked[index]
    _count(counted, used)


def _count(counted: _Touched, used: Amounts) -> None:
    for index, balance in counted:
        balance.settled += used[index]


def _a_check(
    callers: _Callers = (ACCOUNT_SCOPE_KEY, "", None, None),
    operation: str = "",
    provider: str = "",
    model: str = "",
    quantity: int = 1,
) -> LimitCheck:
    """A check without a known cost, for the functions of live checks that take one."""
    _, user, project, key = callers
    return LimitCheck.model_construct(
        operation_id=UUID(int=0), account_id="", user_id=user or "", project_id=project, api_key_id=key,
        operation=operation, provider=provider, model=model, quantity=quantity, estimated_cost=None,
    )  # fmt: skip
