"""Parts of the stack that are away for a while, or die together, while customers go on."""

import asyncio
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.builders import limit
from tests.e2e.driver import SERVERS, StackProcess, customer, eventually, stack_in

pytestmark = pytest.mark.faults

IMAGES = limit(window="lifetime", maximum=100)
OUTAGE_SECONDS = 4.0
HOLD_SECONDS = 20


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackProcess]:
    yield from stack_in(tmp_path_factory.mktemp("stack"), {"IMAGE_HOLD_SECONDS": str(HOLD_SECONDS)})


async def test_recording_that_is_held_up_makes_no_finished_operation_fail(stack: StackProcess) -> None:
    """The journal can take no outcome for longer than its writer waits; the customer gets its image all the same."""
    async with customer(stack, IMAGES) as client:
        asking = asyncio.create_task(client.generate(width=2000, height=2000, variations=2))
        await eventually(stack.running, lambda count: count == 1)
        with closing(sqlite3.connect(stack.data / "image" / "journal.db", isolation_level=None, timeout=10)) as journal:
            journal.execute("begin immediate")
            answer = await asking
            refused = await client.generate()
        assert answer.status_code == 200
        assert (refused.status_code, refused.json()["code"]) == (503, "recording_unavailable")
        (row,) = await client.recorded(1)
        assert (row["operation_id"], row["outcome"]) == (answer.json()["operation_id"], "completed")
        await stack.quiet()
        await eventually(lambda: client.used("images"), lambda used: used == (1, 0, 99))


async def test_events_of_an_image_service_that_dies_while_nats_is_away_arrive(stack: StackProcess) -> None:
    async with customer(stack, IMAGES) as client:
        stack.signal("nats", signal.SIGSTOP)
        try:
            before = [await client.generate() for _ in range(3)]
            await stack.kill_and_wait("image")
            after = await client.generate()
        finally:
            stack.signal("nats", signal.SIGCONT)
        rows = await client.recorded(4)
        assert {row["operation_id"] for row in rows} == {answer.json()["operation_id"] for answer in [*before, after]}
        await stack.quiet()
        assert await client.used("images") == (4, 0, 96)


async def test_no_call_passes_a_limit_while_outcomes_wait_for_longer_than_a_hold(stack: StackProcess) -> None:
    async with customer(stack, limit(window="lifetime", maximum=1)) as client:
        stack.signal("nats", signal.SIGSTOP)
        try:
            assert [(await client.generate()).status_code for _ in range(2)] == [200, 429]
            await asyncio.sleep(HOLD_SECONDS + 2)
            statuses = [(await client.generate()).status_code]
        finally:
            stack.signal("nats", signal.SIGCONT)
        await stack.ready()
        await stack.quiet()
        assert statuses == [429]


async def test_a_ledger_that_dies_before_it_acknowledges_counts_nothing_twice(stack: StackProcess) -> None:
    async with customer(stack, IMAGES) as client:
        done = 0
        for _ in range(6):
            answers = await asyncio.gather(*(client.generate() for _ in range(6)))
            done += sum(answer.status_code == 200 for answer in answers)
            await stack.kill_and_wait("ledger")
        await stack.quiet()
        assert len(await client.usage_log()) == done
        assert (await client.usage())["totals"]["calls"] == done


async def test_a_database_that_keeps_dying_costs_its_callers_a_503_and_nothing_else(stack: StackProcess) -> None:
    async with customer(stack, IMAGES) as client:
        answers: Counter[int] = Counter()
        over = asyncio.get_running_loop().time() + OUTAGE_SECONDS

        async def ask() -> None:
            while asyncio.get_running_loop().time() < over:
                answer = await client.generate()
                answers[answer.status_code] += 1
                assert answer.status_code != 503 or int(answer.headers["retry-after"]) >= 1
                await asyncio.sleep(0.05)

        async def kill() -> None:
            while asyncio.get_running_loop().time() < over:
                stack.signal("postgres")
                await asyncio.sleep(0.7)

        await asyncio.gather(kill(), ask(), ask(), ask())
        assert set(answers) <= {200, 429, 503}
        assert answers[503]
        await stack.ready()
        await eventually(client.generate, lambda answer: answer.status_code == 200)
        await stack.quiet()
        assert len(await client.usage_log()) == answers[200] + 1


async def test_all_parts_killed_at_once_are_back_with_everything(stack: StackProcess) -> None:
    async with customer(stack, IMAGES) as client:
        for count in (5, 10):
            answers = await asyncio.gather(*(client.generate() for _ in range(5)))
            assert {answer.status_code for answer in answers} == {200}
            for name in SERVERS:
                await stack.kill(name)
            await stack.ready()
            await client.recorded(count)
        await stack.quiet()
        assert await client.used("images") == (10, 0, 90)
