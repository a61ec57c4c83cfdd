"""The client while answers are lost, the ledger is away, callers vanish and processes die."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from contracts.client import (
    LedgerClient,
    LedgerUnavailable,
    OperationDenied,
    OutcomeNotRecorded,
    RecordingUnavailable,
)
from contracts.client.journal import Journal, JournalUnavailableError, Unfinished
from contracts.http_problems import problem_response
from contracts.identifiers import uuid7
from contracts.problems import STORE_UNAVAILABLE, ProblemError, problem
from deploy.local.ports import free_port
from deploy.local.servers import NatsServer
from tests.builders import limit
from tests.integration.client_harness import OPERATION, Proxy, journal_in, settings_of
from tests.integration.image_harness import ScriptedLedger, allowed
from tests.integration.image_harness import serving as serving_app
from tests.servers import Ledger, LedgerProcess, eventually, remove_stream, renew_stream, serving
from tests.tokens import TOKEN
from tests.unit.test_journal import requested_by

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

ROOT = Path(__file__).parents[2]
#: What client_harness gives a client to ask; less than as long again, so that a busy machine may take its time.
ONCE_SECONDS, TWICE_SECONDS = 2.0, 4.0
TRANSPORTS = pytest.mark.parametrize("transport", ["http", "nats"])


async def held(ledger: Ledger) -> int:
    return int((await ledger.limit())["held"])


async def settled(ledger: Ledger) -> int:
    return int((await ledger.limit())["settled"])


def through(proxy: Proxy, transport: str, **changes: Any) -> LedgerClient:
    """A client whose only way to the ledger goes through the proxy."""
    urls = (proxy.url, None) if transport == "http" else (None, proxy.url)
    return LedgerClient(settings_of(*urls, check_transport=transport, **changes))


def upstream(ledger: Ledger, nats_url: str, transport: str) -> str:
    return ledger.url if transport == "http" else nats_url


@TRANSPORTS
class TestLostAnswers:
    async def test_the_first_answer_lost_is_asked_for_again_and_held_once(
        self, ledger: Ledger, nats_url: str, transport: str
    ) -> None:
        await ledger.set_up(limit("images", maximum=1))
        async with Proxy(upstream(ledger, nats_url, transport)) as proxy:
            client = through(proxy, transport)
            assert await client.is_ready()
            proxy.lose_answers = True
            asking = asyncio.create_task(use(client))
            await eventually(lambda: proxy.lost_bytes, "the ledger has answered to nobody")
            proxy.lose_answers = False
            await asyncio.wait_for(asking, 10)
            await eventually(lambda: is_settled(ledger, 1), "the one hold is settled")
            await client.close()

    async def test_a_half_open_connection_is_left_within_one_question(
        self, ledger: Ledger, nats_url: str, transport: str
    ) -> None:
        await ledger.set_up(limit("images", maximum=1))
        async with Proxy(upstream(ledger, nats_url, transport)) as proxy:
            client = through(proxy, transport)
            assert await client.is_ready()
            proxy.deaf_connections = proxy.connections
            await use(client)
            assert proxy.connections > proxy.deaf_connections
            await eventually(lambda: is_settled(ledger, 1), "the one hold is settled")
            await client.close()

    async def test_no_answer_at_all_is_unavailable_in_time_and_the_hold_given_back(
        self, ledger: Ledger, database: Connection, nats_url: str, transport: str
    ) -> None:
        await ledger.set_up(limit("images", maximum=1))
        async with Proxy(upstream(ledger, nats_url, transport)) as proxy:
            client = through(proxy, transport)
            assert await client.is_ready()
            proxy.lose_answers = True
            begun = time.monotonic()
            with pytest.raises(LedgerUnavailable) as lost:
                await use(client)
            assert time.monotonic() - begun < TWICE_SECONDS
            assert lost.value.outcome_unknown
            assert lost.value.problem.code == "ledger_unavailable"
            proxy.lose_answers = False
            await eventually(lambda: released(database), "the hold is given back")
            await use(client)
            await client.close()

    async def test_with_an_id_of_its_own_the_caller_asks_again_and_finds_its_hold(
        self, ledger: Ledger, nats_url: str, transport: str
    ) -> None:
        await ledger.set_up(limit("images", maximum=1))
        async with Proxy(upstream(ledger, nats_url, transport)) as proxy:
            client, own = through(proxy, transport), uuid7()
            assert await client.is_ready()
            proxy.lose_answers = True
            with pytest.raises(LedgerUnavailable):
                await use(client, operation_id=own)
            proxy.lose_answers = False
            await asyncio.sleep(1.2)  # a release would have come by now
            assert await held(ledger) == 1
            await use(client, operation_id=own)
            await eventually(lambda: is_settled(ledger, 1), "the one hold is settled")
            await client.close()

    async def test_a_caller_that_is_cancelled_while_it_waits_leaves_no_hold(
        self, ledger: Ledger, nats_url: str, transport: str
    ) -> None:
        await ledger.set_up(limit("images", maximum=1))
        async with Proxy(upstream(ledger, nats_url, transport)) as proxy:
            client = through(proxy, transport)
            assert await client.is_ready()
            proxy.lose_answers = True
            asking = asyncio.create_task(use(client))
            await eventually(lambda: something_held(ledger), "the ledger has decided")
            asking.cancel()
            await asyncio.wait({asking})
            assert asking.cancelled()
            proxy.lose_answers = False
            await eventually(lambda: nothing_held(ledger), "the hold is given back")
            await client.close()

    async def test_an_outcome_whose_answer_was_lost_is_recorded_once(
        self, ledger: Ledger, nats_url: str, transport: str
    ) -> None:
        await ledger.set_up(limit("images", maximum=5))
        async with Proxy(upstream(ledger, nats_url, transport)) as proxy:
            client = through(proxy, transport)
            async with client.operation(**OPERATION) as operation:
                proxy.lose_answers = True
                proxy.lost_bytes = 0
                asyncio.get_running_loop().call_later(1.0, setattr, proxy, "lose_answers", False)
                operation.completed(cost="0.01")
            assert proxy.lost_bytes > 0
            await eventually(lambda: is_settled(ledger, 1), "the outcome is in the ledger")
            assert (await ledger.usage())["totals"]["calls"] == 1
            await client.close()


def client_of(ledger: Ledger, **changes: Any) -> LedgerClient:
    """Over HTTP, without a journal."""
    return LedgerClient(settings_of(ledger.url, None, **changes))


async def use(client: LedgerClient, **more: Any) -> None:
    async with client.operation(**OPERATION, **more) as operation:
        operation.completed(cost="0.01")


async def released(database: Connection) -> bool:
    return [row["state"] for row in await database.fetch("select state from decisions")] == ["released"]


async def nothing_held(ledger: Ledger) -> bool:
    return await held(ledger) == 0


async def something_held(ledger: Ledger) -> bool:
    return await held(ledger) > 0


async def is_settled(ledger: Ledger, amount: int) -> bool:
    return await settled(ledger) == amount and await held(ledger) == 0


class TestNobodyThere:
    async def test_http_says_so_at_once_and_nothing_may_have_happened(self) -> None:
        client = LedgerClient(settings_of(f"http://127.0.0.1:{free_port()}", None))
        begun = time.monotonic()
        with pytest.raises(LedgerUnavailable) as away:
            await use(client)
        assert time.monotonic() - begun < ONCE_SECONDS
        assert not away.value.outcome_unknown
        assert away.value.problem.status == 503
        assert not await client.is_ready()
        await client.close()

    async def test_the_reason_names_the_address_once_and_no_password(self) -> None:
        place = f"127.0.0.1:{free_port()}"
        client = LedgerClient(settings_of(f"http://ada:secret@{place}", None))
        with pytest.raises(LedgerUnavailable) as away:
            await use(client)
        assert away.value.reason == f"http://{place}: All connection attempts failed (3 times)"
        await client.close()

    async def test_the_reason_names_what_the_ledger_itself_misses(self, scripted_ledger: ScriptedLedger) -> None:
        scripted_ledger.otherwise = lambda check: problem_response(problem(STORE_UNAVAILABLE, "try again"))
        client = LedgerClient(settings_of(scripted_ledger.url, None))
        with pytest.raises(LedgerUnavailable) as away:
            await use(client)
        assert away.value.reason == "the ledger answered 503 store_unavailable (3 times)"
        await client.close()

    async def test_who_is_cancelled_while_it_closes_leaves_the_journal_to_others(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.db"
        settings = settings_of(f"http://127.0.0.1:{free_port()}", None, journal_path=path, flush_seconds=60)
        client = LedgerClient(settings)
        await client.start()
        assert client.journal is not None
        await client.journal.begin(requested_by(client.journal))
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0.2)
        assert not closing.done()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        other = Journal(path, 1_000_000)
        assert await other.outbox_ends() == (1, 1)
        other.close()

    async def test_nats_says_so_in_time(self) -> None:
        client = LedgerClient(settings_of(None, f"nats://127.0.0.1:{free_port()}", check_transport="nats"))
        begun = time.monotonic()
        with pytest.raises(LedgerUnavailable, match="no connection to NATS") as away:
            await use(client)
        assert time.monotonic() - begun < TWICE_SECONDS
        assert not await client.is_ready()
        assert "NATS" not in away.value.problem.detail
        await client.close()

    async def test_nats_without_a_ledger_says_so_at_once(self, nats_url: str) -> None:
        client = LedgerClient(settings_of(None, nats_url, check_transport="nats"))
        begun = time.monotonic()
        with pytest.raises(LedgerUnavailable, match="no ledger answers") as away:
            await use(client)
        assert time.monotonic() - begun < ONCE_SECONDS
        assert not away.value.outcome_unknown
        await client.close()


async def test_nats_that_comes_back_is_used_again(own_nats: NatsServer, database_url: str) -> None:
    await renew_stream(own_nats.url)
    async with serving(database_url=database_url, nats_url=own_nats.url) as ledger:
        await ledger.set_up(limit("images", maximum=5))
        client = LedgerClient(settings_of(None, own_nats.url, check_transport="nats"))
        await use(client)
        own_nats.stop()
        with pytest.raises(LedgerUnavailable):
            await use(client)
        own_nats.start()

        async def works() -> bool:
            try:
                await use(client)
            except (LedgerUnavailable, RecordingUnavailable):
                return False
            return True

        await eventually(works, "the client is connected again")
        await client.close()


async def set_up(process: LedgerProcess, maximum: int) -> None:
    async with process.client() as client:
        await client.set_up(limit("images", maximum=maximum))


@pytest.mark.parametrize("ways", ["http", "nats", "both"])
async def test_outcomes_wait_in_the_journal_for_a_ledger_that_is_away(
    ledger_process: Callable[..., LedgerProcess], nats_url: str, tmp_path: Path, ways: str
) -> None:
    process = ledger_process()
    await set_up(process, 5)
    settings = settings_of(
        None if ways == "nats" else process.url,
        None if ways == "http" else nats_url,
        check_transport="nats" if ways == "nats" else "http",
        journal_path=journal_in(tmp_path),
        confirm_after_seconds=1,
        flush_seconds=15,
    )
    async with LedgerClient.open(settings) as client:
        async with client.operation(**OPERATION) as operation:
            process.end(signal.SIGKILL)
            operation.completed(cost="0.02")
        with pytest.raises(LedgerUnavailable):
            await use(client)
        assert client.journal is not None
        assert await client.journal.outbox_ends() != (0, 0)
        process.start()
        async with process.client() as http:

            async def recorded() -> bool:
                return bool((await http.limit())["settled"] == 1)

            await eventually(recorded, "the outcome has arrived")
        await use(client)
    async with process.client() as http:
        assert (await http.limit())["settled"] == 2  # closing has waited for the second


async def test_without_a_journal_an_outcome_that_cannot_be_delivered_is_the_callers_to_keep(
    ledger_process: Callable[..., LedgerProcess],
) -> None:
    process = ledger_process()
    await set_up(process, 5)
    client = LedgerClient(settings_of(process.url, None, delivery_timeout_seconds=1.0))
    begun = 0.0
    with pytest.raises(OutcomeNotRecorded) as lost:  # noqa: PT012  the ledger has to go away inside
        async with client.operation(**OPERATION) as operation:
            process.end(signal.SIGKILL)
            begun = time.monotonic()
            operation.completed(cost="0.02")
    assert time.monotonic() - begun < 10  # where its settings say nothing, it is 15
    with pytest.raises(LedgerUnavailable):
        await client.record_events([lost.value.event])
    process.start()
    await client.record_events([lost.value.event])
    await client.record_events([lost.value.event])
    async with process.client() as http:
        assert (await http.usage())["totals"]["calls"] == 1
        assert (await http.usage_log())["items"][0]["cost"] == "0.020000000"
    await client.close()


#: Answers to events of which nobody can tell whether they were taken.
NONSENSE: dict[str, dict[str, Any]] = {
    "no JSON": {"content": b"<html>"},
    "no list": {"content": b"[]"},
    "nothing of it": {"content": b"{}"},
    "a place that there is not": {
        "content": b'{"rejected": [{"index": 7, "problem": {"type": "a", "title": "b", "status": 422, "code": "c",'
        b' "detail": "d"}}]}'
    },
    "a problem that is none": {"content": b'{"rejected": [{"index": 0, "problem": "no"}]}'},
    "damaged on the way": {"content": b"{}", "headers": {"Content-Encoding": "gzip"}},
}


@pytest.mark.parametrize("name", NONSENSE)
async def test_without_a_journal_an_outcome_that_is_answered_with_nonsense_is_the_callers_to_keep(name: str) -> None:
    async def events(request: Request) -> Response:
        if b"requested.v1" in await request.body():
            return Response(b'{"accepted": 1, "duplicates": 0, "rejected": [], "later": 1}')
        return Response(**NONSENSE[name])

    async def check(request: Request) -> Response:
        return allowed(json.loads(await request.body()))

    app = Starlette(routes=[Route(path, call, methods=["POST"]) for path, call in {
        "/v1/events": events, "/v1/limit-checks": check}.items()])  # fmt: skip
    async with serving_app(app) as url:
        client = LedgerClient(settings_of(url, None, delivery_timeout_seconds=0.5))
        with pytest.raises(OutcomeNotRecorded) as lost:
            await use(client)
        assert lost.value.event.data.cost
        await client.close()


async def test_a_decision_that_was_damaged_on_the_way_is_no_answer() -> None:
    async def damaged(request: Request) -> Response:
        return Response(b"{}", headers={"Content-Encoding": "gzip"})

    app = Starlette(routes=[Route(path, damaged, methods=["POST"]) for path in ("/v1/limit-checks", "/v1/prices:rate")])
    async with serving_app(app) as url:
        client = LedgerClient(settings_of(url, None))
        with pytest.raises(LedgerUnavailable) as unavailable:
            await use(client)
        assert unavailable.value.outcome_unknown
        with pytest.raises(LedgerUnavailable):
            await client.introspect("token")
        assert not await client.is_ready()
        await client.close()


async def test_without_a_journal_a_cancelled_call_stays_cancelled_though_its_outcome_is_lost(
    ledger_process: Callable[..., LedgerProcess],
) -> None:
    process = ledger_process()
    await set_up(process, 5)
    client, inside = LedgerClient(settings_of(process.url, None, delivery_timeout_seconds=0.5)), asyncio.Event()

    async def call() -> None:
        async with client.operation(**OPERATION):
            inside.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(call())
    await inside.wait()
    process.end(signal.SIGKILL)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    await client.close()


class TestNothingStartsThatCannotBeRecorded:
    async def refused(self, client: LedgerClient, ledger: Ledger) -> None:
        with pytest.raises(RecordingUnavailable) as refused:
            async with client.operation(**OPERATION):
                raise AssertionError("the body must not run")
        assert (refused.value.problem.status, refused.value.problem.code) == (503, "recording_unavailable")
        await eventually(lambda: nothing_held(ledger), "the hold is given back")
        await client.close()

    async def test_with_a_journal_that_is_full(self, ledger: Ledger, tmp_path: Path) -> None:
        await ledger.set_up(limit("images", maximum=5))
        full = settings_of(ledger.url, None, journal_path=journal_in(tmp_path), journal_bytes_max=1, flush_seconds=0)
        await self.refused(LedgerClient(full), ledger)

    async def test_without_a_journal_where_there_is_no_stream(self, ledger: Ledger, nats_url: str) -> None:
        await ledger.set_up(limit("images", maximum=5))
        await remove_stream(nats_url)
        client = LedgerClient(settings_of(None, nats_url, check_transport="nats", delivery_timeout_seconds=0.5))
        await self.refused(client, ledger)


class TestBothWays:
    async def test_events_go_over_http_where_nats_takes_none(self, ledger: Ledger) -> None:
        await ledger.set_up(limit("images", maximum=5))
        nobody = f"nats://127.0.0.1:{free_port()}"
        client = LedgerClient(settings_of(ledger.url, nobody))
        await use(client)
        assert await settled(ledger) == 1
        await client.close()

    async def test_journalled_events_go_over_http_while_nats_is_away(self, ledger: Ledger, tmp_path: Path) -> None:
        await ledger.set_up(limit("images", maximum=5))
        nobody = f"nats://127.0.0.1:{free_port()}"
        settings = settings_of(
            ledger.url, nobody, journal_path=journal_in(tmp_path), http_delivery_after_seconds=0.2, flush_seconds=10
        )
        async with LedgerClient.open(settings) as client:
            await use(client)
            assert not client.nats_connected
        assert await settled(ledger) == 1


# A service of its own: says when it is inside its call, and stays there until it is killed.
SERVICE = """
import asyncio, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from contracts.client import ClientSettings, LedgerClient

