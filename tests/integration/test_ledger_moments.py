"""Which moment an answer is of: one snapshot, whose position it tells; what was recorded until as_of, for good."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import httpx

from ledger_service.store.moments import SETTLING, Demand, snapshot
from ledger_service.store.pool import Pool
from tests.builders import ACCOUNT, at, completed
from tests.servers import Ledger, as_service

URL = f"/v1/accounts/{ACCOUNT}/usage-log"
SETTLED_SECONDS = SETTLING.total_seconds() + 0.05

Database: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def now(database: Database) -> datetime:
    moment: datetime = await database.fetchval("select clock_timestamp()")
    return moment.astimezone(UTC)


async def ask(ledger: Ledger, **query: Any) -> httpx.Response:
    return await ledger.http.get(URL, params={name: str(value) for name, value in query.items()})


@asynccontextmanager
async def writing(database_url: str) -> AsyncIterator[Database]:
    """The ledger's role in a transaction that has just begun, and records an outcome when told to."""
    connection = await asyncpg.connect(as_service(database_url))
    try:
        await connection.execute("begin")
        yield connection
    finally:
        await connection.close()


async def write_row(connection: Database) -> int:
    """Half of what ingest does, which is all that the usage log shows. Answers the transaction's position."""
    await connection.execute(
        """
        insert into usage_log (account_id, operation_id, event_id, outcome, user_id, operation, provider,
            requested_provider, model, quantity, cost_nanos, requested_at, occurred_at, counted_at, recorded_at,
            duration_ms, retry_count, request_bytes)
        values ($1, gen_random_uuid(), gen_random_uuid(), 'completed', 'u', 'generate', 'p', 'p', 'm', 1, 0, now(),
            now(), now(), now(), 0, 0, 0)
        """,
        ACCOUNT,
    )
    return int(await connection.fetchval("select pg_current_xact_id()::text"))


# --- the position


async def test_an_answer_tells_the_position_of_the_snapshot_that_it_was_read_from(
    ledger: Ledger, database: Database, database_url: str
) -> None:
    await ledger.send(completed())
    answer = await ask(ledger)
    position = int(answer.headers["ledger-position"])
    assert await database.fetchval(
        "select pg_visible_in_snapshot($1::text::xid8, pg_current_snapshot())", str(position)
    )
    async with writing(database_url) as writer:
        running = await write_row(writer)
        during = await ask(ledger)
        assert int(during.headers["ledger-position"]) < running
        assert len(during.json()["items"]) == 1
        await writer.execute("commit")
    after = await ask(ledger)
    assert int(after.headers["ledger-position"]) >= running
    assert len(after.json()["items"]) == 2


async def test_all_that_is_read_in_one_read_is_of_one_snapshot(writing_pool: Pool, database_url: str) -> None:
    """What commits between two statements of a read is in neither, and not in its position."""
    async with snapshot(writing_pool, Demand()) as (connection, seen):
        before = await connection.fetchval("select count(*) from usage_log")
        async with writing(database_url) as writer:
            written = await write_row(writer)
            await writer.execute("commit")
        assert await connection.fetchval("select count(*) from usage_log") == before
        assert seen.position < written
    async with snapshot(writing_pool, Demand(min_position=written)) as (connection, seen):
        assert await connection.fetchval("select count(*) from usage_log") == before + 1
        assert seen.position >= written


async def test_a_demanded_position_is_waited_for(ledger: Ledger, database_url: str) -> None:
    async with writing(database_url) as writer:
        position = await write_row(writer)
        waiting = asyncio.create_task(ask(ledger, min_position=position, wait_seconds=10))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await writer.execute("commit")
        answer = await waiting
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["items"]) == 1
    assert int(answer.headers["ledger-position"]) >= position


async def test_the_wait_for_a_position_is_bounded_and_its_end_says_what_is_reached(
    ledger: Ledger, database_url: str
) -> None:
    async with writing(database_url) as writer:
        position = await write_row(writer)
        answer = await ask(ledger, min_position=position, wait_seconds=0.1)
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (503, "position_not_reached")
        assert answer.headers["retry-after"] == "1"
        assert int(problem["position"]) < position == int(problem["min_position"])


async def test_a_position_that_was_never_given_is_a_problem_at_once(ledger: Ledger) -> None:
    for position in (2**62, 2**64 - 1):
        answer = await ask(ledger, min_position=position, wait_seconds=30)
        assert (answer.status_code, answer.json()["code"]) == (409, "position_unknown")


