"""Leases through the client: while the ledger is away as much as was leased, and afterwards all of it is settled."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from contracts.client import (
    ClientSettings,
    LedgerClient,
    LedgerRefused,
    LedgerUnavailable,
    Operation,
    OperationDenied,
    RecoveredFailure,
    Recovery,
)
from contracts.client.journal_file import SQL, connect
from contracts.events import OperationRequested
from contracts.identifiers import uuid7
from contracts.limits import LimitCheck
from tests.builders import ACCOUNT, Body, lease_plan, limit, usual
from tests.integration.client_harness import Proxy, an_operation, journal_in, settings_of
from tests.property.projections import assert_projections_agree, replayed
from tests.servers import Client, Ledger, LedgerProcess, eventually

#: One ledger for most of them: each test has an account and a plan of its own.
pytestmark = pytest.mark.asyncio(loop_scope="module")

Database = asyncpg.Connection
#: Less than what was used, the lease and its operations come to: nothing may count twice on the way.
MAXIMUM = 15
IMAGES = limit("images", maximum=MAXIMUM)
SPEND = limit("spend", meter="cost", maximum="1.2")
AWAY = {"timeout_seconds": 1.0, "connect_timeout_seconds": 0.5, "drain_seconds": 2.0, "flush_seconds": 2.0}


class Gate(Proxy):
    """A way to the ledger that can be shut: connections end, and new ones are refused."""

    async def shut(self) -> None:
        self._port_here = self._server.sockets[0].getsockname()[1]
        self._server.close()
        for writer in self._writers:
            writer.close()
        self._writers.clear()
        await asyncio.sleep(0.05)

    async def open_again(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port_here)


async def set_up(ledger: Client, *limits: Body, **rule: Any) -> None:
    body = lease_plan(*(limits or (IMAGES, SPEND)), **rule)
    assert (await ledger.http.put(f"/v1/plans/{usual.plan_id}", json=body)).status_code == 200
    await ledger.put_account()


async def amounts(ledger: Client, limit_id: str = "images") -> tuple[int, int]:
    state = await ledger.limit(limit_id)
    return state["settled"], state["held"]


async def one(client: LedgerClient, cost: str = "0.03", **changes: Any) -> Operation:
    async with client.operation(**an_operation(**changes)) as operation:
        operation.completed(cost=cost)
    return operation


async def many(client: LedgerClient, count: int, **changes: Any) -> tuple[list[Operation], list[BaseException]]:
    """So many at once: those that ran, and why the others did not."""
    results = await asyncio.gather(*(one(client, **changes) for _ in range(count)), return_exceptions=True)
    ran = [result for result in results if isinstance(result, Operation)]
    return ran, [result for result in results if isinstance(result, BaseException)]


async def leased(ledger: Client, count: int) -> None:
    """The client's lease for so many calls is held, and nothing else."""

    async def held() -> bool:
        return (await amounts(ledger))[1] == count

    await eventually(held, f"{count} calls are leased")
    await asyncio.sleep(0.1)  # until the client has the answer, too


async def stands_at(ledger: Client, settled: int, held: int) -> None:
    async def does() -> bool:
        return await amounts(ledger) == (settled, held)

    await eventually(does, f"{settled} settled and {held} held")


def kept_leases(settings: ClientSettings) -> int:
    assert settings.journal_path is not None
    connection = connect(settings.journal_path)
    try:
        return len(connection.execute(SQL["kept_leases"]).fetchall())
    finally:
        connection.close()


@pytest.fixture
def ledger(lent_ledger: Ledger) -> Ledger:
    return lent_ledger


@pytest_asyncio.fixture(loop_scope="module")
async def gate(ledger: Ledger) -> AsyncIterator[Gate]:
    async with Gate(ledger.url) as gate:
        yield gate


@pytest.fixture
def settings(gate: Gate, tmp_path: Path) -> ClientSettings:
    """HTTP alone, with a journal."""
    return settings_of(gate.url, None, journal_path=journal_in(tmp_path), **AWAY)


@contextlib.asynccontextmanager
async def watched(database_url: str) -> AsyncIterator[Callable[[], int]]:
    """Looks at the counter of all calls again and again; how often."""
    looks = 0
    connection = await asyncpg.connect(database_url)

    async def look() -> None:
        nonlocal looks
        while True:
            used = await connection.fetchval("select max(settled + held) from counters where meter = 'calls'")
            assert (used or 0) <= MAXIMUM, f"{used} of {MAXIMUM}"
            looks += 1
            await asyncio.sleep(0.002)

    task = asyncio.create_task(look())
    try:
        yield lambda: looks
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await connection.close()


