"""How an account's limits stand, those on each of its callers too, and when they are reached."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from contracts.limits import Meter, Scope, Window
from contracts.standings import Forecast, LimitStanding, LimitStandings
from ledger_service.domain.counters import Balance, Counted, CounterKey
from ledger_service.domain.decide import Claim, Standing, limit_state, standing
from ledger_service.domain.pace import forecast
from ledger_service.domain.periods import BEGINNING, END_OF_TIME, period_of
from ledger_service.domain.terms import Terms, limits_on
from ledger_service.standings import Balances
from ledger_service.store.pool import Connection
from ledger_service.store.standings import CallerCounters, list_callers, recent_usage

if TYPE_CHECKING:
    import asyncpg

#: Of each limit on users, projects or keys, so many of them are shown.
CALLERS_MAX: Final = 50
RECENT: Final = timedelta(hours=24)
_OF_CALLERS: Final = (Scope.USER, Scope.PROJECT, Scope.API_KEY)
_AMOUNTS: Final = {Meter.CALLS: "calls", Meter.UNITS: "units", Meter.COST: "cost_nanos"}


async def standings_of(
    connection: Connection, account_id: str, terms: Terms, claims: list[Claim], balances: Balances, now: datetime
) -> LimitStandings:
    """``claims`` and ``balances``: of the limits on the account as a whole. Reads, in one snapshot."""
    since = (now - RECENT).replace(minute=0, second=0, microsecond=0)
    recent = await recent_usage(connection, account_id, since) if claims else []
    limits = [
        _standing(claim, standing(claim, balances.of), None, now, _recent(recent, claim.counted, since))
        for claim in claims
    ]
    return LimitStandings(
        account_id=account_id,
        plan_id=terms.plan_id,
        plan_version=terms.plan_version,
        time_zone=terms.calendar.time_zone,
        limits=limits,
        callers=await _callers(connection, account_id, terms, now),
    )


async def _callers(connection: Connection, account_id: str, terms: Terms, now: datetime) -> list[LimitStanding]:
    wanted = sorted(_counters_of_callers(terms, now))
    found: dict[tuple[Scope, str], dict[str, Balance]] = {}
    for index, scope_key, found_balance in await list_callers(connection, account_id, wanted, CALLERS_MAX):
        kind, _, name = scope_key.partition(":")
        found.setdefault((Scope(kind), name), {})[wanted[index].counter_id] = found_balance
    standings = []
    for (scope, caller), balances in found.items():
        for applied in limits_on(scope, caller, terms, now):
            balance = balances.get(applied.counted.counter_id)
            if balance is None:
                continue
            period = period_of(applied.limit.window, now, terms.calendar)
            key = CounterKey(account_id, f"{scope}:{caller}", period.end, period.start, applied.counted.counter_id)
            stands = Standing(applied.limit.maximum_amount, balance.settled, balance.held)
            standings.append((_standing(Claim(applied, key, period, 0), stands, caller, now, None), share_of(stands)))
    standings.sort(key=lambda one: (-one[1], one[0].scope, one[0].scope_id or "", one[0].limit_id))
    return [one for one, _ in standings]


def _counters_of_callers(terms: Terms, now: datetime) -> set[CallerCounters]:
    """Of the plan's limits, and of those that overrides put in their place for single callers."""
    callers: set[tuple[Scope, str | None]] = {(scope, None) for scope in _OF_CALLERS}
    callers |= {(one.limit.scope, one.scope_id) for one in terms.overrides if one.limit.scope in _OF_CALLERS}
    counters = set()
    for scope, caller in callers:
        for applied in limits_on(scope, caller, terms, now):
            period = period_of(applied.limit.window, now, terms.calendar)
            counters.add(CallerCounters(scope.value, period.end, period.start, applied.counted.counter_id))
    return counters


def share_of(stands: Standing) -> float:
    """The share of a limit that is used: 1 = all of it. What allows nothing is used up."""
    return stands.used / stands.maximum if stands.maximum > 0 else 1.0


def _recent(rows: "Iterable[asyncpg.Record]", counted: Counted, since: datetime) -> tuple[int, datetime]:
    amount = _AMOUNTS[counted.meter]
    return sum(row[amount] for row in rows if _selects(counted, row)), since


def _selects(counted: Counted, row: "asyncpg.Record") -> bool:
    chosen = ((counted.operations, "operation"), (counted.providers, "provider"), (counted.models, "model"))
    return all(not names or row[column] in names for names, column in chosen)


def _standing(
    claim: Claim, stands: Standing, caller: str | None, now: datetime, recent: tuple[int, datetime] | None
) -> LimitStanding:
    limit, period = claim.limit, claim.period
    available, lasts = stands.maximum - stands.used, limit.window is Window.LIFETIME
    end = END_OF_TIME if lasts else period.end
    by_period: Forecast | None = None
    if not lasts:
        by_period = forecast(available, stands.settled, period.start, now, period.end)
    return LimitStanding(
        **limit_state(claim, stands, 0),
        selector=limit.selector,
        thresholds=limit.thresholds,
        credit=limit.credit,
        scope_id=caller,
        period_start=None if lasts or period.start <= BEGINNING else period.start,
        period_end=None if lasts else period.end,
        forecast=by_period,
        recent=None if recent is None else forecast(available, *recent, now, end),
    )
