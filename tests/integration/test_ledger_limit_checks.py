"""Limit checks over HTTP: who is admitted, who is denied and why, and what is held meanwhile."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import asyncpg
import httpx
import pytest

from ledger_service.store.pool import Pool
from ledger_service.workers.expiry import expire_portion
from tests import builders
from tests.builders import Body, completed, failed, limit, usual
from tests.conftest import StartLedger
from tests.servers import Ledger, LedgerProcess, eventually

#: One ledger for most of them: each test has an account and a plan of its own.
pytestmark = pytest.mark.asyncio(loop_scope="module")
#: Of those that need a ledger to themselves: another loop, as the shared one stands still meanwhile.
alone = pytest.mark.asyncio(loop_scope="function")

Database = asyncpg.Connection
LOCK = "select from accounts where account_id = $1 for update"
WAITING = "select count(*) >= $1 from pg_locks where not granted"


@pytest.fixture
def ledger(lent_ledger: Ledger) -> Ledger:
    return lent_ledger


def month_now() -> str:
    return f"{datetime.now(UTC):%Y-%m}"


async def admitted(ledger: Ledger, *checks: Body) -> list[bool]:
    return [(await ledger.check(check))["allowed"] for check in checks]


# --- one check ---


async def test_an_allowed_check_holds_its_share_and_shows_the_limits(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=25))
    before = datetime.now(UTC)
    decision = await ledger.check(asked := builders.check(ttl_seconds=60))
    assert decision["operation_id"] == asked["operation_id"]
    assert decision["allowed"] is True
    assert decision["denial"] is None
    assert decision["limits"] == [
        {
            "limit_id": "images",
            "scope": "account",
            "meter": "calls",
            "window": "month",
            "period": month_now(),
            "mode": "hard",
            "maximum": 25,
            "settled": 0,
            "held": 1,
            "available": 24,
        }
    ]
    decided_at = datetime.fromisoformat(decision["decided_at"])
    assert abs(decided_at - before) < timedelta(seconds=5)
    assert datetime.fromisoformat(decision["reservation"]["expires_at"]) == decided_at + timedelta(seconds=60)


async def test_a_denied_check_names_the_limit_and_holds_nothing(ledger: Ledger) -> None:
    await ledger.set_up(limit("other", maximum=9), limit(maximum=2))
    await admitted(ledger, builders.check(), builders.check())
    decision = await ledger.check(builders.check())
    assert decision["allowed"] is False
    assert decision["reservation"] is None
    assert (decision["denial"]["code"], decision["denial"]["limit_id"]) == ("limit_exceeded", "images")
    assert "images" in decision["denial"]["message"]
    assert (await ledger.limit("images"))["held"] == 2
    assert (await ledger.limit("other"))["held"] == 2


async def test_the_same_check_again_gets_the_same_bytes(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=1))
    for _ in range(2):  # the first is allowed, the second denied
        asked = builders.check(estimated_cost="0.04")
        answers = [(await ledger.http.post("/v1/limit-checks", json=asked)).content for _ in range(3)]
        assert len(set(answers)) == 1
    assert (await ledger.limit())["held"] == 1


async def test_the_same_check_many_times_at_once_is_decided_once(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=3))
    asked = builders.check()
    answers = await asyncio.gather(*(ledger.http.post("/v1/limit-checks", json=asked) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert (await ledger.limit())["held"] == 1


async def test_the_same_check_gets_the_same_bytes_after_the_operation_ended(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    asked = builders.check()
    first = await ledger.check(asked)
    await ledger.send(completed(asked))
    assert await ledger.check(asked) == first


@pytest.mark.parametrize(
    "change", [{"quantity": 2}, {"model": "other"}, {"user_id": "bob"}, {"estimated_cost": "1"}, {"ttl_seconds": 9}]
)
async def test_the_same_operation_with_another_body_is_a_conflict(ledger: Ledger, change: Body) -> None:
    await ledger.set_up(limit())
    asked = builders.check()
    await ledger.check(asked)
    answer = await ledger.http.post("/v1/limit-checks", json={**asked, **change})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert (await ledger.limit())["held"] == 1


async def test_a_check_of_an_operation_that_ended_without_one_is_refused(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    await ledger.send(event := completed())
    asked = builders.check(operation_id=event["data"]["operation_id"])
    answer = await ledger.http.post("/v1/limit-checks", json=asked)
    assert (answer.status_code, answer.json()["code"]) == (409, "operation_finished")


async def test_a_dry_run_answers_and_keeps_nothing(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=1))
    asked = builders.check(dry_run=True)
    assert await admitted(ledger, asked, asked) == [True, True]
    assert (await ledger.limit())["held"] == 0
    assert (await ledger.http.get(f"/v1/decisions/{asked['operation_id']}")).status_code == 404
    assert await admitted(ledger, {**asked, "dry_run": False}, builders.check(dry_run=True)) == [True, False]


# --- concurrency ---


async def test_100_checks_at_once_against_25_admit_exactly_25(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=25))
    decisions = await asyncio.gather(*(ledger.check(builders.check()) for _ in range(100)))
    assert sum(decision["allowed"] for decision in decisions) == 25
    assert {decision["denial"]["limit_id"] for decision in decisions if not decision["allowed"]} == {"images"}
    state = await ledger.limit()
    assert (state["held"], state["available"]) == (25, 0)


@alone
async def test_100_checks_at_once_on_two_ledger_processes_admit_exactly_25(
    ledger_process: Callable[..., LedgerProcess], database: "Database[asyncpg.Record]"
) -> None:
    one, other = ledger_process(), ledger_process()
    async with one.client() as first, other.client() as second:
        await first.set_up(limit(maximum=25))
        checks = [builders.check() for _ in range(100)]
        # Each process gets half of its own and, as a retry through a balancer would, half of the other's.
        asked = [(first if index % 2 else second, check) for index, check in enumerate(checks)]
        asked += [(second if index % 2 else first, check) for index, check in enumerate(checks[:50])]
        answers = await asyncio.gather(*(client.http.post("/v1/limit-checks", json=check) for client, check in asked))
        assert {answer.status_code for answer in answers} == {200}
        allowed = {answer.json()["operation_id"] for answer in answers if answer.json()["allowed"]}
        assert len(allowed) == 25
        for repeat, original in zip(answers[100:], answers[:50], strict=True):
            assert repeat.content == original.content
        assert (await second.limit())["held"] == 25
    assert await database.fetchval("select count(*) from decisions where state = 'held'") == 25


async def test_a_check_that_waits_for_a_change_of_its_account_is_decided_by_the_new_plan(
    ledger: Ledger, shared_database: "Database[asyncpg.Record]"
) -> None:
    await ledger.put_plan(limit(maximum=0), plan_id="nothing")
    await ledger.put_plan(limit(maximum=5), plan_id="five")
    await ledger.put_account(plan_id="nothing")
    async with shared_database.transaction():
        await shared_database.execute("update accounts set plan_id = 'five' where account_id = $1", usual.account_id)
        waiting = asyncio.create_task(ledger.check(builders.check()))
        await eventually(
            lambda: shared_database.fetchval("select count(*) from pg_locks where not granted"),
            "the check waits for the lock",
        )
    assert (await waiting)["allowed"] is True


async def test_a_check_that_waits_for_the_registration_of_its_account_is_decided_by_its_plan(
    ledger: Ledger, shared_database: "Database[asyncpg.Record]"
) -> None:
    await ledger.put_plan(limit(maximum=5))
    await ledger.send(completed())  # the account was seen, not registered
    async with shared_database.transaction():
        await shared_database.execute(
            "update accounts set plan_id = $1, version = 1 where account_id = $2", usual.plan_id, usual.account_id
        )
        waiting = asyncio.create_task(ledger.check(builders.check()))
        await eventually(
            lambda: shared_database.fetchval("select count(*) from pg_locks where not granted"),
            "the check waits for the lock",
        )
    assert (await waiting)["allowed"] is True


@alone
async def test_the_same_check_that_waits_in_three_ledgers_is_decided_once(
    start_ledger: StartLedger, database: "Database[asyncpg.Record]"
) -> None:
    ledgers = [await start_ledger() for _ in range(3)]
    await ledgers[0].set_up(limit(maximum=5))
    for _ in range(5):
        check = builders.check()
        async with database.transaction():
            await database.execute("select from accounts for update")
            waiting = [asyncio.create_task(one.http.post("/v1/limit-checks", json=check)) for one in ledgers]
            # Each has looked at what is known before it waits: for two of them that is not the truth any more.
            await eventually(lambda: database.fetchval(WAITING, 3), "all three wait")
        answers = await asyncio.gather(*waiting)
        assert {(answer.status_code, answer.content) for answer in answers} == {(200, answers[0].content)}
    assert (await ledgers[0].limit())["held"] == 5


async def test_a_check_that_waits_while_its_outcome_comes_is_refused_as_finished(
    ledger: Ledger, shared_database: "Database[asyncpg.Record]"
) -> None:
    await ledger.set_up(limit(maximum=5))
    check = builders.check()
    async with shared_database.transaction():
        await shared_database.execute(LOCK, usual.account_id)
        outcome = asyncio.create_task(ledger.send(completed(check)))
        await eventually(lambda: shared_database.fetchval(WAITING, 1), "the outcome waits for the lock")
        waiting = asyncio.create_task(ledger.http.post("/v1/limit-checks", json=check))
        await eventually(lambda: shared_database.fetchval(WAITING, 2), "the check waits behind it")
    answer = await waiting
    assert (answer.status_code, answer.json()["code"]) == (409, "operation_finished")
    assert (await outcome)["accepted"] == 1
    shown = await ledger.limit()
    assert (shown["settled"], shown["held"]) == (1, 0)


# --- meters, windows, selectors, modes ---


async def test_a_limit_on_calls_counts_one_for_each_whatever_its_quantity(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=2))
    assert await admitted(ledger, *(builders.check(quantity=50) for _ in range(3))) == [True, True, False]


async def test_a_limit_on_units_counts_the_quantity(ledger: Ledger) -> None:
    await ledger.set_up(limit(meter="units", maximum=10))
    wanted = [builders.check(quantity=quantity) for quantity in (7, 4, 3, 1)]
    assert await admitted(ledger, *wanted) == [True, False, True, False]


async def test_a_limit_on_cost_counts_the_estimate_to_the_nano_dollar(ledger: Ledger) -> None:
    await ledger.set_up(limit(meter="cost", maximum="0.100000000"))
    wanted = [
        builders.check(estimated_cost=cost) for cost in ("0.04", "0.060000001", "0.059999999", "1e-9", "1e-9", "0")
    ]
    assert await admitted(ledger, *wanted) == [True, False, True, True, False, True]
    state = await ledger.limit()
    assert (state["maximum"], state["held"], state["available"]) == ("0.100000000", "0.100000000", "0.000000000")


async def test_a_check_without_an_estimate_is_denied_by_a_hard_limit_on_cost(ledger: Ledger) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1"))
    decision = await ledger.check(builders.check())
    assert decision["allowed"] is False
    assert (decision["denial"]["code"], decision["denial"]["limit_id"]) == ("unpriced_model", "spend")


async def test_all_limits_must_have_room_and_the_first_without_is_named(ledger: Ledger) -> None:
    await ledger.set_up(limit("many", maximum=9), limit("units", meter="units", maximum=3), limit("few", maximum=1))
    assert await admitted(ledger, builders.check(quantity=2)) == [True]
    decision = await ledger.check(builders.check(quantity=2))
    assert decision["denial"]["limit_id"] == "units"
    assert [state["limit_id"] for state in decision["limits"]] == ["many", "units", "few"]
    assert (await ledger.check(builders.check()))["denial"]["limit_id"] == "few"


async def test_maximum_0_means_not_allowed_even_for_nothing(ledger: Ledger) -> None:
    await ledger.set_up(
        limit("edits", maximum=0, selector={"operation": ["edit"]}), limit("spend", meter="cost", maximum="0")
    )
    assert (await ledger.check(builders.check(operation="edit", estimated_cost="0")))["denial"]["limit_id"] == "edits"
    assert (await ledger.check(builders.check(estimated_cost="0")))["denial"]["limit_id"] == "spend"


async def test_no_limit_means_unlimited(ledger: Ledger) -> None:
    await ledger.set_up()
    assert all(await admitted(ledger, *(builders.check(quantity=1_000_000) for _ in range(5))))


async def test_a_soft_limit_lets_through_and_shows_the_overrun(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=1, mode="soft"), limit("cost", meter="cost", maximum="0", mode="soft"))
    assert await admitted(ledger, builders.check(), builders.check(estimated_cost="0.5")) == [True, True]
    assert (await ledger.limit())["available"] == -1
    assert (await ledger.limit("cost"))["available"] == "-0.500000000"


@pytest.mark.parametrize(
    ("selector", "counted", "not_counted"),
    [
        ({"operation": ["edit"]}, [{"operation": "edit"}], [{"operation": "generate"}]),
        ({"operation": ["edit", "upscale"]}, [{"operation": "upscale"}], [{"operation": "generate"}]),
        ({"provider": ["far"]}, [{"provider": "far"}], [{"provider": "local"}]),
        ({"model": ["a/b"]}, [{"model": "a/b"}], [{"model": "a/c"}]),
        (
            {"operation": ["edit"], "provider": ["far"], "model": ["a/b"]},
            [{"operation": "edit", "provider": "far", "model": "a/b"}],
            [{"operation": "edit", "provider": "far", "model": "x"}, {"operation": "edit", "model": "a/b"}],
        ),
        ({"operation": []}, [{"operation": "edit"}, {"operation": "generate"}], []),
    ],
)
async def test_a_limit_counts_what_its_selector_names(
    ledger: Ledger, selector: Body, counted: list[Body], not_counted: list[Body]
) -> None:
    await ledger.set_up(limit(maximum=len(counted), selector=selector))
    assert all(await admitted(ledger, *(builders.check(**fields) for fields in counted)))
    assert not any(await admitted(ledger, *(builders.check(**fields) for fields in counted)))
    assert all(await admitted(ledger, *(builders.check(**fields) for fields in not_counted)))


@pytest.mark.parametrize("scope", ["user", "project", "api_key"])
async def test_a_limit_of_a_narrower_scope_counts_each_on_its_own(ledger: Ledger, scope: str) -> None:
    await ledger.set_up(limit(maximum=1, scope=scope))
    named = [builders.check(**{f"{scope}_id": who}) for who in ("one", "other", "one")]
    assert await admitted(ledger, *named) == [True, True, False]


@pytest.mark.parametrize("window", ["minute", "hour", "day", "month", "billing_period", "lifetime"])
async def test_usage_before_a_window_leaves_its_room(ledger: Ledger, window: str) -> None:
    """What is in the window counts, what is a moment before its start does not: by the limit's own period."""
    anchor = datetime.now(UTC).date().replace(day=1) - timedelta(days=10)
    await ledger.set_up(limit(maximum=2, window=window), time_zone="Asia/Kathmandu", billing_anchor=anchor.isoformat())
    decision = await ledger.check(builders.check())
    start = window_start(window, datetime.fromisoformat(decision["decided_at"]), anchor.day)
    before = start - timedelta(microseconds=1)
    await ledger.send(completed(time=before), completed(time=before))
    await ledger.send(completed(time=start))
    settled = {"lifetime": 3}.get(window, 1)
    state = (await ledger.check(builders.check(dry_run=True)))["limits"][0]
    if state["period"] == decision["limits"][0]["period"]:  # else the window ended meanwhile
        assert (state["settled"], state["held"]) == (settled, 1)


