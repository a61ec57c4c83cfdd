"""Events over HTTP: what is recorded, what counts once, and what is refused with its field named."""

import asyncio
import json
from collections.abc import Callable

import asyncpg
import pytest

from contracts.events import BATCH_CONTENT_TYPE, CONTENT_TYPE
from ledger_service import event_intake
from tests import builders
from tests.builders import ABSENT, Body, completed, failed, limit, requested, usual
from tests.conftest import StartLedger
from tests.servers import Ledger, eventually

#: One ledger for most of them: each test has an account of its own.
pytestmark = pytest.mark.asyncio(loop_scope="module")
#: Of those that need a ledger to themselves: another loop, as the shared one stands still meanwhile.
alone = pytest.mark.asyncio(loop_scope="function")

Database = asyncpg.Connection
ONCE = {"calls": 1, "units": 1, "cost": "0.040000000", "failures": 0}


@pytest.fixture
def ledger(lent_ledger: Ledger) -> Ledger:
    return lent_ledger


async def letters(database: "Database[asyncpg.Record]") -> list[asyncpg.Record]:
    """Of the test's account."""
    query = "select origin, code, body from dead_letters where account_id = $1"
    return await database.fetch(query, usual.account_id)


async def totals(ledger: Ledger) -> Body:
    found: Body = (await ledger.usage())["totals"]
    return found


# --- counted once ---


async def test_an_event_is_answered_once_it_is_committed(ledger: Ledger) -> None:
    answer = await ledger.send_one(completed())
    assert (answer.status_code, answer.json()) == (200, {"accepted": 1, "duplicates": 0, "rejected": []})
    assert await totals(ledger) == ONCE


async def test_the_same_event_twice_in_one_batch_counts_once(ledger: Ledger) -> None:
    event = completed()
    assert await ledger.send(event, event) == {"accepted": 1, "duplicates": 1, "rejected": []}
    assert await totals(ledger) == ONCE


async def test_the_same_event_in_two_batches_counts_once(ledger: Ledger) -> None:
    event = completed()
    assert [(await ledger.send(event))["duplicates"] for _ in range(3)] == [0, 1, 1]
    assert await totals(ledger) == ONCE


async def test_the_same_event_on_many_connections_at_once_counts_once(ledger: Ledger) -> None:
    event = completed()
    answers = await asyncio.gather(*(ledger.send(event) for _ in range(20)))
    assert sum(answer["accepted"] for answer in answers) == 1
    assert sum(answer["duplicates"] for answer in answers) == 19
    assert await totals(ledger) == ONCE


async def test_an_event_written_in_another_way_is_the_same_event(ledger: Ledger) -> None:
    event = completed(metadata={"b": 1, "a": [2, {"c": "é"}]})
    await ledger.send_one(event)
    rewritten = json.dumps(event, indent=2, sort_keys=True, ensure_ascii=False).encode()
    assert (await ledger.send_one(rewritten)).json()["duplicates"] == 1


async def test_the_same_event_id_with_another_body_is_a_conflict_and_the_first_counts(
    ledger: Ledger, shared_database: "Database[asyncpg.Record]"
) -> None:
    await ledger.send(first := completed())
    other = {**first, "data": {**first["data"], "cost": "9"}}
    answer = await ledger.send_one(other)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert first["id"] in answer.json()["detail"]
    assert await totals(ledger) == ONCE
    [letter] = await letters(shared_database)
    assert (letter["origin"], letter["code"]) == ("http", "conflict")
    assert json.loads(letter["body"]) == other


async def test_the_same_event_id_with_another_body_in_one_batch_is_a_conflict(ledger: Ledger) -> None:
    first = completed()
    answer = await ledger.send(first, {**first, "time": "2026-11-01T00:00:00Z"})
    assert (answer["accepted"], [one["index"] for one in answer["rejected"]]) == (1, [1])
    assert answer["rejected"][0]["problem"]["code"] == "conflict"