@pytest.mark.asyncio(loop_scope="function")
async def test_while_the_ledger_is_killed_exactly_the_leased_calls_are_admitted(
    ledger_process: Callable[..., LedgerProcess], database: Database, database_url: str, tmp_path: Path
) -> None:
    process = ledger_process()
    settings = settings_of(process.url, None, journal_path=journal_in(tmp_path), **AWAY)
    async with watched(database_url) as looks, LedgerClient.open(settings) as client:
        async with process.client() as ledger:
            await set_up(ledger, calls=10)
            assert (await one(client)).lease_id is None
            await leased(ledger, 10)
        process.end(signal.SIGKILL)
        ran, refused = await many(client, 50)
        assert len(ran) == 10
        assert {type(error) for error in refused} == {LedgerUnavailable}
        assert len({operation.lease_id for operation in ran}) == 1
        assert all(operation.decision.allowed for operation in ran)
        assert await database.fetchval("select max(settled + held) from counters where meter = 'calls'") == 11
        process.start()
        async with process.client() as ledger:
            await stands_at(ledger, 11, 0)
            await eventually(lambda: kept_leases(settings) == 0, "the used-up lease is returned as well")
            # Others take what is free at the same time; nothing goes past the maximum.
            ran, refused = await many(client, 50)
            assert {type(error) for error in refused} == {OperationDenied}
            assert {operation.lease_id for operation in ran} == {None}
        assert looks() > 20
    oracle = await replayed(database, {ACCOUNT})
    await assert_projections_agree(database, oracle, {ACCOUNT})


async def test_what_is_not_used_is_returned_on_closing(
    ledger: Ledger, shared_database: Database, settings: ClientSettings
) -> None:
    await set_up(ledger, calls=5)
    async with LedgerClient.open(settings) as client:
        await one(client)
        await leased(ledger, 5)
        assert kept_leases(settings) == 1
    await stands_at(ledger, 1, 0)
    assert kept_leases(settings) == 0
    state = "select state from decisions where is_lease and account_id = $1"
    assert await shared_database.fetchval(state, usual.account_id) == "released"


async def test_what_is_over_is_returned_though_nobody_calls(ledger: Ledger, settings: ClientSettings) -> None:
    await set_up(ledger, calls=5, ttl_seconds=1)
    async with LedgerClient.open(settings) as client:
        await one(client)
        await leased(ledger, 5)
        await stands_at(ledger, 1, 0)
        assert client is not None


async def test_calls_bound_it_whatever_else_is_left(ledger: Ledger, gate: Gate, settings: ClientSettings) -> None:
    await set_up(ledger, calls=4)
    async with LedgerClient.open(settings) as client:
        await one(client, quantity=9, estimated_cost="0.2")
        await leased(ledger, 4)
        await gate.shut()
        ran, _ = await many(client, 9, estimated_cost="0.04")
        assert len(ran) == 4


async def test_units_and_cost_bound_it_as_well(ledger: Ledger, gate: Gate, settings: ClientSettings) -> None:
    await set_up(ledger, calls=10)
    async with LedgerClient.open(settings) as client:
        await one(client, quantity=2, estimated_cost="0.05")  # leases 20 units and $0.50
        await leased(ledger, 10)
        await gate.shut()
        ran, _ = await many(client, 10, quantity=9, estimated_cost="0.01")
        assert len(ran) == 2
        ran, _ = await many(client, 10, quantity=1, estimated_cost="0.2")
        assert len(ran) == 2
        with pytest.raises(LedgerUnavailable):
            await one(client, quantity=1, estimated_cost="0.1")
        await gate.open_again()
    await stands_at(ledger, 5, 0)


async def test_what_costs_more_than_its_estimate_leaves_less_for_the_others(
    ledger: Ledger, gate: Gate, settings: ClientSettings
) -> None:
    await set_up(ledger, calls=4)
    async with LedgerClient.open(settings) as client:
        await one(client, estimated_cost="0.1")
        await leased(ledger, 4)
        await gate.shut()
        async with client.operation(**an_operation(estimated_cost="0.1")) as operation:
            operation.completed(cost="0.25")
        ran, _ = await many(client, 5, estimated_cost="0.1")
        assert len(ran) == 1


