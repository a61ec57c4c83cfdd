"""Start and end: migrations, the stream's settings, readiness, a graceful stop."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import asyncpg
import httpx
import nats
import pytest
from nats.js.api import ConsumerConfig, DeliverPolicy, DiscardPolicy, StorageType, StreamConfig

from contracts.exit_codes import ExitCode
from contracts.subjects import INGEST_CONSUMER, STREAM
from deploy.local.ports import free_port
from ledger_service.store.migrations import MigrationError, check_schema, migrate, migrations
from ledger_service.store.pool import open_pool
from ledger_service.stream import StreamConfigError, check_stream, consumer_config, create_stream, stream_config
from tests import builders
from tests.builders import completed, limit
from tests.servers import LedgerProcess, eventually

COMMAND_SECONDS = 30


def run_ledger(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**os.environ, **environment, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


MIGRATE = ["ledger_service.cli", "migrate"]


# --- migrations ---


async def test_migrating_twice_applies_everything_once(empty_database_url: str) -> None:
    assert await migrate(empty_database_url) == [migration.name for migration in migrations()]
    assert await migrate(empty_database_url) == []


async def test_migrating_in_many_processes_at_once_applies_everything_once(empty_database_url: str) -> None:
    applied = await asyncio.gather(*(migrate(empty_database_url) for _ in range(8)))
    assert sorted(map(len, applied)) == [0] * 7 + [len(migrations())]


async def test_a_migrated_database_passes_the_check(database_url: str) -> None:
    pool = await open_pool(database_url, 1)
    async with pool.acquire() as connection:
        await check_schema(connection)
    await pool.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("drop table schema_migrations", "run `ledger migrate`"),
        ("delete from schema_migrations", "misses 0001_ledger.sql"),
        ("insert into schema_migrations values ('9999_future.sql', 'x')", "9999_future.sql"),
        ("update schema_migrations set digest = 'x' where name = '0001_ledger.sql'", "must not be edited"),
    ],
)
async def test_a_database_of_another_version_is_refused(database_url: str, change: str, words: str) -> None:
    pool = await open_pool(database_url, 1)
    async with pool.acquire() as connection:
        await connection.execute(change)
        with pytest.raises(MigrationError, match=words):
            await check_schema(connection)
    await pool.close()


@pytest.mark.parametrize(
    "change",
    [
        "insert into schema_migrations values ('9999_future.sql', 'x')",
        "update schema_migrations set digest = 'x' where name = '0001_ledger.sql'",
    ],
)
async def test_migrate_refuses_a_newer_or_edited_schema(
    database_url: str, database: "asyncpg.Connection[asyncpg.Record]", change: str
) -> None:
    await database.execute(change)
    with pytest.raises(MigrationError):
        await migrate(database_url)


async def test_the_command_migrates_database_and_stream_and_may_be_run_again(
    empty_database_url: str, bare_nats_url: str
) -> None:
    servers = {"LEDGER_DATABASE_URL": empty_database_url, "LEDGER_NATS_URL": bare_nats_url}
    # Both at once, and a third after them.
    runs = await asyncio.gather(*(asyncio.to_thread(run_ledger, MIGRATE, **servers) for _ in range(2)))
    runs.append(await asyncio.to_thread(run_ledger, MIGRATE, **servers))
    assert [run.returncode for run in runs] == [0, 0, 0], [run.stderr for run in runs]
    assert sum("0001_ledger.sql" in run.stderr + run.stdout for run in runs) == 1
    client = await nats.connect(bare_nats_url)
    await check_stream(client)
    await client.close()


@pytest.mark.parametrize("missing", ["LEDGER_DATABASE_URL", "LEDGER_NATS_URL"])
async def test_the_command_says_what_it_cannot_reach(database_url: str, nats_url: str, missing: str) -> None:
    scheme = {"LEDGER_DATABASE_URL": "postgresql://postgres", "LEDGER_NATS_URL": "nats://nobody"}[missing]
    servers = {"LEDGER_DATABASE_URL": database_url, "LEDGER_NATS_URL": nats_url}
    servers[missing] = f"{scheme}@127.0.0.1:{free_port()}/ledger"
    run = await asyncio.to_thread(run_ledger, MIGRATE, **servers)
    assert run.returncode == 1
    assert missing in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("database_state", ["empty", "newer"])
async def test_the_ledger_refuses_to_start_on_an_unmigrated_or_newer_database(
    database_url: str, empty_database_url: str, nats_url: str, database_state: str
) -> None:
    url = empty_database_url
    if database_state == "newer":
        url = database_url
        connection = await asyncpg.connect(url)
        await connection.execute("insert into schema_migrations values ('9999_future.sql', 'x')")
        await connection.close()
    settings = {"LEDGER_DATABASE_URL": url, "LEDGER_NATS_URL": nats_url, "LEDGER_PORT": str(free_port())}
    run = await asyncio.to_thread(run_ledger, ["ledger_service"], **settings)
    assert {"empty": "ledger migrate", "newer": "9999_future.sql"}[database_state] in why_not_started(run)


# --- the stream ---


async def test_the_stream_and_its_consumer_are_as_they_must_be(bare_nats_url: str) -> None:
    client = await nats.connect(bare_nats_url)
    for _ in range(2):
        await create_stream(client, replicas=1)
    stream = (await client.jetstream().stream_info(STREAM)).config
    assert (stream.discard, stream.storage) == (DiscardPolicy.NEW, StorageType.FILE)
    assert (stream.deny_delete, stream.deny_purge, stream.max_age) == (True, True, 0)
    consumer = (await client.jetstream().consumer_info(STREAM, INGEST_CONSUMER)).config
    assert (consumer.max_deliver, consumer.deliver_policy) == (-1, DeliverPolicy.ALL)
    await client.close()


@pytest.mark.parametrize(
    "change",
    [
        {"discard": DiscardPolicy.OLD},
        {"storage": StorageType.MEMORY},
        {"deny_delete": False},
        {"deny_purge": False},
        {"max_age": 3600},
        {"subjects": ["usage.v1.operation.completed"]},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_stream_with_other_settings_is_refused_and_they_are_named(
    bare_nats_url: str, change: dict[str, Any]
) -> None:
    client = await nats.connect(bare_nats_url)
    wrong: StreamConfig = replace(stream_config(1), **change)
    await client.jetstream().add_stream(wrong)
    await client.jetstream().add_consumer(STREAM, consumer_config())
    with pytest.raises(StreamConfigError, match=next(iter(change))):
        await check_stream(client)
    await client.close()


@pytest.mark.parametrize(
    "change",
    [
        {"max_deliver": 3},
        {"deliver_policy": DeliverPolicy.NEW},
        {"max_ack_pending": 10},
        {"filter_subject": "usage.v1.operation.completed"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_consumer_with_other_settings_is_refused_and_they_are_named(
    bare_nats_url: str, change: dict[str, Any]
) -> None:
    client = await nats.connect(bare_nats_url)
    wrong: ConsumerConfig = replace(consumer_config(), **change)
    await client.jetstream().add_stream(stream_config(1))
    await client.jetstream().add_consumer(STREAM, wrong)
    with pytest.raises(StreamConfigError, match=next(iter(change))):
        await check_stream(client)
    await client.close()


async def test_a_missing_stream_or_consumer_is_refused_with_what_to_do(bare_nats_url: str) -> None:
    client = await nats.connect(bare_nats_url)
    with pytest.raises(StreamConfigError, match="ledger migrate"):
        await check_stream(client)
    await client.jetstream().add_stream(stream_config(1))
    with pytest.raises(StreamConfigError, match=f"consumer {INGEST_CONSUMER}.*ledger migrate"):
        await check_stream(client)
    await client.close()


async def test_the_ledger_refuses_to_start_without_its_stream(database_url: str, bare_nats_url: str) -> None:
    settings = {"LEDGER_DATABASE_URL": database_url, "LEDGER_NATS_URL": bare_nats_url, "LEDGER_PORT": str(free_port())}
    run = await asyncio.to_thread(run_ledger, ["ledger_service"], **settings)
    assert "ledger migrate" in why_not_started(run)


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("DATABASE_URL", "postgresql://127.0.0.1:{port}/none", "database is out of reach"),
        ("DATABASE_URL", "{url}_none", "does not exist"),
        ("NATS_URL", "nats://127.0.0.1:{port}", "nats is out of reach"),
        ("SEALS_KEY", "secret-1", "LEDGER_SEALS_KEY is no private key"),
        ("PORT", "eight", "LEDGER_PORT: "),
        ("OIDC_ISSUER", "http://secret-1", "LEDGER_OIDC_ISSUER: https is needed"),
        ("BOOTSTRAP_TOKENS", '[{{"name": "secret-1"}}]', "LEDGER_BOOTSTRAP_TOKENS[0].token: "),
        ("METADATA_DIMENSIONS", "secret-1", "LEDGER_METADATA_DIMENSIONS: no JSON"),
    ],
)
async def test_what_keeps_it_from_starting_is_said_in_one_line(
    database_url: str, nats_url: str, name: str, value: str, named: str
) -> None:
    """Without a traceback, and without what may be a secret."""
    settings = {"LEDGER_DATABASE_URL": database_url, "LEDGER_NATS_URL": nats_url, "LEDGER_PORT": str(free_port())}
    settings["LEDGER_PROT"] = "8001"
    settings[f"LEDGER_{name}"] = value.format(url=database_url, port=free_port())
    run = await asyncio.to_thread(run_ledger, ["tests.impatient_ledger"], **settings)
    assert named in why_not_started(run)
    assert "secret-1" not in run.stdout + run.stderr
    if named.startswith("LEDGER_") and name != "SEALS_KEY":
        return  # settings that cannot be read are all that is said
    assert '"names": ["LEDGER_PROT"]' in run.stdout


@pytest.mark.parametrize("command", [["webhooks", "list"], ["migrate"], ["periods", "list"], ["seals", "key"]])
def test_a_command_names_the_settings_that_it_cannot_use(command: list[str]) -> None:
    run = run_ledger(["ledger_service.cli", *command], LEDGER_PORT="eight", LEDGER_TOKEN_SECONDS="0")
    assert run.returncode == ExitCode.FAILED
    assert "Traceback" not in run.stderr
    assert "  LEDGER_PORT: Input should be a valid integer" in run.stderr
    assert "  LEDGER_TOKEN_SECONDS: Input should be greater than 0" in run.stderr


def test_the_image_service_names_the_settings_that_it_cannot_use() -> None:
    run = run_ledger(["image_service"], IMAGE_PORT="eight", IMAGE_LEDGER_URL="secret-1")
    assert "IMAGE_PORT: Input should be a valid integer" in why_not_started(run)
    assert "IMAGE_LEDGER_URL: " in why_not_started(run)
    assert "secret-1" not in run.stdout + run.stderr


def why_not_started(run: "subprocess.CompletedProcess[str]") -> str:
    assert run.returncode not in (0, -signal.SIGTERM)
    assert "Traceback" not in run.stdout + run.stderr
    [said] = [line for line in (run.stdout + run.stderr).splitlines() if '"cannot_start"' in line]
    reason: str = json.loads(said)["reason"]
    return reason


# --- the end ---


async def test_a_graceful_stop_finishes_what_it_began_and_loses_nothing(
    ledger_process: Callable[..., LedgerProcess], database: "asyncpg.Connection[asyncpg.Record]", nats_url: str
) -> None:
    """Checks and events of which the caller heard that they were taken are there, and held calls are held."""
    process = ledger_process()
    async with process.client() as client:
        await client.set_up(limit(maximum=10**6))

        async def caller() -> tuple[list[str], list[str]]:
            held, sent = [], []
            for _ in range(10_000):
                check, event = builders.check(), completed()
                try:
                    held.append((await client.check(check))["operation_id"])
                    await client.send(event)
                    sent.append(event["id"])
                except (httpx.TransportError, AssertionError):  # gone, or about to
                    break
            return held, sent

        callers = [asyncio.create_task(caller()) for _ in range(8)]
        await eventually(lambda: database.fetchval("select count(*) > 100 from event_log"), "it is at work")
        code = await asyncio.to_thread(process.end, signal.SIGTERM)
        told = await asyncio.gather(*callers)
    assert code in (0, -signal.SIGTERM)
    held = {operation_id for one, _ in told for operation_id in one}
    sent = {event_id for _, one in told for event_id in one}
    assert len(held) > 20
    known = {str(row[0]) for row in await database.fetch("select operation_id from decisions where state = 'held'")}
    assert held <= known
    assert sent <= {str(row[0]) for row in await database.fetch("select event_id from event_log")}
