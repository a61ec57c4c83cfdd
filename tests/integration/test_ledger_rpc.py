"""The limit check over NATS request-reply: one handler, two transports."""

import asyncio
import json

import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from contracts.limits import Decision
from contracts.subjects import (
    LEASES_PLACE,
    LEASES_RETURN,
    LIMITS_CHECK,
    LIMITS_CHECK_BATCH,
    RESERVATIONS_EXTEND,
    RESERVATIONS_MOVE,
    RESERVATIONS_RELEASE,
)
from tests.builders import check, limit
from tests.servers import Ledger

ANSWER_SECONDS = 10


async def ask(nats: Nats, body: bytes) -> Msg:
    return await nats.request(LIMITS_CHECK, body, timeout=ANSWER_SECONDS)


def refusal(answer: Msg) -> tuple[str | None, str, list[str]]:
    """The service error's code, the problem's code, and the fields that it names."""
    problem = json.loads(answer.data)
    return (
        (answer.headers or {}).get("Nats-Service-Error-Code"),
        problem["code"],
        [e["field"] for e in problem["errors"]],
    )


async def test_both_transports_give_the_same_bytes(ledger: Ledger, nats_client: Nats) -> None:
    await ledger.set_up(limit("images", maximum=25))
    asked = check()
    over_nats = await ask(nats_client, json.dumps(asked).encode())
    assert Decision.model_validate_json(over_nats.data).allowed
    assert (await ledger.http.post("/v1/limit-checks", json=asked)).content == over_nats.data
    assert (await ledger.limit())["held"] == 1


async def test_a_hundred_at_once_on_both_transports_admit_what_there_is_room_for(
    ledger: Ledger, nats_client: Nats
) -> None:
    await ledger.set_up(limit("images", maximum=25))
    answers, decisions = await asyncio.gather(
        asyncio.gather(*(ask(nats_client, json.dumps(check()).encode()) for _ in range(50))),
        asyncio.gather(*(ledger.check(check()) for _ in range(50))),
    )
    allowed = [json.loads(answer.data)["allowed"] for answer in answers] + [one["allowed"] for one in decisions]
    assert allowed.count(True) == 25
    assert (await ledger.limit())["available"] == 0


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{", ("400", "malformed_json", [])),
        (json.dumps(check(quantity=0)).encode(), ("422", "invalid_request", ["quantity"])),
        (json.dumps(check(estimated_cost=0.5)).encode(), ("422", "invalid_request", ["estimated_cost"])),
    ],
)
async def test_bad_input_is_a_service_error_with_the_problem(
    ledger: Ledger, nats_client: Nats, body: bytes, expected: tuple[str, str, list[str]]
) -> None:
    assert ledger.url
    assert refusal(await ask(nats_client, body)) == expected


async def test_a_name_as_long_as_a_request_is_refused_in_an_answer_that_arrives(
    ledger: Ledger, nats_client: Nats
) -> None:
    """It stands in the answer's header and body: whole, the answer would be larger than NATS takes, and be lost."""
    body = b'{"checks":[],"%b":1}' % (b"n" * 900_000)
    answer = await nats_client.request(LIMITS_CHECK_BATCH, body, timeout=ANSWER_SECONDS)
    code, problem, fields = refusal(answer)
    assert (code, problem) == ("422", "invalid_request")
    assert "n" * 200 + "…" in fields
    assert len(answer.data) < 5_000


async def test_the_same_operation_with_another_body_is_a_conflict(ledger: Ledger, nats_client: Nats) -> None:
    await ledger.set_up(limit("images", maximum=25))
    asked = check()
    await ledger.check(asked)
    answer = await ask(nats_client, json.dumps({**asked, "quantity": 2}).encode())
    assert refusal(answer) == ("409", "conflict", [])


async def test_the_service_is_found_by_its_name(ledger: Ledger, nats_client: Nats) -> None:
    assert ledger.url
    found = json.loads((await nats_client.request("$SRV.INFO.ledger", b"", timeout=ANSWER_SECONDS)).data)
    assert found["name"] == "ledger"
    assert [endpoint["subject"] for endpoint in found["endpoints"]] == [
        LIMITS_CHECK,
        LIMITS_CHECK_BATCH,
        RESERVATIONS_RELEASE,
        RESERVATIONS_EXTEND,
        RESERVATIONS_MOVE,
        LEASES_PLACE,
        LEASES_RETURN,
    ]