async def test_a_price_of_the_ledgers_is_drawn_where_the_caller_names_no_cost(
    ledger: Ledger, gate: Gate, settings: ClientSettings
) -> None:
    price = {"unit": "image", "variants": [{"price": "0.02"}], "source": "a list", "valid_from": "2026-01-01T00:00:00Z"}
    assert (await ledger.http.put("/v1/prices/local/generate/priced-1", json=price)).status_code == 200
    await set_up(ledger, calls=4)
    async with LedgerClient.open(settings) as client:
        await one(client, model="priced-1", estimated_cost=None, cost="0.02")
        await leased(ledger, 4)
        assert (await ledger.limit("spend"))["held"] == "0.080000000"
        await gate.shut()
        ran, _ = await many(client, 6, model="priced-1", estimated_cost=None, cost="0.02")
        assert [operation.decision.estimated_cost for operation in ran] == [20_000_000] * 4


@pytest.mark.parametrize("other", [{"user_id": "bob"}, {"model": "m"}, {"operation": "edit"}, {"project_id": "p"}])
async def test_a_lease_is_for_nobody_and_nothing_else(
    ledger: Ledger, gate: Gate, settings: ClientSettings, other: Body
) -> None:
    await set_up(ledger)
    async with LedgerClient.open(settings) as client:
        await one(client)
        await leased(ledger, 10)
        await gate.shut()
        with pytest.raises(LedgerUnavailable):
            await one(client, **other)
        assert (await one(client)).lease_id is not None


async def test_a_denial_is_no_outage(ledger: Ledger, settings: ClientSettings) -> None:
    await set_up(ledger, limit("images", maximum=11), calls=10)
    async with LedgerClient.open(settings) as client:
        await one(client)
        await leased(ledger, 10)
        with pytest.raises(OperationDenied):
            await one(client)


async def test_without_the_fail_mode_nothing_is_leased_and_nothing_admitted(
    ledger: Ledger, gate: Gate, settings: ClientSettings
) -> None:
    await ledger.set_up(IMAGES)
    async with LedgerClient.open(settings) as client:
        await one(client)
        await stands_at(ledger, 1, 0)
        await gate.shut()
        with pytest.raises(LedgerUnavailable):
            await one(client)


async def test_where_there_is_room_for_fewer_fewer_are_leased(ledger: Ledger, settings: ClientSettings) -> None:
    await set_up(ledger, limit("images", maximum=8), calls=10)
    async with LedgerClient.open(settings) as client:
        await one(client)
        await leased(ledger, 5)
        assert client is not None


async def test_an_answer_that_was_lost_leaves_nothing_held(
    ledger: Ledger, gate: Gate, settings: ClientSettings
) -> None:
    """The check was held as well: settled once, and its own hold given back."""
    await set_up(ledger, calls=5)
    async with LedgerClient.open(settings) as client:
        await one(client)
        await leased(ledger, 5)
        gate.lose_answers = True
        operation = await one(client)
        assert operation.lease_id is not None
        gate.lose_answers = False
        await gate.shut()
        await gate.open_again()
    await stands_at(ledger, 2, 0)


async def test_a_lease_whose_answer_was_lost_is_returned(
    ledger: Ledger, gate: Gate, settings: ClientSettings, shared_database: Database
) -> None:
    await set_up(ledger, calls=5)
    async with LedgerClient.open(settings) as client:
        check = LimitCheck.model_validate(an_operation(operation_id=uuid7()))
        decision = await client.check(check)
        gate.lose_answers = True
        client._leases.offered(check, decision)
        await leased(ledger, 6)
        await asyncio.sleep(1.2)  # until the client has given it up
        gate.lose_answers = False
        await gate.shut()
        await gate.open_again()
        await client.release(decision.operation_id)
        await stands_at(ledger, 0, 0)
    leases = "select count(*) from decisions where is_lease and account_id = $1"
    assert await shared_database.fetchval(leases, usual.account_id) == 1


async def test_a_crash_uses_no_lease_again_and_the_next_life_returns_it(
    ledger: Ledger, gate: Gate, settings: ClientSettings
) -> None:
    await set_up(ledger, calls=5)
    client = LedgerClient(settings)
    await client.start()
    await one(client)
    await leased(ledger, 5)
    await gate.shut()
    await one(client)
    crashed = client.operation(**an_operation())
    assert (await crashed.__aenter__()).lease_id is not None
    await crash(client)
    async with LedgerClient.open(settings) as again:
        await asyncio.sleep(0.3)
        with pytest.raises(LedgerUnavailable):
            await one(again)
        assert kept_leases(settings) == 1
        assert await amounts(ledger) == (1, 5)
        await gate.open_again()
        # One completed, one in doubt: costed at its estimate, and no call.
        await stands_at(ledger, 2, 0)
        assert (await ledger.limit("spend"))["settled"] == "0.100000000"
        await eventually(lambda: kept_leases(settings) == 0, "the lease is out of the journal")