def window_start(window: str, now: datetime, anchor_day: int) -> datetime:
    """In Kathmandu, 5:45 ahead, whose clocks never change."""
    ahead = timedelta(hours=5, minutes=45)
    utc_minute = now.replace(second=0, microsecond=0)
    midnight = (now + ahead).replace(hour=0, minute=0, second=0, microsecond=0)
    first = midnight.replace(day=1)
    since = midnight.replace(day=anchor_day)
    if since > midnight:
        since = (first - timedelta(days=1)).replace(day=anchor_day)
    return {
        "minute": utc_minute,
        "hour": utc_minute.replace(minute=0),
        "day": midnight - ahead,
        "month": first - ahead,
        "billing_period": since - ahead,
        "lifetime": datetime(2000, 1, 2, tzinfo=UTC),
    }[window]


async def test_a_window_counts_in_the_accounts_time_zone(ledger: Ledger) -> None:
    """Where it is tomorrow already, yesterday's usage of UTC is another day's."""
    await ledger.put_plan(limit(maximum=5, window="day"))
    now = datetime.now(UTC)
    for account_id, zone in (("east", "Pacific/Kiritimati"), ("west", "Pacific/Pago_Pago")):
        await ledger.put_account(account_id, time_zone=zone)
    east = (await ledger.check(builders.check(account_id="east")))["limits"][0]["period"]
    west = (await ledger.check(builders.check(account_id="west")))["limits"][0]["period"]
    assert east == f"{now + timedelta(hours=14):%Y-%m-%d}"
    assert west == f"{now - timedelta(hours=11):%Y-%m-%d}"
    assert east != west


