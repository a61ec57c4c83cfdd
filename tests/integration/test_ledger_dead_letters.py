"""Dead letters over HTTP: found, looked at, redriven once in effect, discarded; nothing disappears."""

import asyncio
import base64
import json
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import httpx
import pytest
from nats.aio.client import Client as NatsClient

from contracts.problems import PROBLEM_TYPES
from ledger_service import recording
from ledger_service.domain.batches import Receipt
from ledger_service.intake import add_to_batch
from ledger_service.recording import Batch, record
from ledger_service.store.migrations import migrate, migrations
from ledger_service.store.pool import Pool
from tests import builders
from tests.builders import Body, completed, failed
from tests.servers import Client, Ledger, LedgerProcess, eventually

Database = asyncpg.Connection
ROOT = Path(__file__).parents[2]
ACT = {"author": "grace", "reason": "the mapping is mended"}
#: What a total can hold, in nano-dollars, less a little: the next dollar is refused by the database.
FULL = 2**63 - 10


async def publish(client: NatsClient, *bodies: bytes, kind: str = "completed") -> None:
    for body in bodies:
        await client.jetstream().publish(f"usage.v1.operation.{kind}", body)


async def letters(ledger: Ledger, **query: Any) -> list[Body]:
    answer = await ledger.http.get("/v1/dead-letters", params=query)
    assert answer.status_code == 200, answer.text
    items: list[Body] = answer.json()["items"]
    return items


async def letter(ledger: Ledger, number: int) -> Body:
    answer = await ledger.http.get(f"/v1/dead-letters/{number}")
    assert answer.status_code == 200, answer.text
    body: Body = answer.json()
    return body


async def there_are(ledger: Ledger, number: int, **query: Any) -> list[Body]:
    await eventually(lambda: _are(ledger, number, query), f"{number} letters are there")
    return await letters(ledger, **query)


async def _are(ledger: Ledger, number: int, query: Body) -> bool:
    return len(await letters(ledger, **query)) == number


async def redrive(ledger: Ledger, number: int, **other: Any) -> Body:
    answer = await ledger.http.post(f"/v1/dead-letters/{number}:redrive", json={**ACT, **other})
    assert answer.status_code == 200, answer.text
    body: Body = answer.json()
    return body


async def calls(ledger: Client, account_id: str = builders.ACCOUNT) -> int:
    answer = await ledger.http.get(f"/v1/accounts/{account_id}/usage", params={"period": "2026-11"})
    return int(answer.json()["totals"]["calls"]) if answer.status_code == 200 else 0


async def refused_by_the_database(ledger: Client, database: "Database[asyncpg.Record]", *events: Body) -> None:
    """Good events as letters: they came while a total had no room, which it has again now."""
    await ledger.send(completed(cost="0", time="2026-11-01T00:00:00Z"))
    before = await database.fetchval("select cost_nanos from usage_summary")
    await database.execute("update usage_summary set cost_nanos = $1", FULL)
    answer = await ledger.send(*events)
    assert len(answer["rejected"]) == len(events)
    await database.execute("update usage_summary set cost_nanos = $1", before)


def november(**fields: Any) -> Body:
    return completed(time="2026-11-05T00:00:00Z", cost="1", **fields)


# --- looked at ---


async def test_a_letter_shows_its_bytes_and_each_broken_rule(ledger: Ledger, nats_client: NatsClient) -> None:
    broken = completed(cost=0.04, quantity=0, account_id="globex")
    await publish(nats_client, builders.to_bytes(broken))
    [item] = await there_are(ledger, 1)
    assert (item["state"], item["code"], item["received_count"]) == ("open", "invalid_request", 1)
    assert (item["origin"], item["subject"]) == ("jetstream", "usage.v1.operation.completed")
    assert item["account_id"] == "globex"
    whole = await letter(ledger, item["dead_letter_id"])
    assert json.loads(whole["text"]) == broken
    assert base64.b64decode(whole["base64"]) == builders.to_bytes(broken)
    assert {error["field"] for error in whole["errors"]} == {"data.cost", "data.quantity"}
    assert whole["actions"] == []


