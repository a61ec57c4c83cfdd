"""The ledger while its servers go away, and after it was killed itself: nothing lost, nothing doubled."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import asyncpg
import httpx
import nats
import pytest
from nats.aio.client import Client as Nats

from contracts.subjects import subject_of
from deploy.local.ports import free_port
from deploy.local.servers import NatsServer, PostgresServer
from ledger_service.store.migrations import migrate
from ledger_service.stream import create_stream
from tests import builders
from tests.builders import Body, completed, failed, limit, requested
from tests.oracle import Oracle
from tests.property.projections import assert_projections_agree, replayed
from tests.servers import Client, Ledger, LedgerProcess, eventually, has_acknowledged_all, serving
from tests.tokens import make_token_known

#: Events under which something is killed: few in every run of the tests, many by `make faults`.
LONG = int(os.environ.get("FAULT_EVENTS", "20000"))
under_load = pytest.mark.parametrize(
    "load", [pytest.param(2000, id="short"), pytest.param(LONG, id="long", marks=pytest.mark.faults)]
)
ACCOUNTS = [f"acme-{number}" for number in range(5)]
KILLS = 3


@asynccontextmanager
async def prepared(postgres: PostgresServer, nats_server: NatsServer) -> AsyncIterator[Nats]:
    """A migrated database and stream on servers of the test's own, and a producer's connection."""
    await migrate(postgres.url)
    await make_token_known(postgres.url)
    client = await nats.connect(nats_server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.05)
    await create_stream(client, replicas=1)
    yield client
    await client.close()


@asynccontextmanager
async def own_ledger(postgres: PostgresServer, nats_server: NatsServer) -> AsyncIterator[tuple[Ledger, Nats]]:
    async with (
        prepared(postgres, nats_server) as client,
        serving(database_url=postgres.url, nats_url=nats_server.url) as ledger,
    ):
        yield ledger, client


@asynccontextmanager
async def looking(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    database = await asyncpg.connect(url)
    yield database
    await database.close()


def kill(server: PostgresServer | NatsServer) -> None:
    """As a crash does."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)


async def gone(server: PostgresServer | NatsServer) -> None:
    await eventually(lambda: server.exit_code() is not None, f"{server.name} is gone")


async def started(server: PostgresServer | NatsServer) -> None:
    # On this thread, whose end would end the server.
    server.start()


async def publish(client: Nats, events: list[Body], in_flight: int = 200) -> None:
    """Until each is acknowledged by the broker, as a relay with a journal does."""
    jetstream, room = client.jetstream(timeout=2), asyncio.Semaphore(in_flight)

    async def one(event: Body) -> None:
        async with room:
            for _ in range(100):
                try:
                    await jetstream.publish(subject_of(event["type"]), builders.to_bytes(event))
                except (nats.errors.Error, OSError):
                    await asyncio.sleep(0.05)
                else:
                    return
            raise AssertionError("the broker did not come back")

    await asyncio.gather(*(one(event) for event in events))


async def all_acknowledged(client: Nats) -> None:
    async def done() -> bool:
        try:
            return await has_acknowledged_all(client)
        except nats.errors.Error:
            return False

    await eventually(done, "everything is acknowledged", within_seconds=120)


