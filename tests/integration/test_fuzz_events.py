"""Bytes that are nearly events: read or refused, never more; whatever was read, PostgreSQL keeps or refuses alone."""

import json
import os
import random
from collections.abc import Hashable, Iterable

import asyncpg
import orjson
import pytest

from contracts import events, money, problems
from contracts.events import BATCH_CONTENT_TYPE, event_to_json, parse_event
from contracts.problems import Problem
from ledger_service import intake
from ledger_service.domain import batches, corrections
from ledger_service.domain.batches import same_json
from ledger_service.domain.corrections import unfounded_changes
from ledger_service.intake import add_to_batch, read_event
from ledger_service.recording import Batch, record
from ledger_service.store.event_log import incoming_row
from ledger_service.store.pool import Pool
from tests import builders
from tests.builders import completed, failed, requested
from tests.coverage_fuzzer import Fuzzer
from tests.servers import Ledger

Database = asyncpg.Connection
FOLLOWED = (events, money, problems, intake, batches, corrections)
INPUT_SECONDS_MAX = 2.0
#: In `make test`, and where somebody waits for it. FUZZ_SEED repeats a run.
SHORT, LONG = (4_000, 2.5), (1_000_000, 300.0)
GOOD = completed()
SEEDS = [
    builders.to_bytes(event)
    for event in (
        requested(),
        completed(metadata={"a": [1, {"b": None}]}, project_id="p", sourcesequence=3),
        failed(endpoint="/v1", api_key_id="k"),
        {**completed(), "leaseid": builders.new_id(), "traceparent": f"00-{16 * 'af'}-{8 * 'b7'}-01"},
    )
]  # fmt: skip


def read(body: bytes) -> Iterable[Hashable]:
    """What holds for any bytes; answers what became of these."""
    batch = Batch()
    add_to_batch(batch, body, "jetstream", None)
    for source, sequence in batch.sequences:
        assert 0 < len(source) <= 256
        assert 0 < sequence < 2**63
    if len(body) % 4 == 0:  # slow beside the rest
        unfounded_changes(body, GOOD)
    found = read_event(body, "jetstream")
    if isinstance(found, Problem):
        assert len(batch.letters) == 1
        assert Problem.model_validate_json(found.model_dump_json()) == found
        assert found.detail
        orjson.dumps(found.model_dump())
        return {(found.code, error.field[:40], error.rule) for error in found.errors} or {found.code}
    event = found.event
    assert event.subject == event.data.account_id
    assert same_json(body, body.decode())
    orjson.loads(body)  # strict: no NaN, which PostgreSQL would not keep
    written = parse_event(event_to_json(event))  # which leaves nulls out
    assert written.model_dump(exclude_none=True) == event.model_dump(exclude_none=True)
    assert len(incoming_row(0, event, body.decode())) == len(incoming_row(0, parse_event(SEEDS[0]), ""))
    assert unfounded_changes(body, json.loads(body)) == []
    return {(event.type, name, type(value).__name__) for name, value in event.data}


@pytest.mark.parametrize(
    ("inputs", "seconds"), [pytest.param(*SHORT, id="short"), pytest.param(*LONG, id="long", marks=pytest.mark.faults)]
)
async def test_whatever_comes_is_recorded_or_a_letter(
    inputs: int, seconds: float, ledger: Ledger, writing_pool: Pool, database: "Database[asyncpg.Record]"
) -> None:
    seed = int(os.environ.get("FUZZ_SEED", "4" if seconds < 60 else str(random.SystemRandom().randrange(2**32))))
    print(f"FUZZ_SEED={seed}")
    fuzzer = Fuzzer(read, FOLLOWED, SEEDS, seed)
    at_first = fuzzer.features
    fuzzer.run(inputs, seconds)
    print(f"{fuzzer.inputs} inputs, {fuzzer.features} lines and outcomes ({at_first} from the seeds)")
    assert fuzzer.slowest_seconds < INPUT_SECONDS_MAX
    assert fuzzer.features > 2 * at_first, "it found hardly more than the seeds show: it is not guided"

    batch = Batch()
    for body in fuzzer.corpus:
        add_to_batch(batch, body, "jetstream", None)
    recorded = await record(writing_pool, batch)
    assert len(recorded.receipts) + len(batch.letters) == len(fuzzer.corpus)
    kept = await database.fetchval("select sum(received_count) from dead_letters")
    receipts = [receipt.value for receipt in recorded.receipts if not isinstance(receipt, Problem)]
    assert await database.fetchval("select count(*) from event_log") == receipts.count("accepted")
    assert kept == len(fuzzer.corpus) - receipts.count("accepted") - receipts.count("duplicate")

    for body in fuzzer.corpus[:150]:
        assert (await ledger.send_one(body)).status_code in (200, 400, 409, 413, 422), body
    batches_of = [b"[" + b",".join(fuzzer.corpus[start : start + 20]) + b"]" for start in range(0, 200, 20)]
    for body in batches_of:
        answer = await ledger.http.post("/v1/events", content=body, headers={"content-type": BATCH_CONTENT_TYPE})
        assert answer.status_code in (200, 400, 413, 422), body
    shown = await ledger.http.get("/v1/dead-letters", params={"limit": 1000})
    for item in shown.json()["items"][:50]:
        assert (await ledger.http.get(f"/v1/dead-letters/{item['dead_letter_id']}")).status_code == 200
    act = {"author": "fuzz", "reason": "again"}
    assert (await ledger.http.post("/v1/dead-letters:redrive", json=act)).status_code == 200
    assert (await ledger.send(completed()))["accepted"] == 1
