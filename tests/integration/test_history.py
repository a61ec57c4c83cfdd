"""The history that speed and size are measured with: through ingest, the same each time, and finished after a crash."""

import asyncio
from collections import Counter
from itertools import islice

import asyncpg
import pytest

from contracts.events import FailedData, parse_event
from tests.bench.history import History, begin_history, end_history, write_stream
from tests.bench.history_events import BEGIN, END, STREAMS, arrivals, event_of, moment_of, source_name
from tests.rebuilds import differences

Database = asyncpg.Connection
EVENTS = 3_000
HISTORY = History(events=EVENTS, seed=7, batch_events=100)


def test_the_same_seed_is_the_same_history_and_another_is_another() -> None:
    def first(seed: int) -> list[bytes]:
        return [event_of(one, "s", number)[1] for number, one in enumerate(islice(arrivals(seed, EVENTS, 0), 200), 1)]

    assert first(7) == first(7) != first(8)


def test_it_has_what_real_use_has() -> None:
    events = 20_000
    drawn = list(islice(arrivals(7, events, 0), events // STREAMS))
    read = [parse_event(event_of(one, "s", number)[1]) for number, one in enumerate(drawn, 1)]

    assert len({event.id for event in read}) == len(read)
    assert abs(moment_of(drawn[-1].at) - END).days <= 10, "as many as were asked for are in as many months"
    of_account = Counter(event.subject for event in read).most_common()
    assert sum(number for _, number in of_account[:50]) > len(read) / 4, "few accounts have most"
    assert len(of_account) > 1_500
    finished = [event for event in read if event.outcome is not None]
    failed = [event for event in finished if event.outcome == "failed"]
    assert 0.03 < len(failed) / len(finished) < 0.05
    billed = [event for event in failed if isinstance(event.data, FailedData) and event.data.cost > 0]
    assert 0.12 < len(billed) / len(failed) < 0.35
    late = sum(one.at - one.operation.at - one.operation.seconds > 3600 for one in drawn if one.is_outcome)
    assert 0.001 < late / len(finished) < 0.01
    weekend = sum(event.time.weekday() >= 5 for event in read)
    assert weekend < len(read) / 5, "weeks have their rhythm"
    assert {event.data.operation for event in read} >= {"generate", "edit", "upscale", "image_to_video"}
    assert min(event.time for event in read) >= BEGIN


async def test_a_writer_that_was_killed_goes_on_and_nothing_is_there_twice(
    database_url: str, database: "Database[asyncpg.Record]"
) -> None:
    await begin_history(database_url, HISTORY, accounts=20)
    await _write_until(database_url, 300)
    [recorded] = await database.fetch(
        "select upper(recorded) - 1 as events from sources where source like 'history-7%'"
    )
    assert 300 <= recorded["events"] < EVENTS // STREAMS

    for stream in range(STREAMS):
        await write_stream(database_url, HISTORY, stream, lambda _: None)
    await end_history(database_url)

    logged = await database.fetch(
        "select source, count(*), min(source_sequence), max(source_sequence) from event_log "
        "where source <> 'ledger' group by source order by source"
    )
    assert [tuple(row) for row in logged] == [
        (source_name(7, EVENTS, stream), EVENTS // STREAMS, 1, EVENTS // STREAMS) for stream in range(STREAMS)
    ]
    body = await database.fetchval(
        "select body::text from event_log where source = $1 and source_sequence = 1234", HISTORY.source(1)
    )
    [arrival] = islice(arrivals(7, EVENTS, 1), 1233, 1234)
    assert body.encode() == event_of(arrival, HISTORY.source(1), 1234)[1], "as it would have been without a crash"
    assert await differences(database_url) == []
    arrived_later = await database.fetchval(
        "select avg((recorded_at > $1)::int) from event_log where source <> 'ledger'", END
    )
    assert arrived_later < 0.1, "recorded when it would have arrived, not now"
    with pytest.raises(ValueError, match="has another history"):
        await begin_history(database_url, History(events=EVENTS, seed=8))


async def _write_until(database_url: str, events: int) -> None:
    """Ends the writer in the middle of its work."""
    enough = asyncio.Event()

    def report(done: int) -> None:
        if done >= events:
            enough.set()

    writing = asyncio.create_task(write_stream(database_url, HISTORY, 0, report))
    await enough.wait()
    writing.cancel()
    assert isinstance((await asyncio.gather(writing, return_exceptions=True))[0], asyncio.CancelledError)
