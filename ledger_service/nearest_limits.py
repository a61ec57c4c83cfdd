"""Which limits of all accounts are fullest: looked at seldom, remembered shortly.

Accounts that have nothing but their plan are compared by the database, a limit of a plan at a time: there are few plans
and calendars, and many accounts. Those with overrides or credit are gone through one by one, as limit checks see them.
"""

import asyncio
import heapq
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from contracts.limits import Limit
from contracts.standings import NearestLimits, NearLimit
from ledger_service.domain.counters import CounterKey
from ledger_service.domain.decide import Claim, Standing, claims_of_account, limit_state, standing
from ledger_service.domain.periods import Calendar, period_of
from ledger_service.domain.terms import Applied, Terms, limits_of_account
from ledger_service.limit_standings import share_of
from ledger_service.store.accounts import find_plan
from ledger_service.store.counters import find_balances
from ledger_service.store.pool import Connection, Pool
from ledger_service.store.standings import (
    PlannedCounters,
    accounts_with_additions,
    nearest_of_plans,
    terms_in_use,
)
from ledger_service.store.terms import TermsCache, read_terms

if TYPE_CHECKING:
    import asyncpg

NEAREST_MAX: Final = 100
#: An answer is fresh so long, and so many times as long as it took: looking takes a twentieth of a core at most.
FRESH_SECONDS: Final = 10.0
FRESH_TIMES: Final = 20
OLDEST_SECONDS: Final = 60.0
#: So many accounts with overrides or credit are gone through before others have their turn.
_ACCOUNTS_AT_ONCE: Final = 200


class Nearest:
    """The fullest limits on accounts as a whole, of each process. Not those on users, projects or keys, and none that
    nobody checked in its present period: what nobody asks the ledger about is near no limit."""

    def __init__(self, pool: Pool, terms: TermsCache, default_plan_id: str | None) -> None:
        self._pool, self._terms, self._default_plan_id = pool, terms, default_plan_id
        self._known: NearestLimits | None = None
        self._looked_at = 0.0
        self._fresh_seconds = 0.0
        self._looking: asyncio.Task[NearestLimits] | None = None

    async def read(self) -> NearestLimits:
        """As it stood OLDEST_SECONDS ago at most, or FRESH_TIMES as long as a look takes. Whoever finds it older than
        fresh has it looked up for the next one."""
        age_seconds = time.monotonic() - self._looked_at
        known = self._known
        if known is not None and age_seconds < self._fresh_seconds:
            return known
        if self._looking is None:
            self._looking = asyncio.create_task(self._renew())
            self._looking.add_done_callback(_heard)
        if known is not None and age_seconds < max(OLDEST_SECONDS, self._fresh_seconds):
            return known
        # Not ended by one of those who wait for it: others do too.
        return await asyncio.shield(self._looking)

    async def _renew(self) -> NearestLimits:
        try:
            began = time.monotonic()
            known = await self._look()
            self._known, self._looked_at = known, time.monotonic()
            self._fresh_seconds = max(FRESH_SECONDS, FRESH_TIMES * (self._looked_at - began))
            return known
        finally:
            self._looking = None

    async def _look(self) -> NearestLimits:
        async with self._pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
            now = (await connection.fetchval("select now()")).astimezone(UTC)
            found = await self._of_plans(connection, now) + await self._of_their_own(connection, now)
        fullest = heapq.nlargest(NEAREST_MAX, found, key=lambda one: (one.share, one.account_id, one.limit_id))
        return NearestLimits(read_at=now, items=fullest)

    async def _of_plans(self, connection: Connection, now: datetime) -> list[NearLimit]:
        rows = await terms_in_use(connection, self._default_plan_id)
        plans = {plan_id: await find_plan(connection, plan_id) for plan_id in {row["plan_id"] for row in rows}}
        claims, wanted = list[Claim](), list[PlannedCounters]()
        for row in rows:
            calendar = Calendar(row["time_zone"], row["billing_anchor"])
            for applied in limits_of_account(Terms(row["plan_id"], plans[row["plan_id"]], calendar), now):
                if _can_be_near(applied.limit):
                    claims.append(_claim("", applied, calendar, now))
                    wanted.append(_planned(row, claims[-1]))
        nearest = await nearest_of_plans(connection, wanted, self._default_plan_id, NEAREST_MAX)
        return [
            _near(account_id, claims[index], Standing(wanted[index].maximum, balance.settled, balance.held))
            for account_id, index, balance in nearest
        ]

    async def _of_their_own(self, connection: Connection, now: datetime) -> list[NearLimit]:
        fullest, after = list[NearLimit](), ""
        while accounts := await accounts_with_additions(connection, after, _ACCOUNTS_AT_ONCE):
            after = accounts[-1]
            terms = await read_terms(connection, accounts, self._terms, self._default_plan_id)
            claims = [
                claim
                for account_id in accounts
                for claim in claims_of_account(account_id, terms[account_id], now)
                if claim.credit is not None or _can_be_near(claim.limit)
            ]
            balances = await find_balances(connection, claims)
            known = (claim for claim in claims if all(key in balances for key in claim.keys))
            found = ((claim, standing(claim, balances)) for claim in known)
            near = [_near(claim.key.account_id, claim, stands) for claim, stands in found if stands.maximum > 0]
            fullest = _fullest([*fullest, *near])
        return fullest


def _heard(looking: "asyncio.Task[NearestLimits]") -> None:
    """Where nobody waited, nobody hears of its failure: the next one who asks looks again, and does."""
    if not looking.cancelled():
        looking.exception()


def _fullest(found: Iterable[NearLimit]) -> list[NearLimit]:
    return heapq.nlargest(NEAREST_MAX, found, key=lambda one: one.share)


def _can_be_near(limit: Limit) -> bool:
    """Not where nothing is allowed: that is used up, and always will be. Credit is more than its limit says."""
    return limit.maximum_amount > 0 and not limit.credit


def _claim(account_id: str, applied: Applied, calendar: Calendar, now: datetime) -> Claim:
    period = period_of(applied.limit.window, now, calendar)
    key = CounterKey(account_id, "account", period.end, period.start, applied.counted.counter_id)
    return Claim(applied, key, period, 0)


def _planned(row: "asyncpg.Record", claim: Claim) -> PlannedCounters:
    return PlannedCounters(
        row["plan_id"], row["time_zone"], row["billing_anchor"], claim.period.end, claim.period.start,
        claim.key.counter_id, claim.limit.maximum_amount,
    )  # fmt: skip


def _near(account_id: str, claim: Claim, stands: Standing) -> NearLimit:
    return NearLimit(**limit_state(claim, stands, 0), account_id=account_id, share=round(share_of(stands), 6))
