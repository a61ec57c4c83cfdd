"""What sealing costs the writers, and how quickly a sealed log is verified: beside reading and hashing it at all."""

import asyncio
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from statistics import median

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger_service.domain.checkpoints import SigningKey
from ledger_service.domain.leaves import COLUMNS
from ledger_service.seal_verification import hashing_processes, verify_seals
from ledger_service.sealing import SealChain, Sealing
from tests.bench.ingest import ingest_from_stream
from tests.bench.machine import Servers
from tests.bench.report import Figure, Report

PROCESSES = 2
ROWS_PER_TRANSACTION = 5_000
#: Rows as ingest writes them, some 690 bytes as a leaf; by SQL alone, as ten million through ingest take ten minutes.
_FILL = """
    insert into event_log (account_id, event_id, type, operation_id, terminal, source, source_sequence, occurred_at,
                           body)
    select 'account-1-' || number % 10000,
           overlay(gen_random_uuid()::text placing lpad(to_hex(extract(epoch from clock_timestamp())::bigint), 8, '0')
                   from 1)::uuid,
           'usage.operation.completed.v1', gen_random_uuid(), true, 'filler', number, now(),
           format('{"specversion":"1.0","id":"%s","type":"usage.operation.completed.v1","source":"filler",'
                  || '"sourcesequence":%s,"data":%s}', gen_random_uuid(), number, $3::text)::json
    from generate_series($1::bigint, $2::bigint) as number
"""
_DATA = (
    '{"operation_id":"0192f0c1-2222-7000-8000-000000000000","account_id":"account-1-00000","user_id":"user-11",'
    '"operation":"generate","provider":"local","model":"small-1","quantity":1,"request_bytes":300,'
    '"cost":"0.040000000","requested_at":"2026-11-22T22:41:07.412000+00:00","duration_ms":1234,'
    '"actual_provider":"local","status_code":200,"retry_count":0,"response_bytes":200000}'
)


def measure_sealed_ingest(made: Servers, report: Report, events: int, repeats: int) -> None:
    """Ingest with a sealer at work in the same process, and without, in turns."""
    with tempfile.TemporaryDirectory(prefix="usage-ledger-bench-") as folder:
        sealing = {
            "LEDGER_SEALS_KEY_FILE": str(Path(folder) / "key.pem"),
            "LEDGER_SEALS_FILE": str(Path(folder) / "checkpoints"),
            "LEDGER_SEALS_INTERVAL_SECONDS": "1",
        }
        with_seals, without = [], []
        for repeat in range(repeats):
            without.append(ingest_from_stream(made, events, seed=500 + repeat)[0])
            with_seals.append(ingest_from_stream(made, events, seed=600 + repeat, environment=sealing)[0])
    report.add(
        Figure(
            name="ingest while a worker seals the log each second",
            value=median(with_seals),
            unit="events/s",
            beside="the same without sealing",
            beside_value=median(without),
            ratio_aim=(">=", 0.85),
        )
    )


def measure_verification(made: Servers, report: Report, rows: int) -> None:
    """A log of so many rows: sealed, then verified."""
    asyncio.run(_fill(made, rows))
    measure_verification_of(made, report)


def measure_verification_of(made: Servers, report: Report) -> None:
    """The rows of whatever log is there: sealed, then verified."""
    chain = SealChain(SigningKey("usage-ledger", Ed25519PrivateKey.generate()))
    total, sealing = asyncio.run(_seal(made, chain))
    verifying = _verify(made, chain, total)
    reading = asyncio.run(_bare_read(made))
    report.add(Figure(f"sealing a log of {total:,} rows", total / sealing, "rows/s"))
    report.add(
        Figure(
            name=f"verifying {total:,} sealed rows, {PROCESSES} processes",
            value=verifying,
            unit="s",
            value_aim=("<=", 120 * total / 10_000_000),
            beside="reading them (COPY) and SHA-256 over all",
            beside_value=reading,
            ratio_aim=("<=", 4.0),
        )
    )


async def _fill(made: Servers, rows: int) -> None:
    connection = await asyncpg.connect(made.database_url, command_timeout=600)
    try:
        for first in range(1, rows + 1, ROWS_PER_TRANSACTION):
            await connection.execute(_FILL, first, min(first + ROWS_PER_TRANSACTION - 1, rows), _DATA)
        await connection.execute("vacuum analyze event_log")
        await connection.execute("checkpoint")
    finally:
        await connection.close()


async def _seal(made: Servers, chain: SealChain) -> tuple[int, float]:
    connection = await asyncpg.connect(made.database_url, command_timeout=600)
    try:
        await connection.execute("set enable_seqscan = off")
        sealing, sealed = Sealing(chain), 0
        begin = time.perf_counter()
        while portion := await sealing.seal(connection):
            sealed += portion
        return sealed, time.perf_counter() - begin
    finally:
        await connection.close()


def _verify(made: Servers, chain: SealChain, rows: int) -> float:
    begin = time.perf_counter()
    with hashing_processes(PROCESSES) as executor:
        report = asyncio.run(verify_seals(made.database_url, chain.origin, [chain.key.verifier], {}, executor))
    assert report.holds
    assert report.rows == rows
    return time.perf_counter() - begin


async def _bare_read(made: Servers) -> float:
    connection = await asyncpg.connect(made.database_url, command_timeout=600)
    digest = sha256()

    async def take(data: bytes) -> None:
        digest.update(data)

    try:
        begin = time.perf_counter()
        await connection.copy_from_query(f"select {', '.join(COLUMNS)} from event_log", output=take, format="binary")
        return time.perf_counter() - begin
    finally:
        await connection.close()