def some_events(number: int) -> list[Body]:
    """Of several accounts, with repeats and some that only ask."""
    events = []
    for index in range(number):
        account_id = ACCOUNTS[index % len(ACCOUNTS)]
        make = (completed, completed, completed, failed, requested)[index % 7 % 5]
        events.append(make(account_id=account_id, quantity=index % 3 + 1, source="journal", sourcesequence=index + 1))
    return events + events[:: max(1, number // 50)]


async def assert_all_counted_once(database: "asyncpg.Connection[asyncpg.Record]", events: list[Body]) -> None:
    oracle = Oracle()
    for event in events:
        oracle.event(event)
    await assert_projections_agree(database, oracle, set(ACCOUNTS))
    await assert_projections_agree(database, await replayed(database, set(ACCOUNTS)), set(ACCOUNTS))
    assert await database.fetchval("select count(*) from event_log where source = 'journal'") == len(oracle.events)
    recorded = await database.fetchval("select recorded::text from sources where source = 'journal'")
    assert recorded == f"{{[1,{len(oracle.events) + 1})}}"
    assert await database.fetchval("select count(*) from dead_letters") == 0


async def is_ready(client: Client) -> bool:
    try:
        return (await client.http.get("/readyz")).status_code == 200
    except httpx.TransportError:
        return False


def _longer_than(found: list[str], number: int) -> bool:
    return len(found) > number


async def _logged_more_than(database: "asyncpg.Connection[asyncpg.Record]", number: int) -> bool:
    return bool(await database.fetchval("select count(*) > $1 from event_log", number))


# --- PostgreSQL ---


async def test_while_postgres_is_down_callers_get_503_with_retry_after_and_then_answers(
    own_postgres: PostgresServer, own_nats: NatsServer
) -> None:
    async with own_ledger(own_postgres, own_nats) as (ledger, _):
        await ledger.set_up(limit())
        asked = builders.check()
        first = await ledger.check(asked)
        own_postgres.stop()
        unsent = completed()
        answers = {
            "check": await ledger.http.post("/v1/limit-checks", json=builders.check()),
            "event": await ledger.send_one(unsent),
            "usage": await ledger.http.get(f"/v1/accounts/{builders.ACCOUNT}/usage"),
            "plan": await ledger.http.put("/v1/plans/basic", json=builders.plan()),
            "release": await ledger.release(asked["operation_id"]),
            "decision": await ledger.http.get(f"/v1/decisions/{asked['operation_id']}"),
        }
        for name, answer in answers.items():
            assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable"), name
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["content-type"] == "application/problem+json"
        ready = await ledger.http.get("/readyz")
        assert (ready.status_code, ready.json()["database"], ready.json()["nats"]) == (503, "down", "ok")
        assert (await ledger.http.get("/livez")).status_code == 200
        await started(own_postgres)
        await eventually(lambda: is_ready(ledger), "it is ready again")
        assert await ledger.check(asked) == first
        assert (await ledger.send(unsent))["accepted"] == 1
        state = await ledger.limit()
        assert (state["settled"], state["held"]) == (1, 1)


async def test_ingest_waits_for_postgres_and_goes_on_by_itself(
    own_postgres: PostgresServer, own_nats: NatsServer
) -> None:
    async with own_ledger(own_postgres, own_nats) as (_, client):
        events = some_events(500)
        own_postgres.stop()
        await publish(client, events)
        await started(own_postgres)
        await all_acknowledged(client)
        async with looking(own_postgres.url) as database:
            await assert_all_counted_once(database, events)


@under_load
async def test_postgres_crashing_under_load_loses_and_doubles_nothing(
    own_postgres: PostgresServer, own_nats: NatsServer, load: int
) -> None:
    async with own_ledger(own_postgres, own_nats) as (ledger, client):
        await ledger.put_plan(limit(maximum=10**6))
        for account_id in ACCOUNTS:
            await ledger.put_account(account_id)
        events, allowed = some_events(load), []
        statuses: set[int] = set()
        done = asyncio.Event()

        async def caller(account_id: str) -> None:
            while not done.is_set():
                check = builders.check(account_id=account_id)
                for _ in range(1000):  # the same check until it is answered, as a caller must
                    answer = await ledger.http.post("/v1/limit-checks", json=check)
                    statuses.add(answer.status_code)
                    if answer.status_code == 200:
                        allowed.append(check["operation_id"])
                        break
                    await asyncio.sleep(0.02)

        callers = [asyncio.create_task(caller(account_id)) for account_id in ACCOUNTS]
        publishing = asyncio.create_task(publish(client, events, in_flight=50))
        for _ in range(2):
            heard = len(allowed)
            await eventually(partial(_longer_than, allowed, heard + 20), "checks are answered")
            kill(own_postgres)
            await gone(own_postgres)
            await started(own_postgres)
        await publishing
        await all_acknowledged(client)
        await eventually(lambda: is_ready(ledger), "it is ready again")
        done.set()
        await asyncio.gather(*callers)
        assert statuses <= {200, 503}
        async with looking(own_postgres.url) as database:
            held = await database.fetch("select operation_id::text from decisions where state = 'held'")
            assert {row[0] for row in held} == set(allowed)
            oracle = await replayed(database, set(ACCOUNTS))
            await assert_projections_agree(database, oracle, set(ACCOUNTS))
            journal = await database.fetchval("select count(*) from event_log where source = 'journal'")
            assert journal == len({event["id"] for event in events})


# --- NATS ---


async def test_while_nats_is_down_checks_and_http_events_work_and_ready_says_no(
    own_postgres: PostgresServer, own_nats: NatsServer
) -> None:
    async with own_ledger(own_postgres, own_nats) as (ledger, client):
        await ledger.set_up(limit())
        own_nats.stop()

        async def not_ready() -> bool:
            return not await is_ready(ledger)

        await eventually(not_ready, "it says that NATS is away")
        ready = (await ledger.http.get("/readyz")).json()
        assert (ready["nats"], ready["database"]) == ("down", "ok")
        assert (await ledger.check(builders.check()))["allowed"]
        assert (await ledger.send(completed(source="http", sourcesequence=1)))["accepted"] == 1
        await started(own_nats)
        await eventually(lambda: is_ready(ledger), "it is ready again")
        await publish(client, [completed()])
        await all_acknowledged(client)
        assert (await ledger.usage())["totals"]["calls"] == 2


@under_load
async def test_nats_crashing_under_load_loses_and_doubles_nothing(
    own_postgres: PostgresServer, own_nats: NatsServer, load: int
) -> None:
    async with own_ledger(own_postgres, own_nats) as (_, client):
        events = some_events(load // 2)
        publishing = asyncio.create_task(publish(client, events, in_flight=20))
        async with looking(own_postgres.url) as database:
            for _ in range(2):
                before = await database.fetchval("select count(*) from event_log")
                await eventually(partial(_logged_more_than, database, before + 50), "events arrive")
                kill(own_nats)
                await gone(own_nats)
                await started(own_nats)
            await publishing
            await all_acknowledged(client)
            await assert_all_counted_once(database, events)


# --- the ledger itself ---


@under_load
async def test_killed_in_the_middle_of_ingest_it_goes_on_where_it_was(
    own_postgres: PostgresServer, own_nats: NatsServer, tmp_path: Path, load: int
) -> None:
    settings = {"database_url": own_postgres.url, "nats_url": own_nats.url, "ingest_batch_events_max": load // 50}
    async with prepared(own_postgres, own_nats) as client, looking(own_postgres.url) as database:
        events = some_events(load)
        await publish(client, events)
        kills = 0
        while True:
            process = LedgerProcess(free_port(), tmp_path / f"ledger-{kills}.log", settings)
            before = await database.fetchval("select count(*) from event_log")
            process.launch()
            try:
                await eventually(partial(_logged_more_than, database, before), "it ingests", within_seconds=60)
                if kills == KILLS:
                    await all_acknowledged(client)
                    break
                process.end(signal.SIGKILL)
                kills += 1
                left = len(events) - await database.fetchval("select count(*) from event_log")
                assert left > len(events) // 10, "killed too late to be in the middle"
            finally:
                process.stop()
        await assert_all_counted_once(database, events)


async def test_holds_survive_a_kill_and_expire_after_it(
    database: "asyncpg.Connection[asyncpg.Record]", ledger_process: Callable[..., LedgerProcess]
) -> None:
    first = ledger_process()
    async with first.client() as client:
        await client.set_up(limit(maximum=2))
        short, long = builders.check(ttl_seconds=1), builders.check(ttl_seconds=600)
        decisions = [await client.check(check) for check in (short, long)]
    first.end(signal.SIGKILL)
    second = ledger_process()
    async with second.client() as client:
        assert await client.check(long) == decisions[1]

        async def next_is_admitted() -> bool:
            return bool((await client.check(builders.check(dry_run=True)))["allowed"])

        await eventually(next_is_admitted, "the short hold expires")
        assert (await client.limit())["held"] == 1
    await assert_projections_agree(database, await replayed(database, {builders.ACCOUNT}), {builders.ACCOUNT})