async def test_bytes_that_are_no_text_are_shown_as_base64(ledger: Ledger, nats_client: NatsClient) -> None:
    await publish(nats_client, b"\xff\xfe\x00", b"a\x00b")
    for item in await there_are(ledger, 2):
        whole = await letter(ledger, item["dead_letter_id"])
        assert whole["text"] in (None, "a\x00b")
        assert base64.b64decode(whole["base64"]) in (b"\xff\xfe\x00", b"a\x00b")
        assert len(base64.b64decode(whole["base64"])) == item["body_bytes"]


async def test_letters_are_found_by_what_they_are(ledger: Ledger, nats_client: NatsClient) -> None:
    await publish(nats_client, b"{", builders.to_bytes(completed(cost=1, account_id="globex")))
    await publish(nats_client, b"[", kind="failed")
    await there_are(ledger, 3)  # the last one has a moment of its own
    await ledger.send(first := completed())
    await ledger.send_one(failed(operation_id=first["data"]["operation_id"]))
    everything = await there_are(ledger, 4)
    assert [item["dead_letter_id"] for item in everything] == sorted(
        (item["dead_letter_id"] for item in everything), reverse=True
    )
    assert len(await letters(ledger, code="malformed_json")) == 2
    assert len(await letters(ledger, code="operation_conflict", origin="http")) == 1
    assert len(await letters(ledger, subject="usage.v1.operation.failed")) == 1
    assert len(await letters(ledger, account_id="globex")) == 1
    assert len(await letters(ledger, account_id=builders.ACCOUNT)) == 1
    assert await letters(ledger, state="discarded") == []
    last = everything[0]["last_received_at"]
    assert len(await letters(ledger, to=last)) == 3
    assert len(await letters(ledger, **{"from": last})) == 1


async def test_pages_go_through_all_letters_once(ledger: Ledger, nats_client: NatsClient) -> None:
    await publish(nats_client, *(f"poison {number}".encode() for number in range(7)))
    await there_are(ledger, 7)
    seen: list[int] = []
    cursor = None
    while True:
        query = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = (await ledger.http.get("/v1/dead-letters", params=query)).json()
        seen += [item["dead_letter_id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 7


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"state": "asleep"}, "query.state[0]"),
        ({"cursor": "x"}, "query.cursor"),
        ({"limit": 0}, "query.limit"),
        ({"account_id": "a b"}, "query.account_id"),
        ({"from": "yesterday"}, "query.from"),
        ({"code": "a\0b"}, "query.code"),
    ],
    ids=str,
)
async def test_a_broken_filter_is_refused_and_its_field_named(ledger: Ledger, query: Body, field: str) -> None:
    answer = await ledger.http.get("/v1/dead-letters", params=query)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize("act", ["redrive", "discard"])
async def test_what_is_not_there_is_not_found(ledger: Ledger, act: str) -> None:
    assert (await ledger.http.get("/v1/dead-letters/1")).status_code == 404
    assert (await ledger.http.post(f"/v1/dead-letters/1:{act}", json=ACT)).status_code == 404
    assert (await ledger.http.post(f"/v1/dead-letters/{2**63}:{act}", json=ACT)).status_code == 422
    for broken in ({}, {"author": "grace"}, {**ACT, "reason": ""}, {**ACT, "author": "a\nb"}, {**ACT, "more": 1}):
        assert (await ledger.http.post(f"/v1/dead-letters/1:{act}", json=broken)).status_code == 422


async def test_the_same_bytes_are_one_letter_whatever_way_they_came(ledger: Ledger, nats_client: NatsClient) -> None:
    await ledger.send(first := completed())
    second = builders.to_bytes(completed(operation_id=first["data"]["operation_id"]))
    await ledger.send_one(second)
    await publish(nats_client, second, second)
    await eventually(lambda: _count_is(ledger, 3), "all three are counted")


async def _count_is(ledger: Ledger, wanted: int) -> bool:
    [item] = await letters(ledger)
    return bool(item["received_count"] == wanted)


async def test_an_event_that_is_too_large_is_a_letter(ledger: Ledger, nats_client: NatsClient) -> None:
    large = builders.to_bytes({**completed(), "extension": "x" * 70_000})
    await publish(nats_client, large, builders.to_bytes(november()))
    [item] = await there_are(ledger, 1)
    assert (item["code"], item["body_bytes"]) == ("too_large", len(large))

    async def one_is_counted() -> bool:
        return await calls(ledger) == 1

    await eventually(one_is_counted, "its neighbour is counted")
    assert (await ledger.send_one(large)).status_code == 413