@pytest.mark.parametrize(
    ("window", "month", "moment", "before", "after"),
    [
        ("month", "2026-10", "2026-09-30 23:30", {"time_zone": "UTC"}, {"time_zone": "Europe/London"}),
        ("billing_period", "2026-01", "2026-01-30", {"billing_anchor": "2026-01-31"}, {"billing_anchor": "2026-01-30"}),
    ],
)
async def test_periods_that_end_together_and_begin_apart_count_apart(
    ledger: Ledger, window: str, month: str, moment: str, before: Body, after: Body
) -> None:
    await ledger.set_up(limit(window=window), **before)
    await ledger.send(completed(time=builders.at(moment)))
    settled = []
    for calendar in (before, after, before):
        await ledger.put_account(**calendar)
        [state] = (await ledger.usage(period=month))["limits"]
        settled.append(state["settled"])
    assert settled == [0, 1, 0]


# --- unknown things ---


async def test_an_unknown_account_is_denied_and_told_so(ledger: Ledger) -> None:
    decision = await ledger.check(builders.check())
    assert decision["allowed"] is False
    assert (decision["denial"]["code"], decision["denial"]["limit_id"]) == ("unknown_account", None)
    assert usual.account_id in decision["denial"]["message"]


async def test_an_account_on_a_plan_that_does_not_exist_is_denied_and_told_so(ledger: Ledger) -> None:
    await ledger.put_account(plan_id="missing")
    decision = await ledger.check(builders.check())
    assert decision["denial"]["code"] == "unknown_plan"
    assert "missing" in decision["denial"]["message"]
    await ledger.put_plan(limit(), plan_id="missing")
    assert await admitted(ledger, builders.check()) == [True]


