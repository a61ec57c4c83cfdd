"""A flood of poison amid good events: each good one counts, none waits for redelivery, each poison is one letter."""

import asyncio
import random
import time
from collections import Counter

import asyncpg
from nats.aio.client import Client

from contracts.subjects import INGEST_CONSUMER, STREAM
from tests import builders
from tests.builders import Body, completed, failed
from tests.servers import Ledger, eventually, has_acknowledged_all

Database = asyncpg.Connection
GOOD = 1_000
OF_EACH_KIND = 60
#: What poison may cost, in good events: half of this flood is poison, and some of it is a hundred times as large.
SHARE_MAX = 12
ACK_WAIT_SECONDS = 10


def poison(known: Body) -> dict[str, list[bytes]]:
    """By the code that it is to get, and a few times over, as a stubborn producer sends it."""
    operation_id = known["data"]["operation_id"]
    broken = [
        [builders.to_bytes({**completed(), "subject": "somebody-else"}) for _ in range(OF_EACH_KIND)],
        [builders.to_bytes(completed(cost=0.5, quantity=0)) for _ in range(OF_EACH_KIND)],
        [builders.to_bytes(completed(None, **{f"more{n}": 1 for n in range(1_500)})) for _ in range(OF_EACH_KIND)],
        [builders.raw_metadata(f'{{"a": {n}{"9" * 2_000}}}') for n in range(1, OF_EACH_KIND)],
        [builders.to_bytes(completed()).replace(b'"cost":', b'"cost": "0.01", "cost":') for _ in range(OF_EACH_KIND)],
        [builders.to_bytes(completed(account_id="full", cost="1", time="2026-11-05T00:00:00Z")) for _ in range(20)],
    ]
    return {
        "malformed_json": [b'{"a": %d' % n for n in range(OF_EACH_KIND)]
        + [builders.to_bytes(completed())[:-3] + b"\xff\xfe%d" % n for n in range(OF_EACH_KIND)]
        + [builders.raw_metadata('{"a": ' + "[" * 2_000 + "]" * 2_000 + "}") for _ in range(OF_EACH_KIND)],
        "invalid_request": [body for kind in broken for body in kind],
        "too_large": [builders.to_bytes({**completed(), "more": "x" * 70_000}) for _ in range(20)],
        "conflict": [
            builders.to_bytes({**known, "data": {**known["data"], "duration_ms": 1_000 + n}})
            for n in range(OF_EACH_KIND)
        ],
        "operation_conflict": [builders.to_bytes(failed(operation_id=operation_id)) for _ in range(OF_EACH_KIND)],
    }


async def send(client: Client, bodies: list[bytes]) -> float:
    """Seconds until the ledger has acknowledged all of them."""
    begin = time.monotonic()
    jetstream, places = client.jetstream(), asyncio.Semaphore(200)

    async def publish(body: bytes) -> None:
        async with places:
            await jetstream.publish("usage.v1.operation.completed", body)

    await asyncio.gather(*map(publish, bodies))
    await eventually(lambda: _all_acknowledged(client), "everything is acknowledged", 60)
    return time.monotonic() - begin


async def _all_acknowledged(client: Client) -> bool:
    info = await client.jetstream().consumer_info(STREAM, INGEST_CONSUMER)
    assert not info.num_redelivered
    return await has_acknowledged_all(client)


def good() -> list[bytes]:
    return [builders.to_bytes(completed(account_id=f"acme-{number % 20}")) for number in range(GOOD)]


async def test_a_flood_of_poison_costs_good_events_no_more_than_its_share(
    ledger: Ledger, nats_client: Client, database: "Database[asyncpg.Record]"
) -> None:
    await ledger.send(known := completed(), completed(account_id="full", cost="1", time="2026-11-05T00:00:00Z"))
    await database.execute("update usage_summary set cost_nanos = $1 where account_id = 'full'", 2**63 - 10)
    kinds = poison(known)
    repeated = [body for bodies in kinds.values() for body in bodies[:10]]
    flood = [body for bodies in kinds.values() for body in bodies] + repeated
    mixed = [*good(), *flood]
    random.Random(4).shuffle(mixed)

    alone = await send(nats_client, good())
    together = await send(nats_client, mixed)

    share = 1 + SHARE_MAX * len(flood) / GOOD
    assert together < max(alone, 0.2) * share, f"{together:.2f} s beside {alone:.2f} s without the poison"
    assert together < ACK_WAIT_SECONDS
    accounts = await database.fetch("select count(*) from usage_log where account_id like 'acme-%'")
    assert accounts[0][0] == 2 * GOOD
    rows = await database.fetch("select body, code, received_count, state from dead_letters")
    assert {row["body"]: (row["code"], row["received_count"]) for row in rows} == {
        body: (code, 2 if body in set(repeated) else 1) for code, bodies in kinds.items() for body in bodies
    }
    assert len(rows) == len(set(flood))
    assert Counter(row["state"] for row in rows) == {"open": len(rows)}
