"""Random overrides, changes of plan, checks and outcomes: each decision is what the naive rules say.

The rules: of the overrides that hold now, one for the caller's own user or project goes before one for all of that
scope, and it takes the place of the plan's limit with its id, scope and meter, or stands beside the plan's.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

import asyncpg
import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from contracts.limits import Account, LimitCheck, LimitOverride, Plan
from contracts.problems import ProblemError
from ledger_service.administration import change_account, change_plan
from ledger_service.limit_checks import LimitChecks
from ledger_service.overrides import change_override, remove_override
from ledger_service.recording import Batch, record
from ledger_service.store.pool import Pool
from tests import builders
from tests.builders import Body
from tests.oracle import Oracle, Terms, moment
from tests.property.projections import assert_projections_agree, replayed
from tests.property.test_ingest_order import submission
from tests.rebuilds import assert_agrees_with_the_log

#: Moments that no run of the tests comes near.
LONG_AGO, BEFORE, AFTER, FAR = (f"{year}-01-01T00:00:00+00:00" for year in (2001, 2020, 2190, 2195))
#: From, until; None: always, for ever.
VALID = [(None, None), (BEFORE, None), (None, AFTER), (BEFORE, AFTER), (LONG_AGO, BEFORE), (None, BEFORE), (AFTER, FAR)]
PLANS: dict[str, list[Body]] = {
    "both": [builders.limit("all", maximum=6), builders.limit("own", scope="user", window="lifetime", maximum=3)],
    "units": [builders.limit("own", scope="user", meter="units", window="lifetime", maximum=4)],
    "wide": [builders.limit("shared", scope="project", maximum=5), builders.limit("all", window="day", maximum=9)],
    "none": [],
}
#: What overrides are of: of each its scope, meter and window.
OVERRIDDEN: dict[str, Body] = {
    "all": {"scope": "account", "meter": "calls", "window": "month"},
    "own": {"scope": "user", "meter": "calls", "window": "lifetime"},
    "shared": {"scope": "project", "meter": "calls", "window": "month"},
    "few": {"scope": "user", "meter": "units", "window": "lifetime", "selector": {"model": ["render-1"]}},
}
WHO, MODELS = ("ada", "bob"), ("render-1", "render-2")
Key = tuple[str, str | None, str | None]
Step = tuple[Any, ...]  # Any: the name of a method of World, and its arguments
History = list[tuple[Step, list[Step]]]
accounts = (f"overridden-{number}" for number in count())


@dataclass
class World:
    """An account whose terms change, and the same terms as plain data."""

    pool: Pool
    checks: LimitChecks
    account_id: str
    plan_id: str = "both"
    #: (limit, for whom, from) → until and the limit.
    overrides: dict[Key, tuple[str | None, Body]] = field(default_factory=dict)
    oracle: Oracle = field(default_factory=Oracle)
    admitted: list[Body] = field(default_factory=list)

    async def put(self, limit_id: str, who: str | None, maximum: int, valid: tuple[str | None, str | None]) -> None:
        own = {**OVERRIDDEN[limit_id], "maximum": maximum}
        scope_id = None if who is None else f"{who}-{own['scope']}"
        body = {**own, "scope_id": scope_id, "valid_from": valid[0], "valid_until": valid[1]}
        given = LimitOverride.model_validate_json(builders.to_bytes({k: v for k, v in body.items() if v is not None}))
        refused = None
        try:
            async with self.pool.acquire() as connection:
                await change_override(connection, self.account_id, limit_id, given, None)
        except ProblemError as error:
            [broken] = error.problem.errors
            refused = broken.field, broken.rule
        assert refused == self._wrong(limit_id, own, scope_id, valid)
        if refused is None:
            self.overrides[limit_id, scope_id, valid[0]] = valid[1], {"limit_id": limit_id, **own}

    def _wrong(
        self, limit_id: str, own: Body, scope_id: str | None, valid: tuple[str | None, str | None]
    ) -> tuple[str, str] | None:
        for planned in PLANS[self.plan_id]:
            if planned["limit_id"] == limit_id and planned["meter"] != own["meter"]:
                return "meter", "contradiction"
        if scope_id is not None and own["scope"] == "account":
            return "scope_id", "contradiction"
        for (of, whose, begins), (ends, _) in self.overrides.items():
            is_another_of_it = (of, whose) == (limit_id, scope_id) and begins != valid[0]
            if is_another_of_it and (begins or "") < (valid[1] or "9") and (valid[0] or "") < (ends or "9"):
                return "valid_from", "overlap"
        return None

    async def remove(self, limit_id: str, who: str | None) -> None:
        scope_id = None if who is None else f"{who}-{OVERRIDDEN[limit_id]['scope']}"
        ours = [key for key in self.overrides if key[:2] == (limit_id, scope_id)]
        try:
            async with self.pool.acquire() as connection:
                removed = await remove_override(connection, self.account_id, limit_id, scope_id)
        except ProblemError:
            removed = []
        assert len(removed) == len(ours)
        for key in ours:
            del self.overrides[key]

    async def join(self, plan_id: str) -> None:
        self.plan_id = plan_id
        async with self.pool.acquire() as connection:
            await change_account(connection, self.account_id, Account(plan_id=plan_id))

    async def check(self, who: str, project: str | None, quantity: int, model: str) -> None:
        check = self._check(who, project, quantity, model)
        decision = await self._decided_rightly(check)
        self.oracle.decided(check, decision["allowed"], decision["decided_at"])
        if decision["allowed"]:
            self.admitted.append(check)

    async def ask_for_everybody(self) -> None:
        """What a check of each of them would be answered now."""
        await asyncio.gather(
            *(
                self._decided_rightly({**self._check(who, project, 1, model), "dry_run": True})
                for who in WHO
                for project in (None, *WHO)
                for model in MODELS
            )
        )

    def _check(self, who: str, project: str | None, quantity: int, model: str) -> Body:
        return builders.check(
            account_id=self.account_id,
            user_id=f"{who}-user",
            project_id=builders.ABSENT if project is None else f"{project}-project",
            quantity=quantity,
            model=model,
            estimated_cost="0.01",
        )

    async def _decided_rightly(self, check: Body) -> Body:
        decision: Body = orjson.loads(await self.checks.check(LimitCheck.model_validate_json(builders.to_bytes(check))))
        now = moment(decision["decided_at"])
        full = [
            limit["limit_id"]
            for limit in self.effective(check, now)
            if self.oracle.first_full(check, Terms([limit]), now) is not None
        ]
        assert decision["allowed"] is (not full), (full, decision)
        assert decision["allowed"] or decision["denial"]["limit_id"] in full
        return decision

    def effective(self, check: Body, now: datetime) -> list[Body]:
        """Naively: of each id, scope and meter the caller's own override, or that for all, or the plan's limit."""
        names = {(one["limit_id"], one.get("scope", "account"), one["meter"]) for one in PLANS[self.plan_id]}
        names |= {(limit["limit_id"], limit["scope"], limit["meter"]) for _, limit in self.overrides.values()}
        chosen = []
        for limit_id, scope, meter in names:
            for whose in (check.get(f"{scope}_id", "nobody's"), None):
                holding = [
                    limit
                    for (of, of_whom, begins), (ends, limit) in self.overrides.items()
                    if (of, of_whom, limit["scope"], limit["meter"]) == (limit_id, whose, scope, meter)
                    and (begins or LONG_AGO) <= now.isoformat() < (ends or FAR)
                ]
                if holding:
                    chosen += holding
                    break
            else:
                chosen += [
                    limit
                    for limit in PLANS[self.plan_id]
                    if (limit["limit_id"], limit.get("scope", "account"), limit["meter"]) == (limit_id, scope, meter)
                ]
        return chosen

    async def finish(self, number: int, quantity: int, is_failed: bool) -> None:
        if self.admitted:
            check = self.admitted.pop(number % len(self.admitted))
            make = builders.failed if is_failed else builders.completed
            event = make(check, quantity=quantity, cost="0" if is_failed else "0.01")
            await record(self.pool, Batch([submission(event)]))
            assert self.oracle.event(event) == "accepted"


@asynccontextmanager
async def a_world(pool: Pool) -> AsyncIterator[World]:
    account_id = next(accounts)
    async with pool.acquire() as connection:
        for plan_id, limits in PLANS.items():
            await change_plan(connection, plan_id, Plan.model_validate(builders.plan(*limits)))
        await change_account(connection, account_id, Account(plan_id="both"))
    checks = LimitChecks(pool, 100, 300, None)
    worker = asyncio.create_task(checks.run())
    try:
        yield World(pool, checks, account_id)
    finally:
        worker.cancel()


who, anybody = st.sampled_from(WHO), st.sampled_from([None, *WHO])
overridden = st.sampled_from(sorted(OVERRIDDEN))
put = st.tuples(st.just("put"), overridden, anybody, st.integers(0, 8), st.sampled_from(VALID))
join = st.tuples(st.just("join"), st.sampled_from(sorted(PLANS)))
check = st.tuples(st.just("check"), who, anybody, st.integers(1, 3), st.sampled_from(MODELS))
finish = st.tuples(st.just("finish"), st.integers(0, 9), st.integers(1, 3), st.booleans())
remove = st.tuples(st.just("remove"), overridden, anybody)
#: Few of what changes the terms, and much that fills them up.
stretches = st.tuples(st.one_of(put, put, join, remove), st.lists(st.one_of(check, check, finish), max_size=4))


#: One for everybody, and one's own, whichever came first.
OWN_LAST: History = [(("put", "few", None, 8, VALID[0]), []), (("put", "few", "ada", 0, VALID[0]), [])]
#: One that has ended, and one that has not begun.
NOT_NOW: History = [(("put", "all", None, 0, (LONG_AGO, BEFORE)), []), (("put", "all", None, 0, (AFTER, FAR)), [])]


@example(OWN_LAST)
@example(OWN_LAST[::-1])
@example(NOT_NOW)
@given(st.lists(stretches, min_size=6, max_size=12))
async def test_every_decision_is_that_of_the_naive_rules(
    writing_pool: Pool,
    database: "asyncpg.Connection[asyncpg.Record]",
    database_url: str,
    history: History,
) -> None:
    assert datetime.now(UTC) < moment(AFTER)
    async with a_world(writing_pool) as world:
        for name, *arguments in (step for change, uses in history for step in (change, *uses)):
            await getattr(world, name)(*arguments)
            await world.ask_for_everybody()
        await assert_projections_agree(database, await replayed(database, {world.account_id}), {world.account_id})
        await assert_agrees_with_the_log(database_url, world.account_id)