async def test_an_unknown_operation_is_denied_and_told_so(ledger: Ledger) -> None:
    await ledger.set_up()
    decision = await ledger.check(builders.check(operation="levitate"))
    assert decision["denial"]["code"] == "unknown_operation"
    assert "levitate" in decision["denial"]["message"]


@alone
async def test_an_unregistered_account_is_on_the_default_plan_where_there_is_one(start_ledger: StartLedger) -> None:
    ledger = await start_ledger(default_plan_id="free")
    assert (await ledger.check(builders.check()))["denial"]["code"] == "unknown_plan"
    await ledger.put_plan(limit(maximum=1), plan_id="free")
    assert await admitted(ledger, builders.check(), builders.check()) == [True, False]
    assert (await ledger.limit())["held"] == 1
    await ledger.set_up(limit(maximum=3))
    assert await admitted(ledger, builders.check(), builders.check(), builders.check()) == [True, True, False]


# --- changes of plan ---


async def test_a_changed_plan_holds_from_the_next_check_and_forgets_nothing(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=2))
    first = builders.check()
    await admitted(ledger, first, builders.check())
    await ledger.send(completed(first))
    assert await admitted(ledger, builders.check()) == [False]
    await ledger.put_plan(limit("renamed", maximum=3), limit("new", meter="units", maximum=9, window="day"))
    assert await admitted(ledger, builders.check(), builders.check()) == [True, False]
    for name in ("renamed", "new"):
        state = await ledger.limit(name)
        assert (state["settled"], state["held"]) == (1, 2)