# --- redriven ---


async def test_a_letter_that_fits_by_now_is_recorded_and_closed(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    await refused_by_the_database(ledger, database, event := november())
    [item] = await letters(ledger)
    done = await redrive(ledger, item["dead_letter_id"])
    assert (done["outcome"], done["dead_letter"]["state"]) == ("recorded", "redriven")
    recorded = {"account_id": builders.ACCOUNT, "event_id": event["id"]}
    assert done["dead_letter"]["recorded"] == recorded
    assert await calls(ledger) == 2
    assert await letters(ledger) == []
    whole = await letter(ledger, item["dead_letter_id"])
    assert json.loads(whole["text"]) == event
    [action] = whole["actions"]
    assert (action["action"], action["outcome"]) == ("redriven", "recorded")
    assert {name: action[name] for name in ACT} == ACT
    logged = json.loads(
        await database.fetchval("select body::text from event_log where type = 'ledger.dead_letter.redriven.v1'")
    )
    assert logged["id"] == action["event_id"]
    assert logged["data"]["event"] == recorded


async def test_a_letter_whose_event_came_meanwhile_is_a_duplicate_and_closed(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    await refused_by_the_database(ledger, database, event := november())
    [item] = await letters(ledger)
    assert (await ledger.send(event))["accepted"] == 1
    done = await redrive(ledger, item["dead_letter_id"])
    assert (done["outcome"], done["dead_letter"]["state"]) == ("duplicate", "redriven")
    assert await calls(ledger) == 2


async def test_a_letter_that_fails_again_stays_with_its_new_reason(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    await refused_by_the_database(ledger, database, event := november())
    [item] = await letters(ledger)
    assert item["code"] == "invalid_request"
    await ledger.send(november(operation_id=event["data"]["operation_id"]))
    for times in (1, 2):
        done = await redrive(ledger, item["dead_letter_id"])
        assert (done["outcome"], done["problem"]["code"]) == ("refused", "operation_conflict")
        now = done["dead_letter"]
        assert (now["state"], now["code"], now["redrive_count"]) == ("open", "operation_conflict", times)
        assert now["received_count"] == item["received_count"]
    assert len((await letter(ledger, item["dead_letter_id"]))["actions"]) == 2
    assert await calls(ledger) == 2


async def test_what_the_database_refuses_again_stays_and_its_neighbours_are_recorded(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    events = [november() for _ in range(5)]
    await refused_by_the_database(ledger, database, *events)
    await ledger.send(completed(cost="1", account_id="globex", time="2026-11-01T00:00:00Z"))
    await database.execute("update usage_summary set cost_nanos = $1 where account_id = 'acme'", FULL - 3 * 10**9)
    answer = await ledger.http.post("/v1/dead-letters:redrive", json=ACT)
    assert answer.json() == {"outcomes": {"recorded": 3, "refused": 2}, "next_cursor": None}
    assert await calls(ledger) == 4
    assert [item["detail"] for item in await letters(ledger)] == [
        "the database refuses the event: bigint out of range"
    ] * 2


async def test_redriven_many_times_at_once_a_letter_counts_once(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    await refused_by_the_database(ledger, database, event := november())
    [item] = await letters(ledger)
    answers = await asyncio.gather(
        *(redrive(ledger, item["dead_letter_id"]) for _ in range(10)), *(ledger.send(event) for _ in range(10))
    )
    outcomes = [answer["outcome"] for answer in answers[:10]]
    accepted = sum(answer["accepted"] for answer in answers[10:])
    assert outcomes.count("recorded") + accepted == 1
    assert set(outcomes) <= {"recorded", "duplicate", "closed"}
    assert await calls(ledger) == 2
    whole = await letter(ledger, item["dead_letter_id"])
    assert (whole["state"], len(whole["actions"])) == ("redriven", 1)


async def test_redriving_while_the_same_letters_come_again_deadlocks_nothing(
    ledger: Ledger, writing_pool: Pool, database: "Database[asyncpg.Record]"
) -> None:
    batch = Batch()
    for number in range(200):
        add_to_batch(batch, builders.to_bytes(completed(cost=number + 0.5)), "jetstream", None)
    backwards = Batch(letters=batch.letters[::-1])
    await record(writing_pool, batch)
    answers = await asyncio.gather(
        *(ledger.http.post("/v1/dead-letters:redrive", json=ACT) for _ in range(4)),
        *(record(writing_pool, one) for _ in range(10) for one in (batch, backwards)),
    )
    assert [answer.status_code for answer in answers[:4] if isinstance(answer, httpx.Response)] == [200] * 4
    assert {item["received_count"] for item in await letters(ledger, limit=1000)} == {21}
    deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"
    await database.execute("select pg_stat_force_next_flush()")
    assert await database.fetchval(deadlocks) == 0


async def test_a_discarded_letter_that_comes_again_is_open_again(ledger: Ledger, nats_client: NatsClient) -> None:
    await publish(nats_client, b"{")
    [item] = await there_are(ledger, 1)
    await ledger.http.post(f"/v1/dead-letters/{item['dead_letter_id']}:discard", json=ACT)
    assert await letters(ledger) == []
    await publish(nats_client, b"{")
    [again] = await there_are(ledger, 1)
    assert (again["dead_letter_id"], again["received_count"]) == (item["dead_letter_id"], 2)
    assert [one["action"] for one in (await letter(ledger, item["dead_letter_id"]))["actions"]] == ["discarded"]


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.faults)])
async def test_killed_in_the_middle_of_redriving_nothing_is_lost_or_doubled(
    ledger_process: Callable[..., LedgerProcess], database: "Database[asyncpg.Record]", kills: int
) -> None:
    process = ledger_process()
    async with process.client() as client:
        await refused_by_the_database(client, database, *(november() for _ in range(400)))
    for killed in range(kills):
        async with process.client() as client:
            redriving = asyncio.create_task(client.http.post("/v1/dead-letters:redrive", json=ACT))
            await eventually(lambda: _redriven(database, 100 * killed + 1), "a portion is redriven")  # noqa: B023 - awaited
            process.end(signal.SIGKILL)
            with pytest.raises(httpx.TransportError):
                await redriving
        process = ledger_process()
    async with process.client() as client:
        rest = (await client.http.post("/v1/dead-letters:redrive", json=ACT)).json()
        assert set(rest["outcomes"]) <= {"recorded"}
        assert await calls(client) == 401
    states = await database.fetch("select state, count(*) from dead_letters group by state")
    assert [tuple(row) for row in states] == [("redriven", 400)]
    assert await database.fetchval("select count(*) from event_log where type like 'usage.%'") == 401
    assert await database.fetchval("select count(*) from dead_letter_actions") == 400


async def _redriven(database: "Database[asyncpg.Record]", at_least: int) -> bool:
    return bool(await database.fetchval("select count(*) from dead_letters where state = 'redriven'") >= at_least)


# --- corrected ---


async def broken_letter(ledger: Ledger, client: NatsClient, event: Body | bytes) -> int:
    await publish(client, event if isinstance(event, bytes) else builders.to_bytes(event))
    [item] = await there_are(ledger, 1)
    return int(item["dead_letter_id"])


async def test_a_corrected_copy_is_recorded_and_both_are_kept(
    ledger: Ledger, nats_client: NatsClient, database: "Database[asyncpg.Record]"
) -> None:
    broken = november(quantiti=1) | {"type": "usage.operation.complete.v1"}
    number = await broken_letter(ledger, nats_client, broken)
    corrected = {**broken, "type": "usage.operation.completed.v1"}
    corrected["data"] = {name: value for name, value in broken["data"].items() if name != "quantiti"}
    done = await redrive(ledger, number, event=corrected)
    assert (done["outcome"], done["dead_letter"]["state"]) == ("recorded", "redriven")
    assert done["dead_letter"]["recorded"]["event_id"] == corrected["id"]
    whole = await letter(ledger, number)
    assert json.loads(whole["text"]) == broken
    assert whole["actions"][0]["corrected"]
    logged = await database.fetchval("select body::text from event_log where type = 'usage.operation.completed.v1'")
    assert json.loads(logged) == corrected
    assert (await redrive(ledger, number, event=corrected))["outcome"] == "closed"
    assert await calls(ledger) == 1


async def test_the_bytes_of_a_corrected_letter_are_a_repeat_of_it_when_they_come_again(
    ledger: Ledger, nats_client: NatsClient
) -> None:
    """A producer that is not mended yet sends them once more: nothing is left to do."""
    broken = november(quantiti=1)
    number = await broken_letter(ledger, nats_client, broken)
    corrected = {**broken, "data": {name: value for name, value in broken["data"].items() if name != "quantiti"}}
    closed = (await redrive(ledger, number, event=corrected))["dead_letter"]
    await publish(nats_client, builders.to_bytes(broken))

    async def came_again() -> bool:
        return bool((await letter(ledger, number))["received_count"] == 2)

    await eventually(came_again, "the same bytes came again")
    again = await letter(ledger, number)
    assert (again["state"], again["closed_at"], again["recorded"]) == (
        "redriven",
        closed["closed_at"],
        closed["recorded"],
    )
    assert await letters(ledger, state="open") == []
    assert await calls(ledger) == 1


async def test_a_corrected_copy_differs_only_where_the_letter_breaks_a_rule(
    ledger: Ledger, nats_client: NatsClient
) -> None:
    """With another id or operation it could be counted beside what it stands for."""
    broken = november()
    broken["data"] = {**broken["data"], "cost": 1}
    number = await broken_letter(ledger, nats_client, broken)
    right = {**broken, "data": {**broken["data"], "cost": "1"}}
    for other, field in (
        ({**right, "id": builders.new_id()}, "event.id"),
        ({**right, "data": {**right["data"], "operation_id": builders.new_id()}}, "event.data.operation_id"),
        ({**right, "data": {**right["data"], "quantity": 7}}, "event.data.quantity"),
        ({**right, "extension": 1}, "event.extension"),
        (broken, "event.data.cost"),
    ):
        answer = await ledger.http.post(f"/v1/dead-letters/{number}:redrive", json={**ACT, "event": other})
        assert answer.status_code == 422, other
        assert [error["field"] for error in answer.json()["errors"]] == [field]
    whole = await letter(ledger, number)
    assert (whole["state"], whole["redrive_count"], whole["actions"]) == ("open", 0, [])
    assert (await redrive(ledger, number, event=right))["outcome"] == "recorded"


async def test_a_letter_of_very_many_members_is_corrected(ledger: Ledger, nats_client: NatsClient) -> None:
    """Each of them breaks a rule. They kept the ledger busy for so long that its connections ended."""
    good = november()
    flooded = {**good, "data": {**good["data"], **{f"k{index}": [index] for index in range(40_000)}}}
    number = await broken_letter(ledger, nats_client, flooded)
    assert (await redrive(ledger, number, event=good))["outcome"] == "recorded"
    assert await calls(ledger) == 1


async def test_a_conflict_cannot_be_corrected_away(ledger: Ledger) -> None:
    await ledger.send(first := november())
    await ledger.send_one(second := november(operation_id=first["data"]["operation_id"]))
    [item] = await letters(ledger)
    other = {**second, "data": {**second["data"], "operation_id": builders.new_id()}}
    path = f"/v1/dead-letters/{item['dead_letter_id']}:redrive"
    assert (await ledger.http.post(path, json={**ACT, "event": other})).status_code == 422
    answer = await ledger.http.post(path, json={**ACT, "event": second})
    assert (answer.status_code, answer.json()["code"]) == (409, "operation_conflict")
    assert await calls(ledger) == 1


async def test_corrected_in_two_ways_at_once_one_counts(ledger: Ledger, nats_client: NatsClient) -> None:
    number = await broken_letter(ledger, nats_client, b"{ not JSON")
    copies = [november() for _ in range(6)]
    answers = await asyncio.gather(
        *(ledger.http.post(f"/v1/dead-letters/{number}:redrive", json={**ACT, "event": copy}) for copy in copies)
    )
    recorded = [answer for answer in answers if answer.status_code == 200 and answer.json()["outcome"] == "recorded"]
    assert len(recorded) == 1
    assert await calls(ledger) == 1


# --- dated too far ahead ---


def ahead(days: float, **fields: Any) -> Body:
    return completed(time=datetime.now(UTC) + timedelta(days=days), **fields)


async def test_an_event_that_is_dated_too_far_ahead_is_a_letter_on_every_way(
    ledger: Ledger, nats_client: NatsClient
) -> None:
    over_nats, over_http, alone = ahead(367, source="journal", sourcesequence=1), ahead(366.1), ahead(3650)
    await publish(nats_client, builders.to_bytes(over_nats))
    await there_are(ledger, 1)
    answer = await ledger.send(near := ahead(365.9), over_http)
    assert answer["accepted"] == 1
    [rejected] = answer["rejected"]
    assert (rejected["index"], rejected["problem"]["code"]) == (1, "in_future")
    told = (await ledger.send_one(alone)).json()
    assert (told["status"], told["code"], told["event_id"]) == (422, "in_future", alone["id"])
    assert [(error["field"], error["rule"]) for error in told["errors"]] == [("time", "in_future")]
    found = await there_are(ledger, 3, code="in_future")
    assert [item["origin"] for item in found] == ["http", "http", "jetstream"]
    assert [json.loads((await letter(ledger, item["dead_letter_id"]))["text"]) for item in found] == [
        alone,
        over_http,
        over_nats,
    ]
    assert [item["operation_id"] for item in (await ledger.usage_log())["items"]] == [near["data"]["operation_id"]]


async def test_its_times_may_be_corrected_and_nothing_else(ledger: Ledger) -> None:
    await ledger.send_one(event := ahead(400))
    [item] = await letters(ledger)
    number = item["dead_letter_id"]
    again = await redrive(ledger, number)
    assert (again["outcome"], again["problem"]["code"]) == ("refused", "in_future")
    now = datetime.now(UTC).isoformat()
    right = {**event, "time": now, "data": {**event["data"], "requested_at": now}}
    path = f"/v1/dead-letters/{number}:redrive"
    for other, field in (
        ({**right, "data": {**right["data"], "cost": "1"}}, "event.data.cost"),
        ({**right, "time": (datetime.now(UTC) + timedelta(days=400)).isoformat()}, "time"),
    ):
        answer = await ledger.http.post(path, json={**ACT, "event": other})
        assert answer.status_code == 422, other
        assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert (await redrive(ledger, number, event=right))["outcome"] == "recorded"
    [recorded] = (await ledger.usage_log())["items"]
    assert recorded["operation_id"] == event["data"]["operation_id"]


async def test_what_was_recorded_before_there_was_a_bound_stays_what_it_is(
    ledger: Ledger, writing_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = ahead(400)
    with monkeypatch.context() as before:
        before.setattr(recording, "in_future", lambda submissions, now: [])
        await record(writing_pool, batch_of(event))
    repeated = await record(writing_pool, batch_of(event, failed(operation_id=event["data"]["operation_id"])))
    assert repeated.receipts == [Receipt.DUPLICATE, Receipt.OPERATION_CONFLICT]
    other = {**event, "data": {**event["data"], "duration_ms": 99}}
    assert (await record(writing_pool, batch_of(other))).receipts == [Receipt.CONFLICT]


async def test_a_ledger_whose_own_clock_is_behind_asks_the_database(
    writing_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = SimpleNamespace(now=lambda zone: datetime.now(zone) - timedelta(days=400))
    monkeypatch.setattr(recording, "datetime", behind)
    assert (await record(writing_pool, batch_of(completed()))).receipts == [Receipt.ACCEPTED]


def batch_of(*events: Body) -> Batch:
    batch = Batch()
    for event in events:
        add_to_batch(batch, builders.to_bytes(event), "http", None)
    return batch


# --- discarded ---


async def test_a_discarded_letter_keeps_its_bytes_and_its_reason(ledger: Ledger, nats_client: NatsClient) -> None:
    number = await broken_letter(ledger, nats_client, b"{")
    for _ in range(2):
        answer = await ledger.http.post(f"/v1/dead-letters/{number}:discard", json=ACT)
        assert (answer.status_code, answer.json()["state"]) == (200, "discarded")
    whole = await letter(ledger, number)
    assert whole["text"] == "{"
    assert [(one["action"], one["author"]) for one in whole["actions"]] == [("discarded", "grace")]
    assert [item["dead_letter_id"] for item in await letters(ledger, state=["open", "discarded"])] == [number]


async def test_a_discarded_letter_can_still_be_redriven_and_then_not_discarded(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    await refused_by_the_database(ledger, database, november())
    [item] = await letters(ledger)
    path = f"/v1/dead-letters/{item['dead_letter_id']}"
    await ledger.http.post(f"{path}:discard", json=ACT)
    assert (await redrive(ledger, item["dead_letter_id"]))["outcome"] == "recorded"
    answer = await ledger.http.post(f"{path}:discard", json=ACT)
    assert (answer.status_code, answer.json()["code"]) == (409, "dead_letter_closed")


async def test_many_are_discarded_by_filter_and_in_portions(ledger: Ledger, nats_client: NatsClient) -> None:
    await publish(nats_client, *(f"poison {number}".encode() for number in range(5)), b"[]")
    await there_are(ledger, 6)
    act = {**ACT, "select": {"code": "malformed_json"}, "limit": 3}
    first = (await ledger.http.post("/v1/dead-letters:discard", json=act)).json()
    assert first["outcomes"] == {"discarded": 3}
    rest = await ledger.http.post("/v1/dead-letters:discard", json={**act, "cursor": first["next_cursor"]})
    assert rest.json() == {"outcomes": {"discarded": 2}, "next_cursor": None}
    assert [item["code"] for item in await letters(ledger)] == ["invalid_request"]


# --- told ---


async def metrics(ledger: Ledger) -> dict[str, float]:
    answer = await ledger.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_metrics_and_alerts_know_of_open_letters(
    ledger: Ledger, nats_client: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger_service.metrics.DATABASE_SECONDS", 0.0)
    assert (await metrics(ledger))["ledger_dead_letters_open"] == 0
    await publish(nats_client, b"{", b"{", b"[]")
    await there_are(ledger, 2)
    told = await metrics(ledger)
    assert told["ledger_dead_letters_open"] == 2
    assert told['ledger_dead_letters_open_by_code{code="malformed_json"}'] == 1
    assert told['ledger_dead_letters_total{code="malformed_json"}'] == 2
    await ledger.http.post("/v1/dead-letters:discard", json=ACT)
    assert (await metrics(ledger))["ledger_dead_letters_open"] == 0


# --- letters from before ---


async def test_letters_of_the_first_schema_are_kept_and_recognised(empty_database_url: str) -> None:
    old = [one for one in migrations() if one.name < "0004"]
    connection = await asyncpg.connect(empty_database_url)
    try:
        for one in old:
            await connection.execute(one.sql)
        await connection.execute(
            "create table schema_migrations (name text primary key, digest text, applied_at timestamptz default now())"
        )
        await connection.executemany(
            "insert into schema_migrations (name, digest) values ($1, $2)", [(one.name, one.digest) for one in old]
        )
        add = """insert into dead_letters (digest, origin, code, detail, errors, body, received_count, last_received_at)
                 values (sha256(convert_to($1 || ' ' || $2 || ' ', 'UTF8') || $3), $1, $2, $2, '[]', $3, $4, $5)"""
        early, late = builders.at("2026-11-01"), builders.at("2026-11-02")
        await connection.execute(add, "http", "conflict", b"same", 2, late)
        await connection.execute(add, "jetstream", "invalid_request", b"same", 3, early)
        await connection.execute(add, "jetstream", "malformed_json", b"other", 1, early)
        await migrate(empty_database_url)
        rows = await connection.fetch(
            "select body, code, received_count, digest = sha256(body) as named, state from dead_letters order by body"
        )
    finally:
        await connection.close()
    assert [tuple(row) for row in rows] == [
        (b"other", "malformed_json", 1, True, "open"),
        (b"same", "conflict", 5, True, "open"),
    ]


def test_every_code_a_letter_can_have_is_a_problem() -> None:
    assert {"malformed_json", "invalid_request", "too_large", "conflict", "operation_conflict"} <= {
        kind.code for kind in PROBLEM_TYPES
    }