@pytest.mark.parametrize("make", [completed, failed])
async def test_of_two_outcomes_of_an_operation_the_first_counts(
    ledger: Ledger, shared_database: "Database[asyncpg.Record]", make: Callable[..., Body]
) -> None:
    await ledger.send(first := completed())
    second = make(operation_id=first["data"]["operation_id"], cost="9")
    answer = await ledger.send_one(second)
    assert (answer.status_code, answer.json()["code"]) == (409, "operation_conflict")
    assert first["data"]["operation_id"] in answer.json()["detail"]
    assert await totals(ledger) == ONCE
    assert [letter["code"] for letter in await letters(shared_database)] == ["operation_conflict"]


async def test_of_two_outcomes_in_one_batch_the_first_counts(ledger: Ledger) -> None:
    first = completed()
    answer = await ledger.send(first, failed(operation_id=first["data"]["operation_id"], cost="1"))
    assert (answer["accepted"], answer["rejected"][0]["problem"]["code"]) == (1, "operation_conflict")
    assert await totals(ledger) == ONCE


async def test_two_outcomes_at_once_count_one(ledger: Ledger) -> None:
    operation_id = builders.new_id()
    events = [completed(operation_id=operation_id) for _ in range(10)]
    answers = await asyncio.gather(*(ledger.send_one(event) for event in events))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 9
    assert await totals(ledger) == ONCE


async def test_an_outcome_behind_a_conflicting_event_of_its_batch_still_counts(ledger: Ledger) -> None:
    """The event before it is about the same operation, but contradicts the log, so it is no outcome of anything."""
    await ledger.send(known := completed())
    operation_id = builders.new_id()
    contradiction = {**known, "data": {**known["data"], "operation_id": operation_id}}
    answer = await ledger.send(contradiction, completed(operation_id=operation_id))
    assert (answer["accepted"], [one["index"] for one in answer["rejected"]]) == (1, [0])
    assert (await totals(ledger))["calls"] == 2


async def test_an_event_behind_a_second_outcome_with_its_id_still_counts(ledger: Ledger) -> None:
    await ledger.send(known := completed())
    second = completed(operation_id=known["data"]["operation_id"])
    answer = await ledger.send(second, completed(id=second["id"]))
    assert (answer["accepted"], [one["index"] for one in answer["rejected"]]) == (1, [0])
    assert (await totals(ledger))["calls"] == 2


# --- any order ---


async def test_completed_before_requested_counts(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    asked = builders.check()
    await ledger.check(asked)
    await ledger.send(completed(asked))
    await ledger.send(requested(asked))
    assert await totals(ledger) == ONCE
    assert (await ledger.limit())["settled"] == 1


async def test_completed_without_a_check_counts_against_the_limit(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=2))
    await ledger.check(builders.check(dry_run=True))
    await ledger.send(completed(), completed())
    assert (await ledger.limit())["settled"] == 2
    assert (await ledger.check(builders.check()))["denial"]["limit_id"] == "images"


async def test_completed_for_an_account_nobody_registered_counts(ledger: Ledger) -> None:
    stranger = f"{usual.account_id}-stranger"
    await ledger.send(completed(account_id=stranger))
    assert (await ledger.usage(stranger))["totals"] == ONCE
    await ledger.put_plan(limit(maximum=5))
    await ledger.put_account(stranger)
    assert (await ledger.usage(stranger))["limits"][0]["settled"] == 1


async def test_completed_after_a_denial_counts(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=0))
    asked = builders.check()
    assert not (await ledger.check(asked))["allowed"]
    await ledger.send(completed(asked))
    state = await ledger.limit()
    assert (state["settled"], state["held"], state["available"]) == (1, 0, -1)
    assert (await ledger.decision(asked["operation_id"]))["state"] == "denied"