# --- reservations ---


async def test_a_completed_operation_settles_its_hold_with_what_it_used(ledger: Ledger) -> None:
    await ledger.set_up(limit(), limit("units", meter="units", maximum=9), limit("cost", meter="cost", maximum="9"))
    asked = builders.check(quantity=4, estimated_cost="0.5")
    await ledger.check(asked)
    await ledger.send(completed(asked, quantity=3, cost="0.123456789"))
    for name, settled in (("images", 1), ("units", 3), ("cost", "0.123456789")):
        state = await ledger.limit(name)
        assert state["settled"] == settled
        assert Decimal(str(state["held"])) == 0
    assert (await ledger.decision(asked["operation_id"]))["state"] == "settled"


async def test_a_failed_operation_gives_its_hold_back(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=1), limit("cost", meter="cost", maximum="1"))
    asked = builders.check(estimated_cost="1")
    await ledger.check(asked)
    assert await admitted(ledger, builders.check(estimated_cost="1")) == [False]
    await ledger.send(failed(asked))
    assert (await ledger.decision(asked["operation_id"]))["state"] == "released"
    assert await admitted(ledger, builders.check(estimated_cost="1")) == [True]


async def test_a_failure_that_was_billed_counts_its_cost_and_no_call(ledger: Ledger) -> None:
    await ledger.set_up(limit(), limit("units", meter="units", maximum=5), limit("cost", meter="cost", maximum="1"))
    asked = builders.check(estimated_cost="0.5")
    await ledger.check(asked)
    await ledger.send(failed(asked, cost="0.25"))
    states = [await ledger.limit(name) for name in ("images", "units", "cost")]
    assert [state["settled"] for state in states] == [0, 0, "0.250000000"]
    assert [state["held"] for state in states] == [0, 0, "0.000000000"]


