"""Order does not matter: any permutation, repetition and split of the same events gives the same projections."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import UUID

import asyncpg
import orjson
from hypothesis import given
from hypothesis import strategies as st

from contracts.limits import Account, LimitCheck, Plan
from ledger_service.administration import change_account, change_plan
from ledger_service.domain.batches import Receipt, Submission
from ledger_service.intake import read_event
from ledger_service.limit_checks import LimitChecks
from ledger_service.recording import Batch, record
from ledger_service.store.pool import Pool
from tests import builders
from tests.builders import Body
from tests.oracle import Oracle
from tests.property.projections import assert_projections_agree, replayed

BASE = datetime(2026, 11, 20, 12, tzinfo=UTC)
LIMITS = [
    builders.limit("calls", window="lifetime", maximum=10**6),
    builders.limit("units", meter="units", window="month", maximum=10**6, selector={"operation": ["edit", "upscale"]}),
    builders.limit("cost", meter="cost", window="day", maximum="1000000"),
    builders.limit("mine", scope="user", window="billing_period", maximum=10**6, selector={"provider": ["far"]}),
]
accounts = (f"order-{number}" for number in count())


@st.composite
def operations(draw: st.DrawFn) -> Body:
    """What happens to one operation, before it belongs to an account."""
    return {
        "held": draw(st.booleans()),
        "requested": draw(st.booleans()),
        "outcome": draw(st.sampled_from(["completed", "failed", None])),
        "time": BASE + timedelta(hours=draw(st.sampled_from([0, 0, 1, 13, -300, 240, -9000]))),
        "fields": {
            "user_id": draw(st.sampled_from(["ada", "bob"])),
            "operation": draw(st.sampled_from(["generate", "edit"])),
            "provider": draw(st.sampled_from(["local", "far"])),
            "quantity": draw(st.integers(1, 5)),
        },
        "used": {
            "cost": draw(st.sampled_from(["0", "0.04", "1.000000001"])),
            "actual_provider": draw(st.sampled_from(["local", "far"])),
        },
    }


@st.composite
def arrangements(draw: st.DrawFn, events: Sequence[int]) -> list[list[int]]:
    """The events in some order, some of them repeated, split into batches."""
    order = draw(st.permutations([*events, *draw(st.lists(st.sampled_from(events), max_size=6))]))
    cuts = sorted(draw(st.sets(st.integers(1, len(order) - 1), max_size=4))) if len(order) > 1 else []
    return [order[start:end] for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True)]


def submission(event: Body) -> Submission:
    read = read_event(builders.to_bytes(event), "tests")
    assert isinstance(read, Submission)
    return read


def history(account_id: str, chosen: list[Body]) -> tuple[list[Body], list[Body]]:
    """Limit checks and events of one account."""
    checks, events = [], []
    for one in chosen:
        check = builders.check(account_id=account_id, estimated_cost="0.5", **one["fields"])
        if one["held"]:
            checks.append(check)
        if one["requested"]:
            events.append(builders.requested(check, time=one["time"]))
        if one["outcome"]:
            make = builders.completed if one["outcome"] == "completed" else builders.failed
            events.append(make(check, time=one["time"], **one["used"]))
    return checks, events


async def set_up(pool: Pool, account_id: str) -> None:
    async with pool.acquire() as connection:
        await change_plan(connection, "order", Plan.model_validate(builders.plan(*LIMITS)))
        await change_account(connection, account_id, Account(plan_id="order", time_zone="Europe/Berlin"))


async def decide(pool: Pool, checks: Sequence[Body]) -> list[Body]:
    """Decides checks through the ledger's own queue; the decisions."""
    limit_checks = LimitChecks(pool, 100, 300, None)
    worker = asyncio.create_task(limit_checks.run())
    try:
        models = [LimitCheck.model_validate_json(builders.to_bytes(check)) for check in checks]
        answers = await asyncio.gather(*(limit_checks.check(model) for model in models))
        return [orjson.loads(answer) for answer in answers]
    finally:
        worker.cancel()