async def main():
    settings = ClientSettings(source="tests", ledger_url=sys.argv[2], journal_path=Path(sys.argv[3]), token=sys.argv[5])
    async with LedgerClient.open(settings) as client:
        async with client.operation(**json.loads(sys.argv[4])) as operation:
            print(operation.operation_id, flush=True)
            await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_call_that_died_with_its_process_is_recorded_at_its_estimate(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.set_up(limit("images", maximum=5), limit("spend", meter="cost", maximum="1"))
    journal = journal_in(tmp_path)
    command = [sys.executable, "-c", SERVICE, str(ROOT), ledger.url, str(journal), json.dumps(OPERATION), TOKEN]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    operation_id = (await asyncio.to_thread(process.stdout.readline)).strip()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert await held(ledger) == 1
    async with LedgerClient.open(settings_of(ledger.url, None, journal_path=journal)):
        await eventually(lambda: nothing_held(ledger), "recovery has recorded an outcome")
    [row] = (await ledger.usage_log())["items"]
    assert (row["operation_id"], row["outcome"], row["cost"]) == (operation_id, "failed", "0.040000000")


async def test_a_caller_cancelled_between_hold_and_call_is_recorded_as_such(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.set_up(limit("images", maximum=1))
    path = journal_in(tmp_path)
    assert path is not None
    async with LedgerClient.open(settings_of(ledger.url, None, journal_path=path)) as client:
        # Whoever else writes to the file: the intent has to wait.
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("begin immediate")
            asking = asyncio.create_task(use(client))
            await eventually(lambda: something_held(ledger), "the check is decided")
            await asyncio.sleep(0.2)
            asking.cancel()
            await asyncio.wait({asking})
            assert asking.cancelled()
            other.execute("rollback")
        await eventually(lambda: nothing_held(ledger), "the hold is given back by its outcome")
    [row] = (await ledger.usage_log())["items"]
    assert (row["outcome"], row["cost"], row["error"]["code"]) == ("failed", "0.000000000", "cancelled")


async def test_an_id_whose_caller_was_cancelled_between_hold_and_call_has_its_outcome(
    ledger: Ledger, tmp_path: Path
) -> None:
    """Its hold is over: whoever asks again with it must not call the provider on the strength of the first answer."""
    await ledger.set_up(limit("images", maximum=1))
    path, own = journal_in(tmp_path), uuid7()
    assert path is not None
    async with LedgerClient.open(settings_of(ledger.url, None, journal_path=path)) as client:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("begin immediate")
            asking = asyncio.create_task(use(client, operation_id=own))
            await eventually(lambda: something_held(ledger), "the check is decided")
            await asyncio.sleep(0.2)
            asking.cancel()
            await asyncio.wait({asking})
            with pytest.raises(ProblemError, match="operation_in_progress"):
                await use(client, operation_id=own)
            other.execute("rollback")
        await eventually(lambda: nothing_held(ledger), "the hold is given back by its outcome")
        with pytest.raises(ProblemError, match="operation_finished"):
            await use(client, operation_id=own)


async def test_a_client_that_cannot_start_lets_go_of_its_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Journal) -> list[Unfinished]:
        raise JournalUnavailableError("database disk image is malformed")

    settings = settings_of("http://127.0.0.1:1", None, journal_path=journal_in(tmp_path), flush_seconds=0.0)
    with monkeypatch.context() as damaged:
        damaged.setattr(Journal, "unfinished", broken)
        with pytest.raises(JournalUnavailableError, match="malformed"):
            async with LedgerClient.open(settings):
                pass
    async with LedgerClient.open(settings):
        pass


class TestTwiceAtOnce:
    async def test_one_operation_runs_once_in_a_process(self, ledger: Ledger) -> None:
        await ledger.set_up(limit("images", maximum=5))
        client, own = client_of(ledger), uuid7()
        async with client.operation(**OPERATION, operation_id=own) as operation:
            with pytest.raises(ProblemError, match="operation_in_progress"):
                await use(client, operation_id=own)
            operation.completed(cost="0.01")
        with pytest.raises(ProblemError, match="operation_finished"):
            await use(client, operation_id=own)
        assert await settled(ledger) == 1
        await client.close()

    async def test_a_denied_operation_may_be_tried_again_and_is_answered_the_same(self, ledger: Ledger) -> None:
        await ledger.set_up(limit("images", maximum=0))
        client, own = client_of(ledger), uuid7()
        for _ in range(2):
            with pytest.raises(OperationDenied):
                await use(client, operation_id=own)
        await client.close()
