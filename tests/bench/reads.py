"""The usage summary's read time as the log grows."""

import asyncio

from ledger_service.intake import add_to_batch
from ledger_service.recording import Batch, record
from ledger_service.store.pool import open_hot_pool
from tests.bench.ingest import BATCH_EVENTS
from tests.bench.load import Load, run_load
from tests.bench.machine import Servers, service
from tests.bench.report import Figure, Report
from tests.bench.workload import account_id, make_events

READS = 2_000
#: Few enough that each has rows among the first thousand already.
READ_ACCOUNTS = 100


def measure_reads(made: Servers, report: Report, small: int, large: int, repeats: int) -> None:
    with service("ledger_service", "LEDGER_PORT", made.environment()) as ledger:
        asyncio.run(_fill(made, small, seed=1))
        few = sorted(_read(ledger.url) for _ in range(repeats))[repeats // 2]
        asyncio.run(_fill(made, large - small, seed=2))
        many = sorted(_read(ledger.url) for _ in range(repeats))[repeats // 2]
    name, beside = f"usage summary read, {large:,} log rows, p50", f"the same with {small:,}"
    report.add(Figure(name, many, "ms", None, beside, few, ("<=", 1.3)))


def _read(url: str) -> float:
    return run_load(Load(url, "GET", 1, READS, _path)).p50_ms


def _path(index: int) -> tuple[str, bytes]:
    return f"/v1/accounts/{account_id(index % READ_ACCOUNTS)}/usage", b""


async def _fill(made: Servers, events: int, seed: int) -> None:
    """Through the ingest code, as everything that enters the log."""
    pool = await open_hot_pool(made.database_url, 1, "bench")
    try:
        batch = Batch()
        for subject, body in make_events(events, seed, accounts=READ_ACCOUNTS):
            add_to_batch(batch, body, "bench", subject)
            if len(batch.submissions) == BATCH_EVENTS:
                await record(pool, batch)
                batch = Batch()
        await record(pool, batch)
    finally:
        await pool.close()
