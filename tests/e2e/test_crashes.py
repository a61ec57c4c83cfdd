"""kill -9 of any part at any moment: nothing is lost, nothing is counted twice, no limit is passed.

At moments chosen by hand; those that chance chooses are in tests/faults.
"""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from tests.builders import limit
from tests.e2e.books import Books
from tests.e2e.driver import (
    StackProcess,
    Workload,
    customer,
    eventually,
    stack_in,
)

LIFETIME = limit(window="lifetime", maximum=25)
#: The intent is there long before the provider has an image.
INTENT_SECONDS = 6.0
#: Takes the better part of a minute, unless something ends it.
SLOW: dict[str, Any] = {"width": 3000, "height": 3000, "variations": 10}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackProcess]:
    yield from stack_in(tmp_path_factory.mktemp("stack"))


async def test_an_operation_cut_off_by_a_kill_is_recorded_as_interrupted_and_its_hold_released(
    stack: StackProcess,
) -> None:
    async with customer(stack, LIFETIME) as client:
        asking = asyncio.create_task(client.generate(**SLOW))
        await eventually(stack.running, lambda count: count == 1, INTENT_SECONDS)
        await stack.kill_and_wait("image")
        with pytest.raises(Exception, match=r"(?i)disconnect|reset|read|clos"):
            await asking

        (row,) = await client.recorded(1)
        assert (row["outcome"], row["error"]["code"], row["cost"]) == ("failed", "interrupted", "0.000000000")
        assert (await client.decision(row["operation_id"]))["state"] == "released"
        assert await client.used("images") == (0, 0, 25)
        await stack.quiet()


async def test_a_key_whose_operation_was_cut_off_repeats_that_outcome_and_does_not_start_anew(
    stack: StackProcess,
) -> None:
    key = {"Idempotency-Key": "cut-off"}
    async with customer(stack, LIFETIME) as client:
        asking = asyncio.create_task(client.generate(headers=key, **SLOW))
        await eventually(stack.running, lambda count: count == 1, INTENT_SECONDS)
        await stack.kill_and_wait("image")
        await asyncio.gather(asking, return_exceptions=True)

        (row,) = await client.recorded(1)
        again = await client.generate(headers=key, **SLOW)
        assert (again.status_code, again.json()["error"]["code"]) == (502, "interrupted")
        assert again.json()["operation_id"] == row["operation_id"]
        await stack.quiet()
        assert len(await client.usage_log()) == 1


async def test_sigterm_under_load_and_a_new_start_on_the_same_folder_lose_nothing(stack: StackProcess) -> None:
    async with customer(stack, limit("operations", window="lifetime", maximum=100_000)) as client:
        workload, enough = Workload(1, [client]), asyncio.Event()
        work = asyncio.create_task(workload.run(4, enough))
        await eventually(lambda: _answers(workload), lambda count: count >= 30)
        stack.terminate()
        enough.set()
        await work
        assert await asyncio.to_thread(stack.stop) == 0
        assert stack.processes() == []

        stack.start()
        await stack.quiet()
        books = await Books.audit(stack, workload)
        assert sum(told.status == 200 for told in workload.told) >= 10
        assert books.wrong == []


async def test_what_the_broker_acknowledged_and_then_lost_is_published_again(stack: StackProcess) -> None:
    """Its acknowledgement is no confirmation: an event leaves the journal when the ledger has committed it."""
    async with customer(stack, LIFETIME) as client:
        await client.generate()
        await stack.quiet()
        before = await stack.stream_messages()
        async with ingest_held_up(stack):
            answers = [await client.generate() for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 200]
            await eventually(stack.stream_messages, lambda count: count == before + 6)
            assert stack.journal("select count(*) from outbox") >= 3
            stack.kill_all()
        shutil.rmtree(stack.data / "nats")

        stack.start()
        rows = await client.recorded(4)
        assert {answer.json()["operation_id"] for answer in answers} < {row["operation_id"] for row in rows}
        await stack.quiet()
        assert await client.used("images") == (4, 0, 21)


async def test_what_a_killed_ledger_had_taken_and_not_committed_is_delivered_again(stack: StackProcess) -> None:
    async with customer(stack, LIFETIME) as client:
        answers = [await client.generate()]
        await stack.quiet()
        async with ingest_held_up(stack):
            answers += [await client.generate() for _ in range(3)]
            await eventually(stack.consumer, lambda consumer: consumer.num_pending == 0)  # all of it is with the ledger
            await stack.kill("ledger")
        rows = await client.recorded(4)
        assert {answer.json()["operation_id"] for answer in answers} == {row["operation_id"] for row in rows}
        await stack.quiet()
        assert await client.used("images") == (4, 0, 21)


async def test_a_killed_stack_is_started_again_by_the_plain_command_with_all_its_data(stack: StackProcess) -> None:
    async with customer(stack, LIFETIME) as client:
        first = await client.generate(headers={"Idempotency-Key": "before"})
        (row,) = await client.recorded(1)
        stack.kill_all()
        command = "from deploy.local.cli import main; main()"
        arguments = ("up", "--data", str(stack.data), "--ledger-port", "0", "--image-port", "0")
        stack.start((sys.executable, "-c", command, *arguments))

        assert await client.usage_log() == [row]
        again = await client.generate(headers={"Idempotency-Key": "before"})
        assert again.json() == first.json()
        assert (await client.generate()).status_code == 200
        await client.recorded(2)
        await stack.quiet()
        assert await client.used("images") == (2, 0, 23)


@asynccontextmanager
async def ingest_held_up(stack: StackProcess) -> AsyncIterator[None]:
    """Meanwhile the ledger decides, and cannot record an outcome."""
    connection = await asyncpg.connect(stack.state.database_url)
    try:
        await connection.execute("begin; lock table usage_summary in access exclusive mode")
        yield
    finally:
        connection.terminate()


async def _answers(workload: Workload) -> int:
    return len(workload.told)