async def test_a_hold_can_be_released_and_that_again(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=1))
    asked = builders.check()
    await ledger.check(asked)
    for _ in range(2):
        answer = await ledger.release(asked["operation_id"])
        assert (answer.status_code, answer.json()["state"]) == (200, "released")
    assert (await ledger.limit())["held"] == 0
    assert await admitted(ledger, builders.check()) == [True]


async def test_a_settled_operation_has_nothing_to_release_or_extend(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    asked = builders.check()
    await ledger.check(asked)
    await ledger.send(completed(asked))
    for answer in (await ledger.release(asked["operation_id"]), await ledger.extend(asked["operation_id"])):
        assert (answer.status_code, answer.json()["code"]) == (409, "reservation_closed")
    assert (await ledger.limit())["settled"] == 1


async def test_what_was_never_held_cannot_be_released_or_extended(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=0))
    denied = builders.check()
    await ledger.check(denied)
    for operation_id in (denied["operation_id"], builders.new_id()):
        for answer in (await ledger.release(operation_id), await ledger.extend(operation_id)):
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_hold_expires_when_its_time_is_over(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=1))
    asked = builders.check(ttl_seconds=1)
    await ledger.check(asked)

    async def expired() -> bool:
        return bool((await ledger.decision(asked["operation_id"]))["state"] == "expired")

    await eventually(expired, "the hold expires")
    assert (await ledger.limit())["held"] == 0
    assert await admitted(ledger, builders.check()) == [True]


@alone
async def test_a_hold_that_is_extended_while_it_is_about_to_expire_stays(
    start_ledger: StartLedger, database: "Database[asyncpg.Record]", writing_pool: Pool
) -> None:
    ledger = await start_ledger(expiry_interval_seconds=3600)
    await ledger.set_up(limit(maximum=2))
    await admitted(ledger, extended := builders.check(ttl_seconds=1), over := builders.check(ttl_seconds=1))
    await eventually(
        lambda: database.fetchval("select bool_and(expires_at <= clock_timestamp()) from decisions"), "both are due"
    )
    async with database.transaction():
        await database.execute("select from accounts for update")
        expiring = asyncio.create_task(expire_portion(writing_pool))
        await eventually(lambda: database.fetchval(WAITING, 1), "it has found what is due, and waits for the account")
        await database.execute(
            "update decisions set expires_at = now() + interval '1 hour' where operation_id = $1",
            UUID(extended["operation_id"]),
        )
    await expiring
    assert [(await ledger.decision(one["operation_id"]))["state"] for one in (extended, over)] == ["held", "expired"]
    assert (await ledger.limit())["held"] == 1


