"""Counters: read for decisions, made on first need."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

import orjson

from contracts.limits import LimitCheck, Meter
from ledger_service.domain.counters import Balance, Counted, CounterKey
from ledger_service.domain.decide import Claim
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)

_METERS: Final = {meter.value: meter for meter in Meter}


async def find_balances(connection: "Connection", claims: Iterable[Claim]) -> dict[CounterKey, Balance]:
    """The balances of those of the claims' counters that exist."""
    return await _find(connection, {key for claim in claims for key in claim.keys})


async def read_balances(connection: "Connection", claims: Iterable[Claim]) -> dict[CounterKey, Balance]:
    """The balances of every claim's counter. The accounts must be locked.

    A counter that does not exist yet (new period, new limit) is made from the usage log and the open holds.
    """
    wanted = {key: claim.counted for claim in claims for key in claim.keys}
    balances = await _find(connection, wanted)
    missing = {key: counted for key, counted in wanted.items() if key not in balances}
    return balances | {key: balance for key, balance, _ in await _create(connection, missing)}


async def compute_balances(connection: "Connection", wanted: Mapping[CounterKey, Counted]) -> dict[CounterKey, Balance]:
    """What these counters would say, from the usage log and the open holds. Reads alone, whether they exist or not."""
    if not wanted:
        return {}
    rows = await connection.fetch(SQL["computed"], _definitions(wanted))
    return {CounterKey(*row[:5]): Balance(row["settled"], row["held"]) for row in rows}


async def _find(connection: "Connection", wanted: Iterable[CounterKey]) -> dict[CounterKey, Balance]:
    keys = list(wanted)
    if not keys:
        return {}
    rows = await connection.fetch(SQL["find"], *zip(*keys, strict=True))
    return {keys[ordinal - 1]: Balance(*amounts) for ordinal, *amounts in rows}


async def _create(
    connection: "Connection", missing: Mapping[CounterKey, Counted]
) -> list[tuple[CounterKey, Balance, str]]:
    """Makes counters; answers each with its balance and the place of its row."""
    if not missing:
        return []
    rows = await connection.fetch(SQL["create_missing"], _definitions(missing))
    return [(CounterKey(*row[:5]), Balance(row["settled"], row["held"]), row["place"]) for row in rows]


@dataclass(slots=True)
class Touched:
    """A counter that a check's share goes to, and where its row is."""

    meter: Meter
    balance: Balance
    place: str
    held_before: int


@dataclass(slots=True)
class CheckedCounters:
    """The counters of some checks: ``balances`` are those of their claims, ``touched`` in the order of the checks."""

    balances: dict[CounterKey, Balance]
    touched: list[list[Touched]]

    def placed(self) -> dict[str, int]:
        """What was added to what is held, by the rows' places."""
        return {
            one.place: one.balance.held - one.held_before
            for some in self.touched
            for one in some
            if one.balance.held != one.held_before
        }


@dataclass(frozen=True, slots=True)
class Callers:
    """What chooses the counters of checks, each once, and for each check its place among them."""

    distinct: list[tuple[str | None, ...]]
    of_checks: list[int]


def callers_of(checks: Sequence[LimitCheck]) -> Callers:
    places: dict[tuple[str | None, ...], int] = {}
    of_checks = [
        places.setdefault(
            (one.account_id, one.user_id, one.project_id, one.api_key_id, one.operation, one.provider, one.model),
            len(places),
        )
        for one in checks
    ]
    return Callers(list(places), of_checks)


async def complete_counters(
    connection: "Connection", rows: "Iterable[asyncpg.Record]", callers: Callers, claims: Sequence[Sequence[Claim]]
) -> CheckedCounters:
    """Every counter that these callers' checks would touch, those of limits that their plan no longer has too, and
    every counter of their claims, made where it does not exist yet. The accounts must be locked, and stay so while
    places are used. ``rows``: those that exist, as the lock on the accounts found them.
    """
    touched = [list[Touched]() for _ in callers.distinct]
    balances: dict[CounterKey, Balance] = {}
    known: dict[CounterKey, Touched] = {}
    periods: dict[str, tuple[datetime, datetime]] = {}
    for caller, place, scope_key, period_end, period_start, counter_id, meter, settled, held, watched, warn_at in rows:
        account_id = callers.distinct[caller][0]
        assert account_id is not None
        period = periods.get(counter_id)
        if period is None or period[0] != period_end or period[1] != period_start:
            period = periods[counter_id] = (period_end, period_start)
        # Those of the row before: a time keeps its hash, and to compute it takes fifteen times as long as to compare.
        key = CounterKey(account_id, scope_key, period[0], period[1], counter_id)
        one = known.get(key)
        if one is None:
            balances[key] = Balance(settled, held, watched, warn_at)
            one = known[key] = Touched(_METERS[meter], balances[key], place, held)
        touched[caller].append(one)
    missing = {
        key: claim.counted
        for some in claims
        for claim in some
        if claim.credit is not None or claim.key not in balances
        for key in claim.keys
        if key not in balances
    }
    if missing:
        # Those that exist are of earlier stretches of a credit limit, which no new share touches.
        balances |= await _find(connection, missing)
        absent = {key: counted for key, counted in missing.items() if key not in balances}
        for key, balance, place in await _create(connection, absent):
            balances[key] = balance
            known[key] = Touched(absent[key].meter, balance, place, balance.held)
        for caller, some in zip(callers.of_checks, claims, strict=True):
            there = {one.place for one in touched[caller]}
            made = {claim.key for claim in some if claim.key in absent}
            touched[caller] += [known[key] for key in made if known[key].place not in there]
    return CheckedCounters(balances, [touched[caller] for caller in callers.of_checks])


async def watch(connection: "Connection", watches: Mapping[CounterKey, tuple[str | None, int | None]]) -> None:
    """Sets what counters are watched for, and from which amount on. The accounts must be locked."""
    rows = [(*key, *watches[key]) for key in sorted(watches)]
    await connection.execute(SQL["watch"], *zip(*rows, strict=True))


def _definitions(counters: Mapping[CounterKey, Counted]) -> str:
    return orjson.dumps([counter_definition(key, counted) for key, counted in counters.items()]).decode()


def counter_definition(key: CounterKey, counted: Counted) -> dict[str, object]:
    """A row of the table as SQL reads it from JSON, without its balance."""
    return {
        **key._asdict(),
        "meter": counted.meter,
        "operations": counted.operations or None,
        "providers": counted.providers or None,
        "models": counted.models or None,
    }
