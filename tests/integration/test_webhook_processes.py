"""Webhooks with several ledgers, one that is killed, receivers that hang; the same on NATS; the command."""

import asyncio
import json
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import asyncpg
import nats
import pytest
import pytest_asyncio

from contracts.subjects import ACCOUNT_HEADER, MSG_ID_HEADER, NOTIFICATIONS_STREAM
from ledger_service.store.deliveries import purge
from tests.builders import ACCOUNT, Body, check, limit, new_id
from tests.commands import ledger_command
from tests.conftest import StartLedger
from tests.receivers import HANG, QUICK_WEBHOOKS, Receiver, receiving
from tests.servers import (
    WAIT_SECONDS,
    Client,
    Databases,
    Ledger,
    LedgerProcess,
    as_service,
    eventually,
    remove_stream,
    renew_stream,
    serving,
)

#: The first test has its own ledgers; those of the others start after it, and stop at the end.
pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS: dict[str, Any] = {
    **QUICK_WEBHOOKS,
    "webhook_timeout_seconds": 1.0,
    "webhook_retry_seconds": [0.05] * 4,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair_database_url(databases: Databases) -> AsyncIterator[str]:
    with databases.cloned() as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair_nats_url(nats_server_url: str) -> AsyncIterator[str]:
    await renew_stream(nats_server_url)
    yield nats_server_url
    await remove_stream(nats_server_url)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(pair_database_url: str, pair_nats_url: str) -> AsyncIterator[list[Ledger]]:
    """Two ledgers side by side, for all tests but the first."""
    async with AsyncExitStack() as stack:
        wanted = {"database_url": as_service(pair_database_url), "nats_url": pair_nats_url, **SETTINGS}
        running = [await stack.enter_async_context(serving(**wanted)) for _ in range(2)]
        await running[0].put_plan(limit(maximum=0))
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def ledgers(pair: list[Ledger]) -> AsyncIterator[list[Ledger]]:
    yield pair
    for one in (await pair[0].http.get("/v1/webhooks")).json()["items"]:
        await pair[0].http.delete(f"/v1/webhooks/{one['webhook_id']}")


@pytest_asyncio.fixture(loop_scope="module")
async def account(pair: list[Ledger]) -> str:
    """One of the test's own."""
    name = f"a-{new_id()}"
    await pair[0].put_account(name)
    return name


@pytest_asyncio.fixture(loop_scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def pair_database(pair_database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(pair_database_url)
    yield connection
    await connection.close()


async def put(ledger: Client, receiver: Receiver, name: str = "main", **fields: Any) -> Body:
    body = {"url": receiver.url(), "types": ["limit_check.denied"], **fields}
    answer = await ledger.http.put(f"/v1/webhooks/{name}", json=body)
    assert answer.status_code == 200, answer.text
    found: Body = answer.json()
    return found


async def deny(ledger: Client, account_id: str) -> str:
    asked = check(account_id=account_id)
    assert not (await ledger.check(asked))["allowed"]
    return str(asked["operation_id"])


@pytest.mark.asyncio(loop_scope="function")
async def test_a_ledger_killed_in_the_middle_of_a_delivery_loses_none(
    ledger_process: Callable[..., LedgerProcess], start_ledger: StartLedger
) -> None:
    settings = {name: json.dumps(value) for name, value in SETTINGS.items()}
    process = ledger_process(**settings)
    async with receiving(otherwise=HANG) as receiver:
        async with process.client() as ledger:
            await ledger.set_up(limit(maximum=0))
            await put(ledger, receiver)
            denied = [await deny(ledger, ACCOUNT) for _ in range(3)]
            await eventually(lambda: receiver.requests, "the first is on its way")
            process.end(signal.SIGKILL)
        receiver.otherwise = 200
        receiver.requests.clear()
        await start_ledger(**SETTINGS)
        await eventually(lambda: len(receiver.taken) == 3, "all of them arrive")
        assert [one.data["operation_id"] for one in receiver.taken] == denied


async def test_two_ledgers_send_each_delivery_once_and_each_account_in_order(
    ledgers: list[Ledger], account: str, receiver: Receiver, pair_nats_url: str
) -> None:
    first = ledgers[0]
    accounts = [account, f"{account}-2", f"{account}-3"]
    for account in accounts[1:]:
        await first.put_account(account)
    await put(first, receiver)
    denied: dict[str, list[str]] = defaultdict(list)
    for number in range(8):
        for account in accounts:
            denied[account].append(await deny(ledgers[number % 2], account))
    await eventually(lambda: len(receiver.taken) >= 24, "all of them arrive")
    await asyncio.sleep(0.2)
    arrived: dict[str, list[str]] = defaultdict(list)
    for one in receiver.requests:
        arrived[one.data["account_id"]].append(one.data["operation_id"])
    assert arrived == denied
    assert receiver.open_max <= len(accounts)

    # The same, byte for byte, in the stream: each once, however many ledgers there are.
    nats_client = await nats.connect(pair_nats_url)
    jetstream = nats_client.jetstream()
    await eventually(lambda: _messages(jetstream, 24), "they are published")
    subscription = await jetstream.subscribe("ledger.v1.notifications.limit_check.denied", ordered_consumer=True)
    told = [await subscription.next_msg(timeout=WAIT_SECONDS) for _ in range(24)]
    assert {one.data for one in told} == {one.body for one in receiver.taken}
    assert {one.headers[MSG_ID_HEADER] for one in told if one.headers} == set(receiver.ids())
    for account in accounts:
        own = [one for one in told if one.headers and one.headers[ACCOUNT_HEADER] == account]
        assert [json.loads(one.data)["data"]["operation_id"] for one in own] == denied[account]
    await asyncio.sleep(0.2)
    assert await _messages(jetstream, 24)
    await nats_client.close()


async def _messages(jetstream: Any, count: int) -> bool:  # Any: nats-py has the type behind a private module
    return bool((await jetstream.stream_info(NOTIFICATIONS_STREAM)).state.messages == count)


async def test_what_commits_late_is_told_and_in_its_place(
    ledgers: list[Ledger], account: str, receiver: Receiver, pair_database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """A row that is written first and committed last: whoever has read past it by then never sees it."""
    ledger = ledgers[0]
    await put(ledger, receiver)
    early = await deny(ledger, account)
    await eventually(lambda: len(receiver.taken) == 1, "the first one arrives")
    slow = new_id()
    async with pair_database.transaction():
        await pair_database.execute(
            """
            insert into event_log (account_id, event_id, type, operation_id, terminal, source, occurred_at, body)
            select account_id, $2::uuid, type, $2::uuid, false, source, clock_timestamp(),
                   replace(body::text, operation_id::text, $2::uuid::text)::json
            from event_log where operation_id = $1 and type = 'ledger.check.denied.v1'
            """,
            UUID(early),
            UUID(slow),
        )
        late = await deny(ledger, account)
        await asyncio.sleep(0.5)
        assert len(receiver.taken) == 1, "nothing is told that something may come before"
    await eventually(lambda: len(receiver.taken) == 3, "all of them arrive")
    assert [one.data["operation_id"] for one in receiver.taken] == [early, slow, late]
    # No check decided it: what the log says is compared by a later test.
    await pair_database.execute("delete from event_log where event_id = $1", UUID(slow))


async def test_an_endpoint_that_hangs_keeps_few_waiting_and_others_go_on(
    ledgers: list[Ledger], account: str, receiver: Receiver, pair_database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    ledger = ledgers[0]
    accounts = [f"{account}-{number}" for number in range(16)]
    for account in accounts:
        await ledger.put_account(account)
    async with receiving(otherwise=HANG) as hanging:
        await put(ledger, hanging, "hangs")
        await put(ledger, receiver, "fine")
        for account in accounts:
            await deny(ledger, account)
        await eventually(lambda: hanging.requests, "it hangs")
        await asyncio.sleep(0.7)
        await eventually(lambda: len(receiver.taken) == 16, "the other endpoint has all of them", within_seconds=10)
        assert 1 <= hanging.open_max <= 8, "four of each ledger"
        # Nothing waits on a receiver with a transaction, or a lock, in its hands.
        idle = await pair_database.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in tr%'"
            " and xact_start < clock_timestamp() - interval '0.6 seconds'"
        )
        assert idle == 0
        assert (await ledger.http.delete("/v1/webhooks/hangs")).status_code == 200


async def test_what_is_over_is_forgotten_in_time(
    ledgers: list[Ledger], account: str, receiver: Receiver, pair_database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    ledger = ledgers[0]
    await eventually(lambda: _is_empty(pair_database), "nothing is left of earlier tests")
    await put(ledger, receiver)
    await deny(ledger, account)
    await eventually(
        lambda: pair_database.fetchval(
            "select count(*) from webhook_deliveries where state = 'delivered' and account_id = $1", account
        ),
        "it arrives",
    )
    assert await purge(pair_database, 60, 100) == 0
    assert await purge(pair_database, 0, 100) == 1
    receiver.otherwise = 500
    await deny(ledger, account)
    await eventually(lambda: pair_database.fetchval("select count(*) from webhook_attempts"), "it is tried")
    await ledger.http.delete("/v1/webhooks/main")
    await eventually(lambda: _is_empty(pair_database), "nothing of it is left")


async def _is_empty(pair_database: "asyncpg.Connection[asyncpg.Record]") -> bool:
    await purge(pair_database, 60, 100)
    tables = ("deliveries", "attempts", "lanes", "secrets", "states")
    return not any([await pair_database.fetchval(f"select count(*) from webhook_{table}") for table in tables])


async def test_the_command_shows_tries_and_sends_again(
    ledgers: list[Ledger], account: str, receiver: Receiver, pair_database_url: str
) -> None:
    async def command(*arguments: str) -> tuple[int, str]:
        ended = await ledger_command(pair_database_url, "webhooks", *arguments)
        return ended.exit_code, ended.stdout

    ledger = ledgers[0]
    assert await command("list", "--json") == (0, "")
    made = await put(ledger, receiver)
    await deny(ledger, account)
    await eventually(lambda: receiver.taken, "it arrives")
    code, printed = await command("list", "--json")
    assert (code, json.loads(printed)["webhook_id"]) == (0, "main")
    assert made["secret"] not in printed
    code, printed = await command("deliveries", "main", "--json", "--type", "limit_check.denied")
    [message] = [json.loads(line)["message_id"] for line in printed.splitlines()]
    assert message == receiver.ids()[0]
    assert "limit_check.denied" in (await command("deliveries", "main"))[1]
    assert "answer 200" in (await command("show", "main", message))[1]

    assert json.loads((await command("show", "main", message, "--json"))[1])["message_id"] == message
    code, printed = await command("test", "main", "--json")
    assert (code, json.loads(printed)["state"]) == (0, "delivered")
    assert await command("redeliver", "main", message, "--json") == (0, '{"queued":1}\n')
    await eventually(lambda: receiver.ids().count(message) == 2, "it is sent again")
    code, printed = await command("redeliver", "main", "--from", made["since"], "--delivered", "--json")
    assert (code, json.loads(printed)["queued"] <= 1) == (0, True)
    assert (await command("redeliver", "main"))[0] == 2
    assert (await command("show", "main", made["endpoint_id"]))[0] == 1
    assert (await command("deliveries", "nobody"))[0] == 1

    code, printed = await command("pause", "main", "--json")
    assert (code, json.loads(printed)["disabled_reason"]) == (0, "paused")
    code, printed = await command("list")
    assert (code, "paused" in printed) == (0, True)
    assert (await command("test", "main", "--wait-seconds", "0"))[0] == 1
    refused = await ledger_command(pair_database_url, "webhooks", "test", "main")
    assert (refused.exit_code, "nothing was sent: main is paused" in refused.stderr) == (1, True), refused.stderr
    waiting = (await command("deliveries", "main", "--state", "pending", "--type", "webhook.test", "--json"))[1]
    tried = {json.loads(line)["message_id"] for line in waiting.splitlines()}
    assert len(tried) == 2
    code, printed = await command("resume", "main", "--json")
    assert (code, json.loads(printed)["disabled_at"]) == (0, None)
    await eventually(lambda: tried <= {one.message_id for one in receiver.taken}, "what waited arrives")
    receiver.otherwise = 410
    refused = await ledger_command(pair_database_url, "webhooks", "test", "main")
    assert (refused.exit_code, "main: answered 410" in refused.stderr) == (1, True), refused.stderr
    refused = await ledger_command(pair_database_url, "webhooks", "test", "main")
    assert (refused.exit_code, "nothing was sent: main is disabled, as gone" in refused.stderr) == (1, True)
    assert (await command("test", "main", "--json"))[0] == 1
    assert (await command("list"))[0] == 1
    verified = await ledger_command(pair_database_url, "verify")
    assert verified.exit_code == 0, verified.output
