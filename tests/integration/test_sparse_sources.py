"""A source whose numbers are no journal's has a hole behind each: what is kept of it is bounded, and nothing else."""

import asyncpg
from nats.aio.client import Client

from contracts.identifiers import uuid7
from tests.builders import Body, completed
from tests.integration.test_ledger_ingest import Confirmations, calls
from tests.rebuilds import differences, rebuilt
from tests.servers import Ledger

Database = asyncpg.Connection
#: As the schema has it.
RANGES_MAX = 10_000
A_BATCH = 1_000


def event(number: int) -> Body:
    return completed(source="by-the-clock", sourcesequence=number, operation_id=str(uuid7()), id=str(uuid7()))


async def ranges(database: "Database[asyncpg.Record]") -> int:
    count = await database.fetchval("select count(*) from sources s, unnest(s.recorded) where source = 'by-the-clock'")
    return int(count)


async def keep(database: "Database[asyncpg.Record]", how_many: int) -> None:
    """The odd numbers from 1 on."""
    await database.execute(
        "insert into sources (source, recorded) "
        "select 'by-the-clock', range_agg(int8range(2 * n - 1, 2 * n)) from generate_series(1, $1::bigint) as n",
        how_many,
    )


async def test_a_number_that_would_be_one_range_more_is_recorded_and_confirmed_and_not_kept(
    ledger: Ledger, nats_client: Client, database: "Database[asyncpg.Record]"
) -> None:
    await keep(database, RANGES_MAX)
    confirmations = await Confirmations.of(nats_client)
    last = 2 * RANGES_MAX - 1
    assert (await ledger.send(event(10**12)))["accepted"] == 1
    await confirmations.say("by-the-clock", [[last, last], [10**12, 10**12]])
    assert (await ranges(database), await calls(ledger)) == (RANGES_MAX, 1)

    # One that fills a hole makes them fewer, and then there is room for another.
    await ledger.send(event(4))
    await confirmations.say("by-the-clock", [[3, 5], [last, last]])
    assert await ranges(database) == RANGES_MAX - 1
    await ledger.send(event(10**12 + 5))
    await confirmations.say("by-the-clock", [[10**12 + 5, 10**12 + 5]])
    assert await ranges(database) == RANGES_MAX


async def test_of_one_with_many_holes_each_batch_tells_its_own_numbers_and_the_last(
    ledger: Ledger, nats_client: Client, database: "Database[asyncpg.Record]"
) -> None:
    await keep(database, 103)
    confirmations = await Confirmations.of(nats_client)
    await ledger.send(event(3), event(7), event(8))
    await confirmations.say("by-the-clock", [[3, 3], [7, 9], [205, 205]])
    # Two holes fewer: few enough to be told whole.
    await ledger.send(event(2), event(4))
    await confirmations.say("by-the-clock", [[1, 5], [7, 9], *([n, n] for n in range(11, 206, 2))])


async def test_the_log_agrees_with_what_is_kept_and_a_rebuild_keeps_no_more(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    for first in range(0, RANGES_MAX + 2 * A_BATCH, A_BATCH):
        await ledger.send(*(event(2 * number + 1) for number in range(first, first + A_BATCH)))
    kept = await ranges(database)
    assert RANGES_MAX <= kept < RANGES_MAX + A_BATCH
    assert await calls(ledger) == RANGES_MAX + 2 * A_BATCH
    assert await differences(database_url) == []

    await database.execute("update sources set recorded = recorded + '{[2,3)}'")
    assert len(await differences(database_url)) == 1, "a number that is not in the log"
    await database.execute("delete from sources")
    await rebuilt(database_url)
    assert await ranges(database) == RANGES_MAX
    assert await differences(database_url) == []
