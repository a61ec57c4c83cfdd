"""Events over JetStream: recorded exactly once in effect, confirmed, and never held up by poison."""

import asyncio
import json
from collections import defaultdict
from datetime import UTC, datetime

import asyncpg
from nats.aio.client import Client
from nats.aio.msg import Msg

from contracts.subjects import MSG_ID_HEADER, RECORDED, subject_of
from tests import builders
from tests.builders import Body, completed, failed, limit, requested
from tests.conftest import StartLedger
from tests.nats_flush import flushed
from tests.oracle import Oracle
from tests.property.projections import assert_projections_agree, replayed, totals_view
from tests.servers import Ledger, eventually, has_acknowledged_all

Database = asyncpg.Connection


async def publish(client: Client, *events: Body) -> None:
    """As a producer does, with the event's id as JetStream's message id."""
    jetstream = client.jetstream()
    await asyncio.gather(
        *(
            jetstream.publish(subject_of(event["type"]), builders.to_bytes(event), headers={MSG_ID_HEADER: event["id"]})
            for event in events
        )
    )


async def publish_bytes(client: Client, *bodies: bytes, kind: str = "completed") -> None:
    for body in bodies:
        await client.jetstream().publish(f"usage.v1.operation.{kind}", body)


async def all_acknowledged(client: Client) -> None:
    """Until the ledger has acknowledged everything in the stream."""

    await eventually(lambda: has_acknowledged_all(client), "everything is acknowledged")


async def calls(ledger: Ledger) -> int:
    response = await ledger.http.get(f"/v1/accounts/{builders.ACCOUNT}/usage")
    return int(response.json()["totals"]["calls"]) if response.status_code == 200 else 0


# --- recorded, once ---


async def test_published_events_are_recorded_and_acknowledged(
    ledger: Ledger, nats_client: Client, database: "Database[asyncpg.Record]"
) -> None:
    oracle = Oracle()
    events = [make(time=datetime.now(UTC)) for make in (requested, completed, failed) for _ in range(20)]
    await publish(nats_client, *events)
    await all_acknowledged(nats_client)
    for event in events:
        oracle.event(event)
    await assert_projections_agree(database, oracle, {builders.ACCOUNT})
    await assert_projections_agree(database, await replayed(database, {builders.ACCOUNT}), {builders.ACCOUNT})
    month = f"{datetime.now(UTC):%Y-%m}"
    assert (await ledger.usage(period=month))["totals"] == totals_view(oracle, builders.ACCOUNT, month)


async def test_events_published_while_the_ledger_was_away_are_recorded(
    start_ledger: StartLedger, nats_client: Client
) -> None:
    await publish(nats_client, *(completed() for _ in range(50)))
    ledger = await start_ledger()
    await all_acknowledged(nats_client)
    assert await calls(ledger) == 50


async def test_a_message_published_again_counts_once(
    ledger: Ledger, nats_client: Client, database: "Database[asyncpg.Record]"
) -> None:
    """Without JetStream's own filter, as after its duplicate window."""
    event = completed()
    await publish_bytes(nats_client, *[builders.to_bytes(event)] * 5)
    await all_acknowledged(nats_client)
    assert await calls(ledger) == 1
    assert await database.fetchval("select count(*) from dead_letters") == 0


async def test_an_event_over_http_and_jetstream_counts_once(ledger: Ledger, nats_client: Client) -> None:
    events = [completed() for _ in range(20)]
    await asyncio.gather(publish(nats_client, *events), *(ledger.send(event) for event in events))
    await all_acknowledged(nats_client)
    assert await calls(ledger) == 20


async def test_two_ledgers_on_one_stream_count_each_event_once(
    start_ledger: StartLedger, nats_client: Client, database: "Database[asyncpg.Record]"
) -> None:
    ledger, _ = await start_ledger(ingest_batch_events_max=7), await start_ledger(ingest_batch_events_max=5)
    events = [completed(account_id=f"acme-{number % 5}") for number in range(300)]
    bodies = [builders.to_bytes(event) for event in events]
    await asyncio.gather(publish_bytes(nats_client, *bodies), publish_bytes(nats_client, *reversed(bodies)))
    await all_acknowledged(nats_client)
    for number in range(5):
        assert (await ledger.usage(f"acme-{number}"))["totals"]["calls"] == 60
    assert await database.fetchval("select count(*) from event_log") == 300


async def test_an_outcome_over_jetstream_settles_the_hold(ledger: Ledger, nats_client: Client) -> None:
    await ledger.set_up(limit())
    await ledger.check(asked := builders.check())
    await publish(nats_client, requested(asked), completed(asked))
    await all_acknowledged(nats_client)
    state = await ledger.limit()
    assert (state["settled"], state["held"]) == (1, 0)


