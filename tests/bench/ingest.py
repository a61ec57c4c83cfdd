"""JetStream to committed projections, beside bare COPY into the same table and beside its own SQL alone."""

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from statistics import median
from uuid import UUID

import asyncpg
import orjson

from contracts.access.nats_access import NatsAccess
from ledger_service.intake import add_to_batch
from ledger_service.recording import Batch, record
from ledger_service.store.pool import open_hot_pool
from ledger_service.stream import connect_nats
from tests.bench.machine import Servers, service
from tests.bench.report import Figure, Report
from tests.bench.workload import make_events

BATCH_EVENTS = 1_000
IN_FLIGHT = 256
POLL_SECONDS = 0.02
WAIT_SECONDS_MAX = 120
_COLUMNS = (
    "account_id", "event_id", "type", "operation_id", "terminal", "source", "source_sequence", "occurred_at", "body",
)  # fmt: skip
Events = list[tuple[str, bytes]]


def measure_ingest(made: Servers, report: Report, events: int, repeats: int) -> None:
    copies, alone, streamed, memory = [], [], [], 0.0
    for repeat in range(repeats):
        copies.append(asyncio.run(_bare_copy(made, list(make_events(events, seed=100 + repeat)))))
        alone.append(asyncio.run(_sql_alone(made, list(make_events(events, seed=200 + repeat)))))
        rate, used = ingest_from_stream(made, events, seed=300 + repeat)
        streamed.append(rate)
        memory = max(memory, used)
    rate = median(streamed)
    report.add(
        Figure(
            name="ingest, JetStream to committed projections",
            value=rate,
            unit="events/s",
            value_aim=(">=", 15_000),
            beside="bare COPY into the log's table",
            beside_value=median(copies),
            ratio_aim=(">=", 0.10),
        )
    )
    report.add(Figure("the same", rate, "events/s", None, "its own SQL, run alone", median(alone), (">=", 0.55)))
    report.add(Figure("ledger's memory under ingest", memory, "MiB", ("<=", 200)))


async def _bare_copy(made: Servers, events: Events) -> float:
    connection = await asyncpg.connect(made.database_url)
    try:
        await connection.execute("drop table if exists bare; create table bare (like event_log including all)")
        rows = [_log_row(body) for _, body in events]
        begin = time.perf_counter()
        for start in range(0, len(rows), BATCH_EVENTS):
            await connection.copy_records_to_table("bare", records=rows[start : start + BATCH_EVENTS], columns=_COLUMNS)
        elapsed = time.perf_counter() - begin
        await connection.execute("drop table bare")
        return len(rows) / elapsed
    finally:
        await connection.close()


def _log_row(body: bytes) -> tuple[object, ...]:
    event = orjson.loads(body)
    return (
        event["subject"], UUID(event["id"]), event["type"], UUID(event["data"]["operation_id"]),
        "cost" in event["data"],
        event["source"], event["sourcesequence"], datetime.fromisoformat(event["time"]), body.decode(),
    )  # fmt: skip


async def _sql_alone(made: Servers, events: Events) -> float:
    """The ingest transaction over batches that are parsed already, one connection, nothing else running."""
    pool = await open_hot_pool(made.database_url, 1, "bench")
    try:
        batches = []
        for start in range(0, len(events), BATCH_EVENTS):
            batch = Batch()
            for subject, body in events[start : start + BATCH_EVENTS]:
                add_to_batch(batch, body, "bench", subject)
            batches.append(batch)
        begin = time.perf_counter()
        for batch in batches:
            await record(pool, batch)
        return len(events) / (time.perf_counter() - begin)
    finally:
        await pool.close()


def ingest_from_stream(
    made: Servers, events: int, seed: int, environment: Mapping[str, str] | None = None
) -> tuple[float, float]:
    """Events per second from the first to the last that is committed, and the ledger's memory in MiB."""
    return asyncio.run(_from_stream(made, list(make_events(events, seed)), environment or {}))


async def _from_stream(made: Servers, events: Events, environment: Mapping[str, str]) -> tuple[float, float]:
    await _publish(made, events)
    connection = await asyncpg.connect(made.database_url)
    try:
        before = await _log_rows(connection)
        with service("ledger_service", "LEDGER_PORT", made.environment(**environment), wait=False) as ledger:
            first = await _log_rows_beyond(connection, before)
            begin = time.perf_counter()
            now = await _log_rows_beyond(connection, before + len(events) - 1)
            return (now - first) / (time.perf_counter() - begin), ledger.memory_mib
    finally:
        await connection.close()


async def _log_rows_beyond(connection: "asyncpg.Connection[asyncpg.Record]", rows: int) -> int:
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while (now := await _log_rows(connection)) <= rows:  # noqa: ASYNC110 - another process commits
            await asyncio.sleep(POLL_SECONDS)
    return now


async def _log_rows(connection: "asyncpg.Connection[asyncpg.Record]") -> int:
    # Committed ones: the source's ranges are written in the same transaction, and cheap to read.
    return int(
        await connection.fetchval(
            "select coalesce(sum(upper(part) - lower(part)), 0) from sources, unnest(recorded) as part"
        )
    )


async def _publish(made: Servers, events: Events) -> None:
    connection = await connect_nats(NatsAccess(made.nats_url), "bench")
    jetstream, places = connection.jetstream(), asyncio.Semaphore(IN_FLIGHT)

    async def publish(subject: str, body: bytes) -> None:
        async with places:
            await jetstream.publish(subject, body, headers={"Nats-Msg-Id": orjson.loads(body)["id"]})

    try:
        await asyncio.gather(*(publish(subject, body) for subject, body in events))
    finally:
        await connection.close()
