"""Random histories of leases, holds, outcomes and returns: what the oracle says, and never more than the maximum."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import asyncpg
import orjson
from hypothesis import given
from hypothesis import strategies as st

from contracts.leases import Lease, LeaseRequest, LeaseReturn
from contracts.limits import Account, LimitCheck, Plan
from contracts.money import format_nanos
from ledger_service.administration import change_account, change_plan
from ledger_service.leases import Leases
from ledger_service.limit_checks import LimitChecks
from ledger_service.recording import Batch, record
from ledger_service.store.accounts import lock_accounts
from ledger_service.store.decisions import OperationKey, close_holds
from ledger_service.store.pool import Pool
from tests import builders
from tests.builders import Body
from tests.property.projections import assert_projections_agree, replayed
from tests.property.test_ingest_order import submission
from tests.rebuilds import assert_agrees_with_the_log

CENT = 10_000_000
LIMITS = [
    builders.limit("calls", maximum=12, window="lifetime"),
    builders.limit("units", meter="units", maximum=30, window="month"),
    builders.limit("cost", meter="cost", maximum="0.5", window="billing_period"),
    builders.limit("own", scope="user", maximum=8, window="day", selector={"model": ["render-1"]}),
]
MAXIMA = {"calls": 12, "units": 30, "cost": 50 * CENT}
accounts = (f"leases-{number}" for number in count())


@dataclass
class Held:
    """A lease as its holder sees it."""

    lease: Lease
    user_id: str
    calls: int
    quantity: int
    cost: int
    #: Operations that have begun and have no outcome in the ledger.
    open: list[Body] = field(default_factory=list)
    over: bool = False


@dataclass
class World:
    """An account, the ledger, and holders that keep to their leases."""

    pool: Pool
    database: "asyncpg.Connection[asyncpg.Record]"
    checks: LimitChecks
    leases: Leases
    account_id: str
    held: list[Held] = field(default_factory=list)
    plain: list[Body] = field(default_factory=list)

    async def place(self, user_id: str, calls: int, quantity: int, cents: int) -> None:
        body = builders.lease(
            account_id=self.account_id,
            user_id=user_id,
            calls=calls,
            quantity=max(calls, quantity),
            estimated_cost=format_nanos(cents * CENT),
        )
        lease = await self.leases.place(LeaseRequest.model_validate_json(builders.to_bytes(body)))
        if lease.allowed:
            self.held.append(Held(lease, user_id, lease.calls, lease.quantity, lease.estimated_cost))

    def begin(self, number: int, quantity: int, cents: int) -> None:
        """Offline: the ledger hears of it only by its outcome."""
        usable = [held for held in self.held if not held.over]
        if not usable:
            return
        held = usable[number % len(usable)]
        if held.calls >= 1 and held.quantity >= quantity and held.cost >= cents * CENT:
            held.calls, held.quantity, held.cost = held.calls - 1, held.quantity - quantity, held.cost - cents * CENT
            check = self._check(held.user_id, quantity, cents)
            held.open.append({**check, "leaseid": str(held.lease.lease_id)})

    async def check(self, user_id: str, quantity: int, cents: int) -> None:
        check = self._check(user_id, quantity, cents)
        decision = orjson.loads(await self.checks.check(LimitCheck.model_validate_json(builders.to_bytes(check))))
        if decision["allowed"]:
            self.plain.append(check)

    async def finish(self, picks: list[tuple[int, str, int]]) -> None:
        """Outcomes of some operations, in one batch; each costs and delivers at most what was drawn for it."""
        events = []
        for number, outcome, cents in picks:
            waiting = [(held.open, one) for held in self.held for one in held.open]
            waiting += [(self.plain, one) for one in self.plain]
            if not waiting:
                break
            where, one = waiting[number % len(waiting)]
            where.remove(one)
            cost = format_nanos(min(cents * CENT, int(float(one["estimated_cost"]) * 100 + 0.5) * CENT))
            check = {name: value for name, value in one.items() if name != "leaseid"}
            make = builders.completed if outcome == "completed" else builders.failed
            event = make(check, cost=cost)
            events.append({**event, "leaseid": one["leaseid"]} if "leaseid" in one else event)
        if events:
            await record(self.pool, Batch([submission(event) for event in [*events, events[0]]]))

    async def give_back(self, number: int) -> None:
        """As the client does: only once all outcomes have arrived."""
        done = [held for held in self.held if not held.open and not held.over]
        if done:
            held = done[number % len(done)]
            held.over = True
            assert held.lease.token is not None
            left = await self.leases.give_back(LeaseReturn(token=held.lease.token))
            assert left.calls >= held.calls
            assert left.quantity >= held.quantity
            assert left.estimated_cost >= held.cost

    async def reclaim(self, number: int) -> None:
        """As after the grace, and all outcomes in time."""
        done = [held for held in self.held if not held.open and not held.over]
        if done:
            held = done[number % len(done)]
            held.over = True
            key = OperationKey(self.account_id, held.lease.lease_id)
            async with self.pool.acquire() as connection, connection.transaction():
                await lock_accounts(connection, [self.account_id])
                await close_holds(connection, [key], "expired", only_due=False)

    async def stays_within(self) -> None:
        rows = await self.database.fetch("select * from counters where account_id = $1", self.account_id)
        for row in rows:
            maximum = 8 if row["scope_key"].startswith("user:") else MAXIMA[row["meter"]]
            assert row["settled"] + row["held"] <= maximum, dict(row.items())
            assert row["held"] >= 0
        # Whatever the holders may still do is held.
        committed = sum(held.calls + len(held.open) for held in self.held if not held.over)
        counter = [row["held"] for row in rows if row["meter"] == "calls" and row["scope_key"] == "account"]
        assert committed + len(self.plain) <= sum(counter)

    def _check(self, user_id: str, quantity: int, cents: int) -> Body:
        cost = format_nanos(cents * CENT)
        return builders.check(account_id=self.account_id, user_id=user_id, quantity=quantity, estimated_cost=cost)


@asynccontextmanager
async def a_world(pool: Pool, database: "asyncpg.Connection[asyncpg.Record]") -> AsyncIterator[World]:
    account_id = next(accounts)
    async with pool.acquire() as connection:
        await change_plan(connection, "leases", Plan.model_validate(builders.lease_plan(*LIMITS)))
        await change_account(connection, account_id, Account(plan_id="leases"))
    checks = LimitChecks(pool, 100, 300, None)
    worker = asyncio.create_task(checks.run())
    try:
        yield World(pool, database, checks, Leases(pool, checks), account_id)
    finally:
        worker.cancel()


users, numbers, small = st.sampled_from(["ada", "bob"]), st.integers(0, 9), st.integers(1, 4)
steps = st.one_of(
    st.tuples(st.just("place"), users, st.integers(1, 6), st.integers(1, 12), st.integers(0, 25)),
    st.tuples(st.just("begin"), numbers, small, small),
    st.tuples(st.just("begin"), numbers, small, small),
    st.tuples(st.just("check"), users, small, small),
    st.tuples(
        st.just("finish"),
        st.lists(
            st.tuples(numbers, st.sampled_from(["completed", "failed"]), st.integers(0, 4)), min_size=1, max_size=4
        ),
    ),
    st.tuples(st.just("give_back"), numbers),
    st.tuples(st.just("reclaim"), numbers),
)


@given(st.lists(steps, min_size=4, max_size=25))
async def test_leases_never_let_anything_past_a_limit(
    writing_pool: Pool,
    database: "asyncpg.Connection[asyncpg.Record]",
    database_url: str,
    history: list[tuple[Any, ...]],
) -> None:
    async with a_world(writing_pool, database) as world:
        for name, *arguments in history:
            doing = getattr(world, name)(*arguments)
            if doing is not None:
                await doing
            await world.stays_within()
        await assert_projections_agree(database, await replayed(database, {world.account_id}), {world.account_id})
        await assert_agrees_with_the_log(database_url, world.account_id)