@given(st.data())
async def test_any_arrangement_of_the_same_events_gives_what_the_oracle_says(
    writing_pool: Pool, database: "asyncpg.Connection[asyncpg.Record]", data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(operations(), min_size=1, max_size=8))
    for at_once in (False, True):
        account_id, oracle = next(accounts), Oracle()
        await set_up(writing_pool, account_id)
        checks, events = history(account_id, chosen)
        # Counters that exist before the events are kept up to date; those made afterwards are counted from the log.
        probes = [builders.check(account_id=account_id, user_id=user, provider="far", operation="edit", dry_run=True)
                  for user in ("ada", "bob")]  # fmt: skip
        early = data.draw(st.booleans(), label="counters exist before")
        for check, decision in zip(checks, await decide(writing_pool, checks), strict=True):
            oracle.decided(check, decision["allowed"], decision["decided_at"])
        if early:
            await decide(writing_pool, [{**probe, "estimated_cost": "0"} for probe in probes])
        batches = data.draw(arrangements(range(len(events)))) if events else []
        work = [record(writing_pool, Batch([submission(events[index]) for index in batch])) for batch in batches]
        results = await asyncio.gather(*work) if at_once else [await one for one in work]
        receipts = Counter(receipt for result in results for receipt in result.receipts)
        for event in events:
            assert oracle.event(event) == "accepted"
        await decide(writing_pool, [{**probe, "estimated_cost": "0"} for probe in probes])
        await assert_projections_agree(database, oracle, {account_id})
        await assert_projections_agree(database, await replayed(database, {account_id}), {account_id})
        assert receipts[Receipt.ACCEPTED] == len(events)
        assert set(receipts) <= {Receipt.ACCEPTED, Receipt.DUPLICATE}


@given(st.data())
async def test_of_contradicting_events_the_first_that_arrives_counts(
    writing_pool: Pool, database: "asyncpg.Connection[asyncpg.Record]", data: st.DataObject
) -> None:
    account_id, oracle = next(accounts), Oracle()
    operation_ids, event_ids = ([str(uuid7_of(number)) for number in range(first, first + 3)] for first in (0, 10))
    events = [
        builders.completed(account_id=account_id, operation_id=operation_id, id=event_id, time=BASE, cost=cost)
        for operation_id, event_id, cost in data.draw(
            st.lists(
                st.tuples(st.sampled_from(operation_ids), st.sampled_from(event_ids), st.sampled_from(["1", "2"])),
                min_size=1,
                max_size=10,
            )
        )
    ]
    receipts: list[object] = []
    for batch in data.draw(arrangements(range(len(events)))):
        arrived = [events[index] for index in batch]
        result = await record(writing_pool, Batch([submission(event) for event in arrived]))
        expected = [oracle.event(event) for event in arrived]
        # Which of the two conflicts it is may differ within a batch; that it is one may not.
        found = [receipt.value for receipt in result.receipts if isinstance(receipt, Receipt)]
        assert [_kind(one) for one in found] == [_kind(one) for one in expected]
        receipts += result.receipts
    await assert_projections_agree(database, oracle, {account_id})
    letters = await database.fetchval(
        "select coalesce(sum(received_count), 0) from dead_letters where body::text = any ("
        "select convert_to(b, 'UTF8')::text from unnest($1::text[]) as b)",
        [builders.to_bytes(event).decode() for event in events],
    )
    assert letters == sum(receipt in (Receipt.CONFLICT, Receipt.OPERATION_CONFLICT) for receipt in receipts)


def uuid7_of(number: int) -> UUID:
    """The same at each run, so that Hypothesis can repeat what it found."""
    return UUID(f"01900000-0000-7000-8000-{number:012x}")


def _kind(receipt: str) -> str:
    return "conflict" if receipt == "operation_conflict" else receipt