# --- poison ---

POISON = {
    b"": "malformed_json",
    b"{": "malformed_json",
    b"\xff\xfe\x00": "malformed_json",
    b"[]": "invalid_request",
    b"{}": "invalid_request",
    builders.to_bytes(completed(cost=0.04)): "invalid_request",
    builders.to_bytes(completed(type="usage.operation.dreamt.v1")): "invalid_request",
    builders.to_bytes(completed(id="1")): "invalid_request",
    builders.to_bytes(completed(metadata={"number": 10**30})): "invalid_request",
    builders.to_bytes(completed(metadata={"text": "x" * 5000})): "invalid_request",
    builders.raw_metadata('{"a": NaN}'): "malformed_json",
    builders.to_bytes(completed(None, **{"na\0me": 1})): "invalid_request",
    builders.raw_metadata('{"a": 1e999}'): "malformed_json",
    builders.raw_metadata(r'{"\ud800": 1}'): "malformed_json",
}


async def test_poison_is_dead_lettered_with_its_reason_and_bytes_and_blocks_nothing(
    ledger: Ledger, nats_client: Client, database: "Database[asyncpg.Record]"
) -> None:
    for poison in POISON:
        await publish_bytes(nats_client, poison, builders.to_bytes(completed()))
    await all_acknowledged(nats_client)
    rows = await database.fetch("select origin, subject, code, detail, body from dead_letters")
    letters = {row["body"]: row for row in rows}
    assert set(letters) == set(POISON)
    for body, code in POISON.items():
        assert letters[body]["code"] == code, body
        assert letters[body]["detail"]
        assert (letters[body]["origin"], letters[body]["subject"]) == ("jetstream", "usage.v1.operation.completed")
    assert await calls(ledger) == len(POISON)


