"""Journals as released versions left them, after a kill: each is taken over, and can be given back.

tests/samples/releases has one a version, as SQL: what its image service wrote by itself while a ledger was away.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest

from contracts.client.journal import Claim, Journal
from contracts.client.usage_events import Completion, operation_completed
from contracts.events import parse_event
from contracts.identifiers import uuid7
from contracts.subjects import subject_of
from deploy.releases import releases

SAMPLES: Final = Path(__file__).parents[1] / "samples" / "releases"
#: Since when there is one of each.
FIRST: Final = "0.1.0"
BYTES_MAX: Final = 2**30


@pytest.fixture(params=sorted(sample.name for sample in SAMPLES.iterdir()))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made = tmp_path / "journal.db"
    with closing(sqlite3.connect(made)) as database:
        database.executescript((SAMPLES / request.param / "journal.sql").read_text())
    return made


@pytest.fixture
def journal(place: Path) -> Iterator[Journal]:
    opened = Journal(place, BYTES_MAX, "image-service")
    yield opened
    opened.close()


def user_version(place: Path) -> int:
    with closing(sqlite3.connect(place)) as database:
        return int(database.execute("pragma user_version").fetchone()[0])


def columns(place: Path) -> dict[tuple[str, str], bool]:
    """By table and name: whether an insert has to name it."""
    with closing(sqlite3.connect(place)) as database:
        tables = [row[0] for row in database.execute("select name from sqlite_master where type = 'table'")]
        return {
            (table, name): bool(not_null) and default is None and not key
            for table in tables
            for _, name, _, not_null, default, key in database.execute(f"pragma table_info({table})")
        }


def test_there_is_one_of_each_release() -> None:
    wanted = {one.version for one in releases() if one.rolls_back or one.version == FIRST}
    assert wanted <= {sample.name for sample in SAMPLES.iterdir()}


async def test_its_events_go_out_as_they_were_made(journal: Journal) -> None:
    first, last = await journal.outbox_ends()
    rows = await journal.outbox(first, last, 100)
    assert [row.sequence for row in rows] == list(range(first, last + 1))
    assert len(rows) >= 3
    for row in rows:
        event = parse_event(row.body)
        assert (event.source, event.sourcesequence) == (journal.source, row.sequence)
        assert subject_of(event.type) == row.subject
        assert json.loads(row.body)["id"] == str(event.id)
    assert await journal.confirm([(first, last)]) == len(rows)
    assert await journal.outbox_size() == 0


async def test_operations_that_ran_get_their_outcome_and_numbers_go_on(journal: Journal) -> None:
    unfinished, last = await journal.unfinished(), await journal.last_sequence()
    assert len(unfinished) == 2
    for number, one in enumerate(unfinished, 1):
        requested = one.requested
        outcome = operation_completed(
            requested, Completion(10_000_000), event_id=uuid7(), now=requested.time, duration_ms=5
        )
        assert await journal.finish(outcome)
        assert await journal.last_sequence() == last + number
    assert await journal.unfinished() == []


async def test_keys_of_before_are_known(journal: Journal, place: Path) -> None:
    with closing(sqlite3.connect(place)) as database:
        rows = database.execute("select idempotency_key, request_hash, operation_id from operations").fetchall()
    assert len(rows) == 6
    for key, request_hash, operation_id in rows:
        kept = await journal.claim(Claim("acme", key, request_hash, uuid7()))
        assert kept is not None
        assert kept.operation_id == UUID(operation_id)


async def test_the_version_that_wrote_it_can_have_it_back(place: Path) -> None:
    """It refuses another user_version, and does not know of columns that came later."""
    version, before = user_version(place), columns(place)
    Journal(place, BYTES_MAX, "image-service").close()
    after = columns(place)
    assert user_version(place) == version
    assert before.keys() <= after.keys()
    old_tables = {table for table, _ in before}
    added = {one for one in after.keys() - before.keys() if one[0] in old_tables}
    assert [one for one in added if after[one]] == [], "an insert of the version before would not fit"
