"""Missing numbers that somebody gives up: no hole any more, and nothing else."""

import asyncpg
import httpx
import pytest

from tests.builders import completed
from tests.rebuilds import differences, rebuilt
from tests.servers import Ledger, eventually

LOST = {"source": "journal", "reason": "the disk of image-1 is gone"}


async def with_holes(ledger: Ledger) -> dict[int, dict[str, object]]:
    """1, 2, 5, 6 and 9 of ten have come."""
    events = {number: completed(source="journal", sourcesequence=number) for number in range(1, 11)}
    await ledger.send(*(events[number] for number in (1, 2, 5, 6, 9)))
    return events


async def give_up(ledger: Ledger, first: int, last: int, **other: object) -> httpx.Response:
    body = {**LOST, "first_sequence": first, "last_sequence": last, **other}
    return await ledger.http.post("/v1/sources:give-up", json=body)


async def source(ledger: Ledger) -> dict[str, object]:
    [found] = (await ledger.http.get("/v1/sources")).json()["items"]
    return {name: found[name] for name in ("missing", "given_up", "holes", "contiguous_until")}


async def missing_events(ledger: Ledger) -> float:
    lines = (await ledger.http.get("/metrics")).text.splitlines()
    return float(next(line for line in lines if line.startswith("ledger_missing_events")).split()[1])


async def test_only_what_is_missing_is_given_up_and_the_alert_ends(ledger: Ledger) -> None:
    await with_holes(ledger)
    assert await source(ledger) == {"missing": 4, "given_up": 0, "holes": [[3, 4], [7, 8]], "contiguous_until": 2}
    done = await give_up(ledger, 1, 7)
    assert (done.status_code, done.json()["numbers"]) == (200, [[3, 4], [7, 7]])
    assert await source(ledger) == {"missing": 1, "given_up": 3, "holes": [[8, 8]], "contiguous_until": 7}
    assert len((await ledger.http.get("/v1/sources", params={"holes": True})).json()["items"]) == 1
    assert (await give_up(ledger, 1, 7)).json()["numbers"] == [], "again is no change"
    assert (await give_up(ledger, 8, 8)).json()["numbers"] == [[8, 8]]
    assert (await ledger.http.get("/v1/sources", params={"holes": True})).json()["items"] == []

    async def ends() -> bool:
        return await missing_events(ledger) == 0

    await eventually(ends, "nothing is missing")
    changes = (await ledger.http.get("/v1/changes", params={"type": "ledger.source.numbers_given_up.v1"})).json()
    assert [one["data"] for one in changes["items"]] == [
        {**LOST, "numbers": [[8, 8]]},
        {**LOST, "numbers": [[3, 4], [7, 7]]},
    ]
    assert changes["items"][0]["author"]["name"] == "tests"


async def test_what_arrives_after_all_is_recorded_and_its_producer_told_of_that_alone(
    ledger: Ledger, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    events = await with_holes(ledger)
    await give_up(ledger, 1, 9)
    assert await database.fetchval("select recorded::text from sources") == "{[1,3),[5,7),[9,10)}"
    await ledger.send(events[3], events[10])
    assert await source(ledger) == {"missing": 0, "given_up": 3, "holes": [], "contiguous_until": 10}
    assert await database.fetchval("select recorded::text from sources") == "{[1,4),[5,7),[9,11)}"
    assert await database.fetchval("select holes_since from sources") is None
    # What is missing now is a hole of its own.
    later = completed(source="journal", sourcesequence=12)
    await ledger.send(later)
    assert (await source(ledger))["holes"] == [[11, 11]]
    assert await database.fetchval("select holes_since from sources") is not None


@pytest.mark.parametrize(
    ("changed", "status", "field"),
    [
        ({"last_sequence": 10}, 422, "last_sequence"),
        ({"first_sequence": 20, "last_sequence": 30}, 422, "last_sequence"),
        ({"first_sequence": 5, "last_sequence": 4}, 422, ""),
        ({"first_sequence": 0}, 422, "first_sequence"),
        ({"first_sequence": "3"}, 422, "first_sequence"),
        ({"last_sequence": 2**63}, 422, "last_sequence"),
        ({"reason": ""}, 422, "reason"),
        ({"source": "another"}, 404, None),
        ({"sure": True}, 422, "sure"),
    ],
)
async def test_bad_input_gives_nothing_up(
    ledger: Ledger, changed: dict[str, object], status: int, field: str | None
) -> None:
    await with_holes(ledger)
    before = await source(ledger)
    refused = await give_up(ledger, 3, 4, **changed)
    assert refused.status_code == status, refused.text
    if field is not None:
        assert [error["field"] for error in refused.json()["errors"]] == [field]
    assert await source(ledger) == before


async def test_too_many_holes_at_once_are_refused_whole(
    ledger: Ledger, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await database.execute(
        "insert into sources (source, recorded) select 'journal', range_agg(int8range(2 * n, 2 * n + 1)) "
        "from generate_series(1, 1002) as n"
    )
    refused = await give_up(ledger, 1, 2004)
    assert (refused.status_code, refused.json()["errors"][0]["rule"]) == (422, "too_many")
    assert await database.fetchval("select given_up::text from sources") == "{}"
    assert len((await give_up(ledger, 2, 2002)).json()["numbers"]) == 1000


async def test_the_log_says_what_was_given_up(
    ledger: Ledger, database: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    await with_holes(ledger)
    await give_up(ledger, 3, 3)
    await give_up(ledger, 7, 8)
    assert await differences(database_url) == []
    await database.execute("update sources set given_up = '{[4,5)}'")
    assert [one.projection for one in await differences(database_url)] == ["sources"]
    await rebuilt(database_url)
    assert await database.fetchval("select given_up::text from sources") == "{[3,4),[7,9)}"