async def test_the_reason_names_the_field(
    nats_client: Client, ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    await publish(nats_client, completed(cost="0.0000000001"))
    await all_acknowledged(nats_client)
    letter = await database.fetchrow("select detail, errors::text from dead_letters")
    assert letter is not None
    assert letter["detail"].startswith("data.cost: ")
    assert json.loads(letter["errors"])[0]["field"] == "data.cost"


async def test_poison_delivered_again_is_one_row_with_a_count(
    ledger: Ledger, nats_client: Client, database: "Database[asyncpg.Record]"
) -> None:
    await publish_bytes(nats_client, *[b"poison"] * 4)
    await all_acknowledged(nats_client)
    assert [tuple(row) for row in await database.fetch("select body, received_count from dead_letters")] == [
        (b"poison", 4)
    ]


async def test_conflicts_over_jetstream_are_dead_lettered(
    ledger: Ledger, nats_client: Client, database: "Database[asyncpg.Record]"
) -> None:
    first = completed(cost="1")
    other_body = {**first, "data": {**first["data"], "cost": "2"}}
    other_outcome = failed(operation_id=first["data"]["operation_id"], cost="3")
    await publish_bytes(nats_client, builders.to_bytes(first))
    await all_acknowledged(nats_client)  # writers overlap: only what is committed came first
    for event in (other_body, other_outcome, completed(cost="4")):
        await publish_bytes(nats_client, builders.to_bytes(event))
    await all_acknowledged(nats_client)
    totals = (await ledger.usage())["totals"]
    assert totals == {"calls": 2, "units": 2, "cost": "5.000000000", "failures": 0}
    letters = {
        row["code"]: json.loads(row["body"]) for row in await database.fetch("select code, body from dead_letters")
    }
    assert letters == {"conflict": other_body, "operation_conflict": other_outcome}


async def test_what_the_database_refuses_is_dead_lettered_alone(
    ledger: Ledger, nats_client: Client, database: "Database[asyncpg.Record]"
) -> None:
    await ledger.send(completed(cost="1", time="2026-11-01T00:00:00Z"))
    await database.execute("update usage_summary set cost_nanos = $1", 2**63 - 10)
    too_much = completed(cost="1", time="2026-11-02T00:00:00Z", source="journal", sourcesequence=2)
    fitting = [
        completed(cost="1", time="2026-10-02T00:00:00Z", source="journal", sourcesequence=number) for number in (1, 3)
    ]
    await publish(nats_client, fitting[0], too_much, fitting[1])
    await all_acknowledged(nats_client)
    assert (await ledger.usage(period="2026-10"))["totals"]["calls"] == 2
    assert json.loads(await database.fetchval("select body from dead_letters")) == too_much
    recorded = await database.fetchval("select recorded::text from sources where source = 'journal'")
    assert recorded == "{[1,4)}", "the producer must not send the refused event for ever"


# --- confirmations ---


class Confirmations:
    """What the ledger said on usage.v1.recorded: the last word on each source."""

    def __init__(self) -> None:
        self.last: dict[str, list[list[int]]] = {}
        self.count: dict[str, int] = defaultdict(int)

    @classmethod
    async def of(cls, client: Client) -> "Confirmations":
        confirmations = cls()

        async def on_message(message: Msg) -> None:
            said = json.loads(message.data)
            confirmations.last[said["source"]] = said["recorded"]
            confirmations.count[said["source"]] += 1

        await client.subscribe(RECORDED, cb=on_message)
        await flushed(client)
        return confirmations

    async def say(self, source: str, recorded: list[list[int]]) -> None:
        await eventually(lambda: self.last.get(source) == recorded, f"{source} is told {recorded}")


async def test_producers_are_told_what_is_committed_and_where_the_holes_are(
    ledger: Ledger, nats_client: Client
) -> None:
    confirmations = await Confirmations.of(nats_client)
    events = {number: completed(source="journal-a", sourcesequence=number) for number in range(1, 8)}
    await publish(nats_client, *(events[number] for number in (1, 2, 5, 7)))
    await confirmations.say("journal-a", [[1, 2], [5, 5], [7, 7]])
    await publish(nats_client, events[6], completed(source="journal-b", sourcesequence=3))
    await confirmations.say("journal-a", [[1, 2], [5, 7]])
    await confirmations.say("journal-b", [[3, 3]])
    await publish(nats_client, events[4], events[3])
    await confirmations.say("journal-a", [[1, 7]])


async def test_a_confirmation_is_repeated_for_producers_that_missed_it(ledger: Ledger, nats_client: Client) -> None:
    await publish(nats_client, completed(source="journal", sourcesequence=1))
    await all_acknowledged(nats_client)
    confirmations = await Confirmations.of(nats_client)
    await confirmations.say("journal", [[1, 1]])
    await eventually(lambda: confirmations.count["journal"] >= 2, "it is said again")


async def test_a_source_with_more_holes_than_a_message_takes_is_confirmed_and_so_are_the_others(
    start_ledger: StartLedger, nats_client: Client, database: "Database[asyncpg.Record]"
) -> None:
    """Confirmed in portions, each with the last range: a restored journal knows by it that they are not its own."""
    ledger = await start_ledger(confirm_interval_seconds=1.0)
    many, first = 29_000, 10**18
    await database.execute(
        "insert into sources (source, recorded) select 'a-journal', range_agg(int8range($2 + 2 * n, $2 + 2 * n + 1)) "
        "from generate_series(1, $1::bigint) as n",
        many,
        first,
    )
    heard: list[list[list[int]]] = []

    async def on_message(message: Msg) -> None:
        said = json.loads(message.data)
        if said["source"] == "a-journal":
            heard.append(said["recorded"])

    await nats_client.subscribe(RECORDED, cb=on_message)
    confirmations = await Confirmations.of(nats_client)
    await ledger.send(completed(source="b-journal", sourcesequence=1))
    await eventually(lambda: confirmations.count["b-journal"] >= 2, "the other is confirmed, again too")
    await eventually(lambda: len(heard) >= 3, "all portions came")
    last = first + 2 * many
    assert {start for portion in heard for start, _ in portion} == {first + 2 * n for n in range(1, many + 1)}
    assert {tuple(portion[-1]) for portion in heard} == {(last, last)}


async def test_repeats_conflicts_and_poison_are_confirmed_too(ledger: Ledger, nats_client: Client) -> None:
    """A producer need not send them again: they are in the log or in the dead letters."""
    confirmations = await Confirmations.of(nats_client)
    first = completed(source="journal", sourcesequence=1)
    second_outcome = completed(operation_id=first["data"]["operation_id"], source="journal", sourcesequence=2)
    poison = completed(cost=1.5, source="journal", sourcesequence=3)
    await publish(nats_client, first)
    await publish_bytes(nats_client, *(builders.to_bytes(event) for event in (first, second_outcome, poison)))
    await confirmations.say("journal", [[1, 3]])


async def test_a_sequence_that_is_no_number_confirms_nothing(
    ledger: Ledger, nats_client: Client, database: "Database[asyncpg.Record]"
) -> None:
    sequences = [True, 0, -1, 2**63, "1", 1.0, None]
    await publish(nats_client, *(completed(cost=1.5, source="journal", sourcesequence=one) for one in sequences))
    await all_acknowledged(nats_client)
    assert await database.fetchval("select count(*) from dead_letters") == len(sequences)
    assert await database.fetchval("select count(*) from sources") == 0


async def test_events_over_http_are_confirmed_too(ledger: Ledger, nats_client: Client) -> None:
    confirmations = await Confirmations.of(nats_client)
    await ledger.send(completed(source="journal", sourcesequence=4))
    await confirmations.say("journal", [[4, 4]])