async def test_what_makes_no_sense_is_refused_by_name(ledger: Ledger) -> None:
    refused: dict[str, list[str | int]] = {
        "min_position": ["-1", "1.5", "\u0663", "", 2**64, "9" * 21],
        "wait_seconds": ["-1", "31", "nan", "inf"],
        "as_of": ["yesterday", "2026-11-01T00:00:00", "1999-12-31T00:00:00Z", "2199-01-01T00:00:00Z", ""],
    }
    for name, values in refused.items():
        for value in values:
            answer = await ask(ledger, **{name: value})
            problem = answer.json()
            found = (answer.status_code, problem["code"], problem["errors"][0]["field"])
            assert found == (422, "invalid_request", f"query.{name}"), (name, value)


# --- as_of


async def test_what_was_recorded_after_as_of_is_not_in_the_answer(ledger: Ledger, database: Database) -> None:
    first, second = completed(time=at("2026-11-05")), completed(time=at("2026-11-04"))
    await ledger.send(first)
    between = await now(database)
    await ledger.send(second)
    answer = await ask(ledger, as_of=between.isoformat())
    assert [item["operation_id"] for item in answer.json()["items"]] == [first["data"]["operation_id"]]
    assert answer.headers["ledger-as-of"] == between.isoformat().replace("+00:00", "Z")
    assert len((await ask(ledger, as_of=(await now(database)).isoformat())).json()["items"]) == 2


async def test_a_moment_with_an_offset_is_the_same_moment(ledger: Ledger, database: Database) -> None:
    await ledger.send(completed())
    moment = await now(database)
    shifted = moment.astimezone(tz=datetime.fromisoformat("2026-01-01T00:00:00+05:30").tzinfo)
    answer = await ask(ledger, as_of=shifted.isoformat())
    assert answer.headers["ledger-as-of"] == moment.isoformat().replace("+00:00", "Z")
    assert len(answer.json()["items"]) == 1


async def test_a_writer_that_began_before_as_of_is_waited_for(
    ledger: Ledger, database: Database, database_url: str
) -> None:
    """Its recorded_at is when it began: answered before it commits, the same question would get another answer later.
    Here it has written nothing yet, and so is in no snapshot."""
    async with writing(database_url) as writer:
        moment = await now(database)
        await asyncio.sleep(SETTLED_SECONDS)
        refused = await ask(ledger, as_of=moment.isoformat(), wait_seconds=0.2)
        assert (refused.status_code, refused.json()["code"]) == (503, "moment_unsettled")
        waiting = asyncio.create_task(ask(ledger, as_of=moment.isoformat(), wait_seconds=10))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await write_row(writer)
        await writer.execute("commit")
        first = await waiting
    assert len(first.json()["items"]) == 1
    assert (await ask(ledger, as_of=moment.isoformat())).content == first.content


async def test_a_writer_under_another_role_is_waited_for(ledger: Ledger, database: Database) -> None:
    """The tests' own role is none of the ledger's, which does not see when its transactions began."""
    await database.execute("begin")
    await write_row(database)
    moment = await now(database)
    await asyncio.sleep(SETTLED_SECONDS)
    assert (await ask(ledger, as_of=moment.isoformat(), wait_seconds=0.2)).json()["code"] == "moment_unsettled"
    await database.execute("commit")
    assert len((await ask(ledger, as_of=moment.isoformat())).json()["items"]) == 1


async def test_a_writer_that_began_after_as_of_and_a_long_read_are_not_waited_for(
    ledger: Ledger, writing_pool: Pool, database: Database, database_url: str
) -> None:
    async with snapshot(writing_pool, Demand()):
        moment = await now(database)
        async with writing(database_url) as writer:
            await write_row(writer)
            await asyncio.sleep(SETTLED_SECONDS)
            answer = await ask(ledger, as_of=moment.isoformat(), wait_seconds=0)
            await writer.execute("commit")
    assert (answer.status_code, answer.json()["items"]) == (200, [])
    assert (await ask(ledger, as_of=moment.isoformat())).content == answer.content


async def test_a_moment_that_has_just_passed_is_waited_for(ledger: Ledger, database: Database) -> None:
    """A transaction that begins now is not seen by others at once."""
    moment = await now(database)
    answer = await ask(ledger, as_of=moment.isoformat(), wait_seconds=0)
    assert (answer.status_code, answer.json()["code"]) == (503, "moment_unsettled")
    assert (await ask(ledger, as_of=moment.isoformat())).status_code == 200
    assert await now(database) - moment >= SETTLING


async def test_a_moment_yet_to_come_is_refused(ledger: Ledger, database: Database) -> None:
    answer = await ask(ledger, as_of=(await now(database) + timedelta(seconds=5)).isoformat())
    problem = answer.json()
    assert (answer.status_code, problem["errors"][0]["rule"]) == (422, "future")
