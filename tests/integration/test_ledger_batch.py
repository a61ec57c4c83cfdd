"""Many limit checks in one call, and the calls about holds over NATS: each answered as if it had come alone."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client as Nats

from contracts.limits import LimitCheckBatchAnswer
from contracts.subjects import LIMITS_CHECK_BATCH, RESERVATIONS_EXTEND, RESERVATIONS_RELEASE
from tests import builders
from tests.builders import Body, check, completed, limit, usual
from tests.conftest import StartLedger
from tests.servers import Ledger, eventually

#: One ledger for all but one of them: each test has an account and a plan of its own.
pytestmark = pytest.mark.asyncio(loop_scope="module")

URL = "/v1/limit-checks:batch"
ANSWER_SECONDS = 20


@pytest.fixture
def ledger(lent_ledger: Ledger) -> Ledger:
    return lent_ledger


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nats_client(shared_nats_url: str) -> AsyncIterator[Nats]:
    client = await nats.connect(shared_nats_url)
    yield client
    await client.close()


async def batch(ledger: Ledger, checks: Sequence[Any]) -> list[Body]:
    answer = await ledger.http.post(URL, json={"checks": checks})
    assert answer.status_code == 200, answer.text
    LimitCheckBatchAnswer.model_validate_json(answer.content)
    results: list[Body] = answer.json()["results"]
    assert all(len(result) == 1 for result in results), "a decision or a problem"
    return results


async def over_nats(nats_client: Nats, subject: str, body: Any) -> tuple[str | None, Body]:
    """The service error's code, where it is one, and the answer's body."""
    answer = await nats_client.request(subject, json.dumps(body).encode(), timeout=ANSWER_SECONDS)
    return (answer.headers or {}).get("Nats-Service-Error-Code"), json.loads(answer.data)


def allowed(results: list[Body]) -> int:
    return sum(result["decision"]["allowed"] for result in results)


def problem_of(result: Body) -> tuple[str, list[tuple[str, str]]]:
    problem = result["problem"]
    return problem["code"], [(error["field"], error["rule"]) for error in problem["errors"]]


# --- each on its own ---


async def test_a_thousand_checks_admit_exactly_what_there_is_room_for(ledger: Ledger) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1", thresholds=[90]), limit("each", scope="user"))
    asked = [check(user_id=f"user-{number % 100}", estimated_cost="0.052") for number in range(1000)]
    results = await batch(ledger, asked)
    assert [result["decision"]["operation_id"] for result in results] == [one["operation_id"] for one in asked]
    admitted = [result["decision"]["allowed"] for result in results]
    assert admitted.count(True) == 19
    assert (await ledger.limit("spend"))["held"] == "0.988000000"
    # Taken in pieces that may overtake each other, but never denied while there was room.
    shown = [
        (result["decision"]["allowed"], result["decision"]["limits"][0]["held"])
        for result in sorted(results, key=lambda result: str(result["decision"]["limits"][0]["held"]))
    ]
    assert shown[:18] == [(True, f"{number * 0.052:.9f}") for number in range(1, 19)]
    assert {held for _, held in shown[18:]} == {"0.988000000"}
    assert await batch(ledger, asked) == results, "asked again, the same answers"
    assert (await ledger.limit("spend"))["held"] == "0.988000000"


async def test_a_batch_answers_what_its_checks_alone_would_get(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=2))
    other = f"{usual.account_id}-other"
    await ledger.put_account(other, plan_id="nothing")
    asked = [check(), check(account_id=other), check(), check(), check(operation="dance")]
    results = await batch(ledger, asked)
    for one, result in zip(asked, results, strict=True):
        assert result["decision"] == await ledger.check(one)
    codes = [(result["decision"]["denial"] or {}).get("code") for result in results]
    assert codes == [None, "unknown_plan", None, "limit_exceeded", "unknown_operation"]


async def test_small_and_large_shares_in_one_batch_are_decided_in_its_order(ledger: Ledger) -> None:
    await ledger.set_up(limit("units", meter="units", maximum=10))
    results = await batch(ledger, [check(quantity=quantity) for quantity in (7, 4, 3, 1)])
    assert [result["decision"]["allowed"] for result in results] == [True, False, True, False]


async def test_one_bad_check_among_a_thousand_is_its_own_answer(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=2000))
    asked: list[Any] = [check() for _ in range(1000)]
    asked[500] = check(quantity=0)
    results = await batch(ledger, asked)
    assert problem_of(results[500]) == ("invalid_request", [("quantity", "greater_than_equal")])
    assert allowed([*results[:500], *results[501:]]) == 999
    assert (await ledger.limit())["held"] == 999


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({}, "operation_id"),
        (None, ""),
        ("check", ""),
        ([], ""),
        (check(estimated_cost=0.5), "estimated_cost"),
        (check(estimated_cost="-1"), "estimated_cost"),
        (check(user_id=5), "user_id"),
        (check(colour="red"), "colour"),
        (check(ttl_seconds=86_401), "ttl_seconds"),
    ],
)
async def test_a_bad_check_names_its_field_and_its_neighbours_are_decided(ledger: Ledger, bad: Any, field: str) -> None:
    await ledger.set_up(limit())
    results = await batch(ledger, [check(), bad, check()])
    code, errors = problem_of(results[1])
    assert (code, errors[0][0]) == ("invalid_request", field)
    assert allowed([results[0], results[2]]) == 2
    assert (await ledger.limit())["held"] == 2


async def test_one_check_that_costs_too_much_leaves_the_others(ledger: Ledger) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="100"))
    price = {"valid_from": "2026-01-01T00:00:00Z", "variants": [{"when": {}, "price": "1000"}]}
    answer = await ledger.http.put("/v1/prices/local/generate/dear-1", json=price)
    assert answer.status_code == 200, answer.text
    results = await batch(
        ledger, [check(model="dear-1", quantity=1_000_000), check(model="dear-1", estimated_cost="1")]
    )
    assert problem_of(results[0])[1][0][0] == "quantity"
    assert results[1]["decision"]["allowed"]


async def test_the_same_check_twice_in_a_batch_is_held_once(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    asked = check()
    first, again, other = await batch(ledger, [asked, asked, {**asked, "quantity": 2}])
    assert first == again
    assert other["problem"]["code"] == "conflict"
    assert (await ledger.limit())["held"] == 1


async def test_a_member_that_stands_twice_is_refused_beside_a_bad_check_too(ledger: Ledger) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1"))
    twice = json.dumps(check(estimated_cost="0.9"))[:-1] + ', "estimated_cost": "0.000000001"}'
    content = f'{{"checks": [{twice}, {json.dumps(check(quantity=0))}]}}'
    answer = await ledger.http.post(URL, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert problem_of({"problem": answer.json()}) == ("invalid_request", [("estimated_cost", "repeated_member")])
    assert (await ledger.limit("spend"))["held"] == "0.000000000"


async def test_a_check_that_the_database_refuses_takes_no_other_answer_with_it(
    ledger: Ledger, shared_database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await ledger.set_up(limit(mode="soft"))
    other = f"{usual.account_id}-other"
    await ledger.put_account(other)
    await ledger.check(check())
    full = "update counters set held = 9223372036854775807 where account_id = $1"
    await shared_database.execute(full, usual.account_id)
    results = await batch(ledger, [check(), check(account_id=other)])
    assert problem_of(results[0]) == ("internal", [])
    assert results[1]["decision"]["allowed"] is True


async def test_checks_repeated_in_a_batch_meet_what_became_of_them(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=3))
    denied_later = check(ttl_seconds=1)
    released, finished, expiring = check(), check(), check(ttl_seconds=1)
    await batch(ledger, [released, finished, expiring])
    denied = await ledger.check(denied_later)
    await ledger.release(released["operation_id"])
    await ledger.send(completed(finished), event := completed())

    async def expired() -> bool:
        return bool((await ledger.decision(expiring["operation_id"]))["state"] == "expired")

    await eventually(expired, "the hold expires")
    unchecked = check(operation_id=event["data"]["operation_id"])
    results = await batch(ledger, [released, expiring, unchecked, denied_later])
    codes = [result["problem"]["code"] for result in results[:3]]
    assert codes == ["reservation_closed", "reservation_closed", "operation_finished"]
    assert results[3]["decision"] == denied
    assert (await ledger.limit())["held"] == 0


async def test_dry_runs_in_a_batch_hold_nothing(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=1))
    results = await batch(ledger, [check(dry_run=True), check(dry_run=True), check(), check(dry_run=True)])
    assert [result["decision"]["allowed"] for result in results] == [True, True, True, False]


# --- the batch itself ---


@pytest.mark.parametrize("count", [1001, 2500])
@pytest.mark.parametrize("bad", [[], [{"quantity": 0}]], ids=["good", "bad"])
async def test_more_than_a_thousand_are_refused_and_nothing_is_held(ledger: Ledger, count: int, bad: list[Any]) -> None:
    await ledger.set_up(limit(maximum=5000))
    asked = [*bad, *(check() for _ in range(count - len(bad)))]
    answer = await ledger.http.post(URL, json={"checks": asked})
    assert answer.status_code in (413, 422), answer.text
    if answer.status_code == 422:
        assert [error["field"] for error in answer.json()["errors"]] == ["checks"]
    assert (await ledger.limit())["held"] == 0


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "malformed_json", [])),
        (b"{", (400, "malformed_json", [])),
        (b"[]", (422, "invalid_request", [""])),
        (b"{}", (422, "invalid_request", ["checks"])),
        (b'{"checks": []}', (422, "invalid_request", ["checks"])),
        (b'{"checks": 5}', (422, "invalid_request", ["checks"])),
        (b'{"checks": {"0": {}}}', (422, "invalid_request", ["checks"])),
        (b'{"checks": [{}], "dry_run": true}', (422, "invalid_request", ["dry_run"])),
    ],
)
async def test_what_is_no_batch_is_refused_as_a_whole(
    ledger: Ledger, nats_client: Nats, body: bytes, expected: tuple[int, str, list[str]]
) -> None:
    def told(status: int, problem: Body) -> tuple[int, str, bool]:
        named = [error["field"] for error in problem["errors"]]
        return status, problem["code"], all(field in named for field in expected[2])

    answer = await ledger.http.post(URL, content=body)
    assert told(answer.status_code, answer.json()) == (*expected[:2], True)
    message = await nats_client.request(LIMITS_CHECK_BATCH, body, timeout=ANSWER_SECONDS)
    code = int((message.headers or {})["Nats-Service-Error-Code"])
    assert told(code, json.loads(message.data)) == (*expected[:2], True)


@pytest.mark.asyncio(loop_scope="function")
async def test_batches_at_once_on_two_ledgers_stay_exact(start_ledger: StartLedger) -> None:
    ledgers = [await start_ledger(), await start_ledger()]
    await ledgers[0].set_up(limit(maximum=333))
    asked = [[check() for _ in range(100)] for _ in range(8)]
    # Every batch goes to both.
    answers = await asyncio.gather(*(batch(ledger, some) for some in asked for ledger in ledgers))
    assert answers[::2] == answers[1::2]
    assert sum(map(allowed, answers[::2])) == 333
    assert (await ledgers[0].limit())["held"] == 333


# --- over NATS ---


async def test_a_batch_over_nats_is_answered_as_over_http(ledger: Ledger, nats_client: Nats) -> None:
    await ledger.set_up(limit(maximum=30))
    asked: list[Any] = [check() for _ in range(50)]
    asked[7] = check(quantity=0)
    code, answer = await over_nats(nats_client, LIMITS_CHECK_BATCH, {"checks": asked})
    assert code is None
    assert answer["results"] == await batch(ledger, asked)
    assert allowed([*answer["results"][:7], *answer["results"][8:]]) == 30


async def test_an_answer_too_large_for_nats_is_said_to_be_and_to_be_had_otherwise(
    ledger: Ledger, nats_client: Nats
) -> None:
    """The checks are decided nonetheless: asked again in pieces, they get what they got."""
    await ledger.set_up(*(limit(f"limit-{number}", maximum=1000 + number) for number in range(12)))
    asked = [check() for _ in range(1000)]
    code, problem = await over_nats(nats_client, LIMITS_CHECK_BATCH, {"checks": asked})
    assert (code, problem["code"]) == ("413", "too_large")
    assert (await ledger.limit("limit-0"))["held"] == 1000
    pieces = [asked[start : start + 100] for start in range(0, 1000, 100)]
    answers = [await over_nats(nats_client, LIMITS_CHECK_BATCH, {"checks": piece}) for piece in pieces]
    assert [code for code, _ in answers] == [None] * 10
    assert sum(allowed(answer["results"]) for _, answer in answers) == 1000
    assert (await ledger.limit("limit-0"))["held"] == 1000


async def test_a_hold_is_released_and_extended_over_nats(ledger: Ledger, nats_client: Nats) -> None:
    await ledger.set_up(limit(maximum=1))
    asked = check(ttl_seconds=30)
    await ledger.check(asked)
    ref = {"operation_id": asked["operation_id"]}
    code, state = await over_nats(nats_client, RESERVATIONS_EXTEND, {**ref, "ttl_seconds": 600})
    assert (code, state["state"]) == (None, "held")
    left = datetime.fromisoformat(state["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=590) < left <= timedelta(seconds=601)
    for _ in range(2):  # idempotent
        assert await over_nats(nats_client, RESERVATIONS_RELEASE, {**ref, "account_id": usual.account_id}) == (
            None,
            {**ref, "state": "released"},
        )
    assert (await ledger.limit())["held"] == 0
    code, problem = await over_nats(nats_client, RESERVATIONS_EXTEND, ref)
    assert (code, problem["code"]) == ("409", "reservation_closed")
    assert "released" in problem["detail"]


async def test_a_settled_reservation_is_closed_over_nats(ledger: Ledger, nats_client: Nats) -> None:
    await ledger.set_up(limit())
    asked = check()
    await ledger.check(asked)
    await ledger.send(completed(asked))
    for subject in (RESERVATIONS_RELEASE, RESERVATIONS_EXTEND):
        code, problem = await over_nats(nats_client, subject, {"operation_id": asked["operation_id"]})
        assert (code, problem["code"]) == ("409", "reservation_closed")
    assert (await ledger.limit())["settled"] == 1


@pytest.mark.parametrize("subject", [RESERVATIONS_RELEASE, RESERVATIONS_EXTEND])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ("404", "not_found")),
        ({"operation_id": "5"}, ("422", "invalid_request")),
        ({"account_id": "other"}, ("404", "not_found")),
        ({"colour": "red"}, ("422", "invalid_request")),
        ({"ttl_seconds": 86_401}, ("422", "invalid_request")),
    ],
)
async def test_what_is_no_reservation_is_refused_over_nats(
    ledger: Ledger, nats_client: Nats, subject: str, fields: Body, expected: tuple[str, str]
) -> None:
    await ledger.set_up(limit(maximum=1))
    asked = check()
    await ledger.check(asked)
    denied = check()
    await ledger.check(denied)
    of = asked if fields else denied
    code, problem = await over_nats(nats_client, subject, {"operation_id": of["operation_id"], **fields})
    assert (code, problem["code"]) == expected
    assert (await ledger.limit())["held"] == 1


# --- what a plan without prices holds ---


async def test_a_unit_without_a_price_is_held_at_the_plans_ceiling(ledger: Ledger) -> None:
    plan = {**builders.plan(limit("spend", meter="cost", maximum="1")), "unpriced_unit_ceiling": "0.3"}
    assert (await ledger.http.put(f"/v1/plans/{usual.plan_id}", json=plan)).status_code == 200
    await ledger.put_account()
    results = await batch(ledger, [check(model="new-1", quantity=2), check(model="new-1", quantity=2)])
    assert [result["decision"]["allowed"] for result in results] == [True, False]
    assert results[0]["decision"]["estimated_cost"] == "0.600000000"
    assert "price" not in results[0]["decision"]
    largest = await ledger.check(check(model="new-1", quantity=10**6))
    assert largest["denial"]["code"] == "limit_exceeded"
