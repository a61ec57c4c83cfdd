"""What could not enter the log, kept with the reason and the bytes; and what was done about it."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Final
from uuid import UUID

import orjson

from contracts.problems import Problem
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)
#: Of so many bytes at most a list looks into each letter: events have about one thousand.
SMALL_BYTES: Final = 16 * 1024
DETAIL_CHARACTERS_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """``origin`` is ``jetstream`` or ``http``; ``account_id`` is what the bytes claim. The same bytes are one row."""

    origin: str
    subject: str | None
    problem: Problem
    body: bytes
    account_id: str | None = None


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """None selects all. In time: received at least once at ``start`` ≤ moment < ``end``, about: only the first and
    the last time are kept."""

    states: Collection[str] | None = None
    code: str | None = None
    origin: str | None = None
    subject: str | None = None
    account_id: str | None = None
    start: datetime | None = None
    end: datetime | None = None

    @property
    def arguments(self) -> tuple[object, ...]:
        return self.states, self.code, self.origin, self.subject, self.account_id, self.start, self.end


@dataclass(frozen=True, slots=True)
class RecordedLetter:
    """A letter that became this event of the log."""

    dead_letter_id: int
    account_id: str
    event_id: UUID


async def add_dead_letters(connection: "Connection", letters: Iterable[DeadLetter]) -> None:
    """Adds letters, or counts them where their bytes are known already; those are open from now on."""
    counts: dict[bytes, int] = {}
    newest: dict[bytes, DeadLetter] = {}
    for letter in letters:
        digest = sha256(letter.body).digest()
        counts[digest] = counts.get(digest, 0) + 1
        newest[digest] = letter
    rows = [
        (
            digest,
            letter.origin,
            letter.subject,
            letter.account_id,
            *_reason(letter.problem),
            letter.body,
            counts[digest],
        )
        for digest, letter in newest.items()
    ]
    await connection.execute(SQL["add"], *zip(*rows, strict=True))


async def list_letters(
    connection: "Connection", chosen: LetterFilter, before: int | None, rows_max: int
) -> "list[asyncpg.Record]":
    """A page of letters, newest first, with the bytes of small ones alone."""
    return await connection.fetch(SQL["page"], before, rows_max, *chosen.arguments, SMALL_BYTES)


async def list_letter_ids(connection: "Connection", chosen: LetterFilter, after: int | None, at_most: int) -> list[int]:
    """The next letters to work off, oldest first."""
    rows = await connection.fetch(SQL["ids"], after, at_most, *chosen.arguments)
    return [row["dead_letter_id"] for row in rows]


async def count_letters(connection: "Connection", chosen: LetterFilter) -> int:
    found: int = await connection.fetchval(SQL["count"], *chosen.arguments)
    return found


async def count_open_by_code(connection: "Connection") -> dict[str, int]:
    """How many letters nobody has dealt with; from an index that holds just those."""
    return {row["code"]: row["letters"] for row in await connection.fetch(SQL["open_by_code"])}


async def find_letter(connection: "Connection", dead_letter_id: int) -> "asyncpg.Record | None":
    """One letter with its bytes and broken rules."""
    return await connection.fetchrow(SQL["one"], dead_letter_id, SMALL_BYTES)


async def find_actions(connection: "Connection", dead_letter_id: int) -> list[str]:
    """The events that tell what was done about it, oldest first, as JSON."""
    return [row["body"] for row in await connection.fetch(SQL["actions"], dead_letter_id)]


async def find_bodies(connection: "Connection", dead_letter_ids: Collection[int]) -> "list[asyncpg.Record]":
    """Those letters that there are: id, state, origin, subject, body and when it first came."""
    return await connection.fetch(SQL["bodies"], dead_letter_ids)


async def lock_letters(connection: "Connection", dead_letter_ids: Collection[int]) -> dict[int, str]:
    """Locks letters in the order that ingest keeps, after accounts as ingest does; answers the state of each."""
    return {row["dead_letter_id"]: row["state"] for row in await connection.fetch(SQL["lock"], dead_letter_ids)}


async def close_redriven(connection: "Connection", recorded: Sequence[RecordedLetter]) -> None:
    """Closes letters that are in the log now. They are locked."""
    rows = [(one.dead_letter_id, one.account_id, one.event_id) for one in recorded]
    await connection.execute(SQL["close_redriven"], *zip(*rows, strict=True))


async def keep_refused(connection: "Connection", refused: dict[int, Problem]) -> None:
    """Notes that letters were redriven and failed again, and why this time. They are locked."""
    rows = [(dead_letter_id, *_reason(problem)) for dead_letter_id, problem in refused.items()]
    await connection.execute(SQL["keep_refused"], *zip(*rows, strict=True))


async def close_discarded(connection: "Connection", dead_letter_ids: Collection[int]) -> None:
    """Closes letters that shall not count; their bytes stay. They are locked."""
    await connection.execute(SQL["discard"], dead_letter_ids)


async def add_actions(connection: "Connection", actions: Sequence[tuple[int, UUID]]) -> None:
    """Links letters to the events of the log that tell what was done about them."""
    await connection.execute(SQL["add_actions"], *zip(*actions, strict=True))


def _reason(problem: Problem) -> tuple[str, str, str]:
    errors = orjson.dumps([error.__dict__ for error in problem.errors]).decode()
    return problem.code, _storable(problem.detail), errors


def _storable(text: str) -> str:
    # A detail may quote the letter's own bytes, and PostgreSQL's text holds no NUL.
    return text[:DETAIL_CHARACTERS_MAX].replace("\x00", "\ufffd")
