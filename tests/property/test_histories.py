"""Random histories of one account: the ledger and the oracle agree after every step, and no hard limit is overrun."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime
from itertools import count
from typing import Any

import asyncpg
import httpx
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ledger_service.config import Settings
from ledger_service.main import create_app
from ledger_service.workers.expiry import expire_portion
from tests import builders
from tests.builders import Body
from tests.oracle import Oracle, Terms
from tests.property.projections import assert_projections_agree, counters_agree, replayed, totals_view
from tests.rebuilds import assert_agrees_with_the_log
from tests.servers import Client
from tests.tokens import AUTHORIZED

accounts = (f"history-{number}" for number in count())

COSTS = ["0", "0.25", "1.000000001"]
sizes = st.integers(1, 3)
picks = st.integers(0, 10_000)
operation_fields = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(["ada", "bob"]),
        "operation": st.sampled_from(["generate", "edit"]),
        "provider": st.sampled_from(["local", "far"]),
        "model": st.sampled_from(["render-1", "a/b"]),
        "quantity": sizes,
        "estimated_cost": st.sampled_from(COSTS),
    },
    optional={"project_id": st.sampled_from(["p1", "p2"])},
)
moved_fields = st.fixed_dictionaries(
    {
        "provider": st.sampled_from(["local", "far", "farther"]),
        "model": st.sampled_from(["render-1", "a/b"]),
        "quantity": sizes,
        "estimated_cost": st.sampled_from(COSTS),
    }
)
plan_limits = st.lists(
    st.tuples(
        st.sampled_from(["calls", "units", "cost"]),
        st.sampled_from(["account", "account", "user", "project"]),
        st.sampled_from(["day", "month", "billing_period", "lifetime"]),
        st.sampled_from(["hard", "hard", "soft"]),
        st.integers(0, 8),
        st.fixed_dictionaries(
            {},
            optional={
                "operation": st.sampled_from([[], ["generate"], ["edit", "generate"]]),
                "provider": st.sampled_from([["far"], []]),
                "model": st.just(["a/b"]),
            },
        ),
    ),
    min_size=1,
    max_size=4,
)


class Backend:
    """The real application without a socket, on a loop that runs only while a step does."""

    def __init__(self, database_url: str, nats_url: str) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self.database_url, self._nats_url = database_url, nats_url
        self.client: Client
        self.database: asyncpg.Connection[asyncpg.Record]
        self.pool: asyncpg.Pool[asyncpg.Record]

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    async def open(self) -> None:
        # Holds expire when a step says so, not meanwhile.
        chosen = Settings(database_url=self.database_url, nats_url=self._nats_url, expiry_interval_seconds=3600)
        app = create_app(chosen)
        await self._stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app)
        http = await self._stack.enter_async_context(
            httpx.AsyncClient(transport=transport, headers=AUTHORIZED, base_url="http://ledger")
        )
        self.client = Client(http)
        self.pool = await self._stack.enter_async_context(
            asyncpg.create_pool(self.database_url, min_size=1, max_size=2)
        )
        self.database = await asyncpg.connect(self.database_url)

    def close(self) -> None:
        async def close() -> None:
            await self.database.close()
            await self._stack.aclose()

        self.run(close())
        self._runner.close()


@pytest.fixture
def backend(database_url: str, nats_url: str) -> Iterator[Backend]:
    made = Backend(database_url, nats_url)
    made.run(made.open())
    yield made
    made.close()


class History(RuleBasedStateMachine):
    """Every rule does one thing to the ledger and tells the oracle of it."""

    backend: Backend

    def __init__(self) -> None:
        super().__init__()
        self.account_id = next(accounts)
        self.oracle = Oracle()
        self.terms = Terms(zone="Europe/Berlin", anchor=date(2026, 1, 31))
        self.checks: list[Body] = []
        self.events: list[Body] = []
        #: What was available of each hard limit of the account at the last look, while nothing but what was admitted
        #: has been used since. Only then must it stay at or above zero.
        self.roomy: set[str] = set()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.backend.run(work)

    @property
    def client(self) -> Client:
        return self.backend.client

    # --- rules ---

    @initialize(drawn=plan_limits)
    def register(self, drawn: list[tuple[Any, ...]]) -> None:
        self.change_plan(drawn)
        account = {"time_zone": self.terms.zone, "billing_anchor": self.terms.anchor.isoformat()}
        self.run(self.client.put_account(self.account_id, plan_id=self.account_id, **account))

    @rule(drawn=plan_limits)
    def change_plan(self, drawn: list[tuple[Any, ...]]) -> None:
        self.terms.limits = [
            builders.limit(
                f"limit-{index}",
                meter=meter,
                scope=scope,
                window=window,
                mode=mode,
                selector=selector,
                maximum=str(maximum) if meter == "cost" else maximum,
            )
            for index, (meter, scope, window, mode, maximum, selector) in enumerate(drawn)
        ]
        self.run(self.client.put_plan(*self.terms.limits, plan_id=self.account_id))
        self.roomy = set()

    @rule(fields=operation_fields)
    def check(self, fields: Body) -> None:
        body = builders.check(account_id=self.account_id, **fields)
        self._decided(body, self.run(self.client.check(body)))

    @rule(fields=st.lists(operation_fields, min_size=2, max_size=6))
    def check_many_at_once(self, fields: list[Body]) -> None:
        bodies = [builders.check(account_id=self.account_id, **one) for one in fields]

        async def all_at_once() -> list[Body]:
            return await asyncio.gather(*(self.client.check(body) for body in bodies))

        # They are decided in the order in which they came to the log, whatever that was.
        decisions = {decision["operation_id"]: decision for decision in self.run(all_at_once())}
        order = self.run(
            self.backend.database.fetch(
                "select operation_id::text from event_log where account_id = $1 and operation_id = any ($2::uuid[]) "
                "order by transaction_id, position",
                self.account_id,
                list(decisions),
            )
        )
        by_id = {body["operation_id"]: body for body in bodies}
        assert len(order) == len(bodies)
        for row in order:
            self._decided(by_id[row["operation_id"]], decisions[row["operation_id"]])

    @precondition(lambda self: self.checks)
    @rule(pick=picks)
    def check_again(self, pick: int) -> None:
        body = self._pick(pick)
        if self._state(body) in ("released", "expired"):
            again = self.run(self.client.http.post("/v1/limit-checks", json=body))
            assert (again.status_code, again.json()["code"]) == (409, "reservation_closed")
            return
        again = self.run(self.client.check(body))
        known = self.oracle.operations[self.account_id, body["operation_id"]]
        assert again["allowed"] == known.allowed

    @precondition(lambda self: self.checks)
    @rule(pick=picks)
    def complete_as_estimated(self, pick: int) -> None:
        body = self._pick(pick)
        self._send(builders.completed(body), as_admitted=self._is_held(body))

    @precondition(lambda self: self.checks)
    @rule(pick=picks, cost=st.sampled_from([*COSTS, "9"]), quantity=sizes, actual=st.sampled_from(["local", "far"]))
    def complete_otherwise(self, pick: int, cost: str, quantity: int, actual: str) -> None:
        body = self._pick(pick)
        self._send(builders.completed(body, cost=cost, quantity=quantity, actual_provider=actual), as_admitted=False)

    @precondition(lambda self: self.checks)
    @rule(pick=picks, billed=st.booleans())
    def fail(self, pick: int, billed: bool) -> None:
        body = self._pick(pick)
        self._send(builders.failed(body, cost="0.25" if billed else "0"), as_admitted=not billed)

    @rule(fields=operation_fields, month=st.integers(1, 11), day=st.integers(1, 28))
    def complete_without_a_check(self, fields: Body, month: int, day: int) -> None:
        fields = {name: value for name, value in fields.items() if name != "estimated_cost"}
        moment = min(datetime(2026, month, day, 23, 30, tzinfo=UTC), datetime.now(UTC))
        self._send(builders.completed(account_id=self.account_id, time=moment, **fields), as_admitted=False)

    @precondition(lambda self: self.events)
    @rule(picked=st.lists(picks, min_size=1, max_size=4))
    def repeat_events(self, picked: list[int]) -> None:
        events = [self.events[pick % len(self.events)] for pick in picked]
        expected = [self.oracle.event(event) for event in events]
        answer = self.run(self.client.send(*events))
        assert (answer["accepted"], answer["duplicates"]) == (0, expected.count("duplicate"))

    @rule(
        kind=st.sampled_from(["adjustment", "void", "rerate"]),
        pick=picks,
        of_adjustment=st.booleans(),
        calls=st.integers(-2, 2),
        cost=st.sampled_from(["0", "0.5", "0.000000001"]),
    )
    def correct(self, kind: str, pick: int, of_adjustment: bool, calls: int, cost: str) -> None:
        made = self.oracle.corrected(self.account_id)
        known: list[Body | str] = [one.asked["adjustment_id"] for one in made] if of_adjustment else [*self.events]
        of = known[pick % len(known)] if known else None
        amounts: Body = {"cost": cost} if kind == "rerate" else {}
        if kind == "adjustment":
            amounts = {"calls": calls, "cost": f"-{cost}"}
        if (kind == "adjustment" and not calls and not float(cost)) or (kind != "adjustment" and of is None):
            return
        body = builders.adjustment(kind, of, **{"account_id": self.account_id, **amounts})
        if made and pick % 7 == 0:
            body = made[pick % len(made)].asked
        answer = self.run(self.client.http.post("/v1/adjustments", json=body))
        said = answer.json()
        now = datetime.fromisoformat(said["occurred_at"]) if answer.status_code == 200 else datetime.now(UTC)
        expected = self.oracle.adjustment(body, now)
        code = {"recorded": 200, "same": 200, "voided": "already_voided", "wrong": "invalid_request"}[expected]
        assert said.get("code", 200) == code, said
        if code == 200:
            # What is taken back leaves room that was admitted to nobody, and what is added fills what was.
            self.roomy = set()

    @precondition(lambda self: self.checks)
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        body = self._pick(pick)
        before = self._state(body)
        response = self.run(self.client.release(body["operation_id"]))
        assert response.status_code == {"denied": 404, "settled": 409}.get(before, 200)
        if before == "held":
            self.oracle.closed(self.account_id, body["operation_id"], "released")

    @precondition(lambda self: self.checks)
    @rule(pick=picks, to=moved_fields)
    def move(self, pick: int, to: Body) -> None:
        body = self._pick(pick)
        known = self.oracle.operations[self.account_id, body["operation_id"]]
        assert known.decided_at is not None
        placed = {"operation_id": body["operation_id"], "decided_at": known.decided_at.isoformat()}
        answer = self.run(self.client.ask_move(placed, **to))
        if not self._is_held(body):
            assert answer.status_code == (404 if self._state(body) == "denied" else 409)
            return
        decision, moved = answer.json(), {**body, **to}
        now = datetime.fromisoformat(decision["decided_at"])
        full = self.oracle.first_full_for_move(moved, self.terms, now)
        assert (decision["allowed"], (decision["denial"] or {}).get("limit_id")) == (full is None, full)
        if decision["allowed"]:
            self.oracle.decided(moved, True, decision["decided_at"])
            self.checks[self.checks.index(body)] = moved

    @precondition(lambda self: self.checks)
    @rule(pick=picks)
    def extend(self, pick: int) -> None:
        body = self._pick(pick)
        response = self.run(self.client.extend(body["operation_id"], ttl_seconds=600))
        assert response.status_code == {"denied": 404, "held": 200}.get(self._state(body), 409)

    @precondition(lambda self: self.checks)
    @rule(picked=st.lists(picks, min_size=1, max_size=3))
    def let_time_pass_for(self, picked: list[int]) -> None:
        """Instead of waiting, the ends of some holds move back; the others stay."""
        bodies = {body["operation_id"]: body for body in map(self._pick, picked)}

        async def expire() -> None:
            await self.backend.database.execute(
                "update decisions set expires_at = now() - interval '1 second' "
                "where account_id = $1 and operation_id = any ($2::uuid[])",
                self.account_id,
                list(bodies),
            )
            await expire_portion(self.backend.pool)

        held = [body for body in bodies.values() if self._is_held(body)]
        self.run(expire())
        for body in held:
            self.oracle.closed(self.account_id, body["operation_id"], "expired")

    # --- what must hold after every step ---

    @invariant()
    def limits_stand_as_the_oracle_says(self) -> None:
        if not self.terms.limits or (not self.checks and not self.events):
            return
        now = datetime.now(UTC)
        usage = self.run(self.client.usage(self.account_id))
        states = {state["limit_id"]: state for state in usage["limits"]}
        roomy = set()
        for limit in self.terms.limits:
            if limit["scope"] != "account":
                continue
            expected = self.oracle.limit(limit, self.account_id, "account", self.terms, now)
            state = states[limit["limit_id"]]
            assert tuple(_amount(state[name]) for name in ("settled", "held", "available")) == expected
            if expected[2] >= 0:
                roomy.add(limit["limit_id"])
            assert limit["mode"] == "soft" or limit["limit_id"] in roomy or limit["limit_id"] not in self.roomy, (
                f"{limit} was overrun by what it had admitted"
            )
        self.roomy = roomy

    @invariant()
    def counters_stand_as_the_oracle_says(self) -> None:
        self.run(counters_agree(self.backend.database, self.oracle, self.account_id))

    def teardown(self) -> None:
        async def look_at_everything() -> None:
            database = self.backend.database
            await assert_projections_agree(database, self.oracle, {self.account_id})
            await assert_projections_agree(database, await replayed(database, {self.account_id}), {self.account_id})
            # let_time_pass_for() has moved the ends of holds behind the log's back.
            await assert_agrees_with_the_log(self.backend.database_url, self.account_id, but=("expires_at",))

        self.run(look_at_everything())
        if self.events:
            month = f"{datetime.now(UTC):%Y-%m}"
            usage = self.run(self.client.usage(self.account_id, period=month))
            assert usage["totals"] == totals_view(self.oracle, self.account_id, month)

    # --- steps ---

    def _decided(self, body: Body, decision: Body) -> None:
        now = datetime.fromisoformat(decision["decided_at"])
        full = self.oracle.first_full(body, self.terms, now)
        assert decision["allowed"] == (full is None), f"allowed: {decision['allowed']}, the oracle says full: {full}"
        assert decision["allowed"] or decision["denial"]["limit_id"] == full
        self.oracle.decided(body, decision["allowed"], decision["decided_at"])
        self.checks.append(body)

    def _send(self, event: Body, as_admitted: bool) -> None:
        """Sends an outcome; a second outcome of an operation is refused."""
        expected = self.oracle.event(event)
        answer = self.run(self.client.send(event))
        assert answer["accepted"] == (expected == "accepted")
        assert len(answer["rejected"]) == (expected == "operation_conflict")
        if expected == "accepted":
            self.events.append(event)
            if not as_admitted:
                self.roomy = set()

    def _pick(self, pick: int) -> Body:
        return self.checks[pick % len(self.checks)]

    def _state(self, body: Body) -> str:
        return self.oracle.state(self.account_id, body["operation_id"])

    def _is_held(self, body: Body) -> bool:
        return self._state(body) == "held"


def _amount(shown: int | str) -> int:
    return shown if isinstance(shown, int) else int(shown.replace(".", ""))


def test_random_histories_agree_with_the_oracle_and_overrun_nothing(backend: Backend) -> None:
    machine = type("HistoryHere", (History,), {"backend": backend})
    run_state_machine_as_test(machine, settings=settings())
