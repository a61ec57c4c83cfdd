"""What could not enter the log, kept with the reason and the bytes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from contracts.problems import Problem
from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)
DETAIL_CHARACTERS_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """``origin`` is ``jetstream`` or ``http``. The same bytes for the same reason are one row, with a count."""

    origin: str
    subject: str | None
    problem: Problem
    body: bytes


async def add_dead_letters(connection: "Connection", letters: Iterable[DeadLetter]) -> None:
    await connection.executemany(
        SQL["add"],
        [
            (
                letter.origin,
                letter.subject,
                letter.problem.code,
                _storable(letter.problem.detail),
                orjson.dumps([error.model_dump() for error in letter.problem.errors]).decode(),
                letter.body,
            )
            for letter in letters
        ],
    )


def _storable(text: str) -> str:
    # A detail may quote the letter's own bytes, and PostgreSQL's text holds no NUL.
    return text[:DETAIL_CHARACTERS_MAX].replace("\x00", "\ufffd")