async def test_a_lease_is_not_returned_while_one_of_its_operations_is_being_recovered(
    ledger: Ledger, gate: Gate, settings: ClientSettings
) -> None:
    await set_up(ledger, calls=5)
    client = LedgerClient(settings)
    await client.start()
    await one(client)
    await leased(ledger, 5)
    await gate.shut()
    context = client.operation(**an_operation())  # referenced: its task must not end it
    await context.__aenter__()
    await crash(client)
    await gate.open_again()
    found = asyncio.Event()

    async def recover(requested: OperationRequested, job_id: str | None) -> Recovery:
        assert requested.leaseid is not None
        assert job_id is None
        await found.wait()
        return RecoveredFailure("found", "it was billed", 30_000_000)

    async with LedgerClient.open(settings, recover) as again:
        await asyncio.sleep(1.5)
        assert await amounts(ledger) == (1, 5)
        found.set()
        await stands_at(ledger, 1, 0)
        assert (await ledger.limit("spend"))["settled"] == "0.060000000"
        assert again is not None


async def crash(client: LedgerClient) -> None:
    """Ends everything as kill -9 would: nothing is flushed, nothing returned."""
    tasks = [*client._running, *client._background._tasks]
    tasks += [] if client._returning is None else [client._returning]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert client.journal is not None
    await asyncio.to_thread(client.journal.close)


async def test_it_is_not_returned_before_all_its_outcomes_are_confirmed(
    ledger: Ledger, gate: Gate, settings: ClientSettings
) -> None:
    """Its ledger answers calls again and takes no events: what is finished and unconfirmed stays held."""
    await set_up(ledger, calls=5)
    async with LedgerClient.open(settings) as client:
        await one(client)
        await leased(ledger, 5)
        await gate.shut()
        assert len((await many(client, 3))[0]) == 3
        running = client.operation(**an_operation())
        operation = await running.__aenter__()
        client._leases._retire(next(iter(client._leases._live)))
        for task in client._running:  # no event goes out from now on
            task.cancel()
        await gate.open_again()
        await asyncio.sleep(1.5)
        assert await amounts(ledger) == (1, 5)
        operation.completed(cost="0.01")
        await running.__aexit__(None, None, None)
        await asyncio.sleep(1.5)
        assert await amounts(ledger) == (1, 5)
        await client.close()
    async with LedgerClient.open(settings):
        await stands_at(ledger, 5, 0)


async def test_without_a_journal_as_well_over_http(ledger: Ledger, gate: Gate) -> None:
    settings = settings_of(gate.url, None, **AWAY, delivery_timeout_seconds=1.0)
    await set_up(ledger, calls=5)
    async with LedgerClient.open(settings) as client:
        await one(client)
        await leased(ledger, 5)
    await stands_at(ledger, 1, 0)


async def test_over_nats(ledger: Ledger, nats_server_url: str, tmp_path: Path) -> None:
    settings = settings_of(None, nats_server_url, check_transport="nats", journal_path=journal_in(tmp_path), **AWAY)
    await set_up(ledger, calls=5)
    async with Gate(nats_server_url) as gate:
        away = settings.model_copy(update={"nats_url": gate.url})
        async with LedgerClient.open(away) as client:
            await one(client)
            await leased(ledger, 5)
            await gate.shut()
            ran, refused = await many(client, 8)
            assert (len(ran), len(refused)) == (5, 3)
            await gate.open_again()
            await stands_at(ledger, 6, 0)


async def test_an_operation_under_a_lease_is_not_moved(ledger: Ledger, gate: Gate, settings: ClientSettings) -> None:
    """What is held for it is the lease's share, of one provider and model; and no other hold may be placed by its id:
    that may still be given back for the check that nobody answered."""
    await set_up(ledger, calls=5)
    async with LedgerClient.open(settings) as client:
        await one(client)
        await leased(ledger, 5)
        await gate.shut()
        async with client.operation(**an_operation()) as operation:
            await gate.open_again()
            assert operation.lease_id is not None
            with pytest.raises(LedgerRefused) as refused:
                await operation.move(provider="other", model="render-2")
            assert refused.value.problem.code == "reservation_closed"
            assert (await amounts(ledger))[1] == 5
            operation.failed("unavailable", "down")
    await stands_at(ledger, 1, 0)