async def test_a_request_alone_counts_nothing(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    await ledger.send(requested())
    assert await totals(ledger) == {"calls": 0, "units": 0, "cost": "0.000000000", "failures": 0}
    assert (await ledger.limit())["settled"] == 0


# --- bad input ---


VERSION_4 = "9f0d4a1e-0b5e-4c3a-8d7e-1f2a3b4c5d6e"

REFUSED: dict[str, tuple[Body, str]] = {
    "money as a number": (completed(cost=0.04), "data.cost"),
    "money with ten decimals": (completed(cost="0.0400000000"), "data.cost"),
    "money from a float": (completed(cost=str(0.1 + 0.2)), "data.cost"),
    "NaN": (completed(cost="NaN"), "data.cost"),
    "infinite money": (completed(cost="Infinity"), "data.cost"),
    "negative money": (completed(cost="-0.01"), "data.cost"),
    "money with grouping": (completed(cost="1_000"), "data.cost"),
    "money beyond all prices": (completed(cost="1e99"), "data.cost"),
    "an exponent that hides decimals": (completed(cost="1e-10"), "data.cost"),
    "an estimate as a number": (requested(estimated_cost=1), "data.estimated_cost"),
    "no cost": (completed(cost=ABSENT), "data.cost"),
    "a quantity of none": (completed(quantity=0), "data.quantity"),
    "a quantity in quotes": (completed(quantity="1"), "data.quantity"),
    "a fractional quantity": (completed(quantity=1.5), "data.quantity"),
    "a true quantity": (completed(quantity=True), "data.quantity"),
    "metadata over 4 KiB": (completed(metadata={"text": "x" * 4096}), "data.metadata"),
    "metadata that is a list": (completed(metadata=[]), "data.metadata"),
    "an integer in metadata that no database holds": (completed(metadata={"number": 10**30}), "data.metadata"),
    "an event id of version 4": (completed(id=VERSION_4), "id"),
    "an operation id of version 4": (completed(operation_id=VERSION_4), "data.operation_id"),
    "an operation id that is none": (completed(operation_id="1"), "data.operation_id"),
    "a user with a line break": (completed(user_id="a\r\nb"), "data.user_id"),
    "no user": (completed(user_id=ABSENT), "data.user_id"),
    "a misspelt field": (completed(quantiti=1), "data.quantiti"),
    "a time without a zone": (completed(time="2026-11-01T00:00:00"), "time"),
    "a time that is a number": (completed(time=1_764_547_200), "time"),
    "a time far away": (completed(time="9999-12-31T00:00:00Z"), "time"),
    "an unknown type": (completed(type="usage.operation.dreamt.v1"), "type"),
    "an unknown version": (completed(type="usage.operation.completed.v99"), "type"),
    "no type": (completed(type=ABSENT), "type"),
    "another specversion": (completed(specversion="0.3"), "specversion"),
    "a sequence of 0": (completed(sourcesequence=0), "sourcesequence"),
    "a failure without its error": (failed(error=ABSENT), "data.error"),
    "text that holds a NUL": (completed(endpoint="a\0b"), "data.endpoint"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_a_broken_event_is_refused_and_its_field_named(refusing: Ledger, name: str) -> None:
    event, field = REFUSED[name]
    answer = await refusing.send_one(event)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "invalid_request"
    assert field in [error["field"] for error in answer.json()["errors"]]
    assert field in answer.json()["detail"]


async def test_a_subject_that_is_not_the_account_is_refused(refusing: Ledger) -> None:
    answer = await refusing.send_one({**completed(), "subject": "other"})
    assert answer.status_code == 422
    assert "subject" in answer.json()["detail"]


@pytest.mark.parametrize("cost", ["1e-3", "1E-9", "0", "0.000000001", "1000000", "12.5e2"])
async def test_decimal_strings_of_up_to_nine_decimals_are_fine(ledger: Ledger, cost: str) -> None:
    assert (await ledger.send_one(completed(cost=cost))).status_code == 200


#: JSON that Python's or Rust's parsers take and PostgreSQL's or orjson's do not.
ODD = {
    "NaN": '{"a": NaN}',
    "infinity": '{"a": -Infinity}',
    "a number too large for a float": '{"a": 1e999}',
    "an integer beyond 64 bits": '{"a": 123456789012345678901234567890}',
    "half a surrogate pair": r'{"a": "\ud800"}',
    "half a surrogate pair as a name": r'{"\udfff": 1}',
    "deep nesting": '{"a": ' + "[" * 400 + "]" * 400 + "}",
    "a name twice": '{"a": 1, "a": 2}',
}
HARMLESS = {
    "a NUL": r'{"a": "\u0000"}',
    "an astral character": r'{"a": "\ud83d\ude00"}',
    "the largest integers": '{"a": [18446744073709551615, -9223372036854775808]}',
    "some nesting": '{"a": ' + "[" * 50 + "]" * 50 + "}",
}


@pytest.mark.parametrize("name", ODD)
async def test_odd_json_is_refused_each_time(ledger: Ledger, name: str) -> None:
    body = builders.raw_metadata(ODD[name])
    for _ in range(2):
        assert (await ledger.send_one(body)).status_code in (400, 422)
    assert (await ledger.send_one(completed())).status_code == 200


@pytest.mark.parametrize("name", HARMLESS)
async def test_unusual_json_is_recorded_and_recognised(ledger: Ledger, name: str) -> None:
    body = builders.raw_metadata(HARMLESS[name])
    first, second = await ledger.send_one(body), await ledger.send_one(body)
    assert (first.status_code, first.json()["accepted"]) == (200, 1)
    assert (second.status_code, second.json()["duplicates"]) == (200, 1)
    [item] = (await ledger.usage_log())["items"]
    assert item["metadata"] == json.loads(HARMLESS[name])


#: What is put in the place of what, in an event's bytes, and which member then stands twice.
TWICE: dict[str, tuple[bytes, bytes, str]] = {
    "a cost": (b'"cost":', b'"cost": "0.01", "cost":', "cost"),
    "the same cost": (b'"cost":', b'"cost": "0.04", "cost":', "cost"),
    "an event id": (b'"specversion":', b'"id": "0", "specversion":', "id"),
    "an escaped name": (b'"cost":', rb'"c\u006fst": "0.01", "cost":', "cost"),
    "a number, its quotes made up for": (b'"QQ"', rb'"\u0022\u0022", "quantity": 9', "quantity"),
    "in an extension": (b'"specversion":', b'"x": [{"y": 1, "y": 2}], "specversion":', "y"),
    "a number that is none": (b'"cost":', b'"cost": NaN, "cost":', "cost"),
}


@pytest.mark.parametrize("name", TWICE)
async def test_an_event_with_a_member_that_stands_twice_is_refused(ledger: Ledger, name: str) -> None:
    old, new, member = TWICE[name]
    body = builders.to_bytes(completed(endpoint="QQ")).replace(old, new)
    answer = await ledger.send_one(body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [(error["field"], error["rule"]) for error in answer.json()["errors"]] == [(member, "repeated_member")]
    batch = b"[" + b",".join([builders.to_bytes(completed()), body]) + b"]"
    answered = await ledger.http.post("/v1/events", content=batch, headers={"content-type": BATCH_CONTENT_TYPE})
    assert answered.json()["accepted"] == 1
    assert [one["index"] for one in answered.json()["rejected"]] == [1]
    assert len((await ledger.usage_log())["items"]) == 1


@pytest.mark.parametrize("body", [b"", b"{", b'{"id": }', b"\xff\xfe", b"nonsense"])
async def test_what_is_not_json_is_malformed(refusing: Ledger, body: bytes) -> None:
    answer = await refusing.send_one(body)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_json")


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"event"', b"{}"])
async def test_json_that_is_no_event_is_invalid(refusing: Ledger, body: bytes) -> None:
    assert (await refusing.send_one(body)).status_code == 422


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "application/cloudevents", ""])
async def test_another_content_type_is_not_accepted(refusing: Ledger, content_type: str) -> None:
    answer = await refusing.http.post("/v1/events", content=b"{}", headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert CONTENT_TYPE in answer.json()["detail"]


@pytest.mark.parametrize(
    "content_type", [BATCH_CONTENT_TYPE, "application/json", f"{BATCH_CONTENT_TYPE}; charset=utf-8"]
)
async def test_in_a_batch_the_good_ones_are_recorded_and_the_bad_ones_listed(ledger: Ledger, content_type: str) -> None:
    events = [completed(), completed(cost=1.5), failed(), {"id": 1}, requested()]
    headers = {"content-type": content_type}
    answer = (await ledger.http.post("/v1/events", content=json.dumps(events), headers=headers)).json()
    assert (answer["accepted"], answer["duplicates"]) == (3, 0)
    assert [one["index"] for one in answer["rejected"]] == [1, 3]
    assert answer["rejected"][0]["problem"]["errors"][0]["field"] == "data.cost"


@pytest.mark.parametrize("name", [*ODD, *HARMLESS])
async def test_odd_json_in_a_batch_leaves_its_neighbours_alone(ledger: Ledger, name: str) -> None:
    odd = builders.raw_metadata({**ODD, **HARMLESS}[name])
    batch = b"[" + b",".join([builders.to_bytes(completed()), odd, builders.to_bytes(completed())]) + b"]"
    answer = await ledger.http.post("/v1/events", content=batch, headers={"content-type": BATCH_CONTENT_TYPE})
    # What no parser can read past spoils the whole body; then nothing of it may be recorded.
    if answer.status_code == 200:
        assert answer.json()["accepted"] == (3 if name in HARMLESS else 2)
    else:
        assert answer.status_code in (400, 422)
        assert (await ledger.http.get(f"/v1/accounts/{usual.account_id}/usage")).status_code == 404


async def test_an_empty_batch_is_nothing(refusing: Ledger) -> None:
    assert await refusing.send() == {"accepted": 0, "duplicates": 0, "rejected": []}


async def test_a_batch_of_more_than_1000_events_is_too_large(refusing: Ledger) -> None:
    headers = {"content-type": BATCH_CONTENT_TYPE}
    answer = await refusing.http.post("/v1/events", content=json.dumps([completed()] * 1001), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@alone
async def test_requests_with_many_events_share_no_transaction_that_locks_their_accounts_for_long(
    start_ledger: StartLedger, database: "Database[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_intake, "EVENTS_PER_BATCH_MAX", 3)
    ledger = await start_ledger()
    await ledger.send(completed())
    async with database.transaction():
        await database.execute("select from accounts for update")
        sending = [asyncio.create_task(ledger.send(completed(), completed())) for _ in range(7)]
        await eventually(lambda: waiting(database), "one waits for the account, and the others for it")
        await asyncio.sleep(0.2)  # for the last of them; late, it would have a transaction of its own
    assert [one["accepted"] for one in await asyncio.gather(*sending)] == [2] * 7
    together = await database.fetch("select count(*) as events from event_log group by transaction_id")
    assert max(row["events"] for row in together) <= 4  # three, and the rest of the last request


async def waiting(database: "Database[asyncpg.Record]") -> bool:
    return bool(await database.fetchval("select count(*) > 0 from pg_locks where not granted"))


@alone
async def test_totals_that_no_longer_fit_are_refused_without_harm(
    start_ledger: StartLedger, database: "Database[asyncpg.Record]"
) -> None:
    ledger = await start_ledger()
    await ledger.send(completed(cost="1", time="2026-11-01T00:00:00Z"))
    await database.execute("update usage_summary set cost_nanos = $1", 2**63 - 10)
    answer = await ledger.send(
        completed(cost="1", time="2026-11-02T00:00:00Z"), completed(cost="1", time="2026-10-01T00:00:00Z")
    )
    assert (answer["accepted"], [one["index"] for one in answer["rejected"]]) == (1, [0])
    assert await database.fetchval("select code from dead_letters") == "invalid_request"