async def test_an_extended_hold_lasts_longer(ledger: Ledger, shared_database: "Database[asyncpg.Record]") -> None:
    await ledger.set_up(limit(maximum=1))
    short, extended = builders.check(ttl_seconds=1), builders.check(ttl_seconds=1, account_id=f"{usual.account_id}-2")
    await ledger.put_account(extended["account_id"])
    await admitted(ledger, short, extended)
    answer = await ledger.extend(extended["operation_id"], ttl_seconds=500)
    assert answer.status_code == 200
    ends = datetime.fromisoformat(answer.json()["expires_at"])
    assert timedelta(seconds=490) < ends - datetime.now(UTC) <= timedelta(seconds=501)

    async def expired() -> bool:
        return bool((await ledger.decision(short["operation_id"]))["state"] == "expired")

    await eventually(expired, "the other hold expires")
    assert (await ledger.decision(extended["operation_id"]))["state"] == "held"
    logged = await shared_database.fetchval(
        "select count(*) from event_log where operation_id = $1 and type = 'ledger.reservation.extended.v1'",
        extended["operation_id"],
    )
    assert logged == 1, "holds are events in the log, their extensions too"


async def test_a_completion_after_the_hold_expired_still_counts(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=1))
    late = builders.check(ttl_seconds=1)
    await ledger.check(late)

    async def next_is_admitted() -> bool:
        return bool((await ledger.check(builders.check(dry_run=True)))["allowed"])

    await eventually(next_is_admitted, "the hold expires")
    await ledger.check(builders.check())
    await ledger.send(completed(late))
    state = await ledger.limit()
    assert (state["settled"], state["held"], state["available"]) == (1, 1, -1)
    assert (await ledger.decision(late["operation_id"]))["state"] == "settled"


async def test_a_completion_after_a_release_still_counts(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    asked = builders.check()
    await ledger.check(asked)
    await ledger.release(asked["operation_id"])
    await ledger.send(completed(asked))
    state = await ledger.limit()
    assert (state["settled"], state["held"]) == (1, 0)


# --- the decision explained ---


async def test_a_decision_is_explained_with_what_was_asked_and_what_became_of_it(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    asked = builders.check(quantity=2, estimated_cost="0.5")
    decision = await ledger.check(asked)
    explained = await ledger.decision(asked["operation_id"])
    assert {name: explained[name] for name in decision} == decision
    assert explained["state"] == "held"
    assert explained["outcome"] is None
    assert explained["check"]["quantity"] == 2
    assert explained["check"]["estimated_cost"] == "0.500000000"
    await ledger.send(event := completed(asked, cost="0.4"))
    explained = await ledger.decision(asked["operation_id"])
    assert explained["state"] == "settled"
    outcome = explained["outcome"]
    assert (outcome["outcome"], outcome["quantity"], outcome["cost"]) == ("completed", 2, "0.400000000")
    assert datetime.fromisoformat(outcome["occurred_at"]) == datetime.fromisoformat(event["time"])


async def test_a_denial_is_explained_too(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=0))
    decision = await ledger.check(asked := builders.check())
    explained = await ledger.decision(asked["operation_id"])
    assert explained["state"] == "denied"
    assert explained["denial"] == decision["denial"]


async def test_a_decision_is_found_under_its_own_account_only(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    await ledger.check(asked := builders.check())
    url = f"/v1/decisions/{asked['operation_id']}"
    answers: list[httpx.Response] = [
        await ledger.http.get(url, params={"account_id": account_id}) for account_id in (usual.account_id, "other")
    ]
    assert [answer.status_code for answer in answers] == [200, 404]
