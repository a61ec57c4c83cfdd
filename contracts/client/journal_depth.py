"""How much is in a journal."""

import sqlite3
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from contracts.client.journal_file import SQL

#: More rows than that are not counted one by one, which would read all of them.
COUNTED_MAX: Final = 10_000


@dataclass(frozen=True)
class Depth:
    """``unconfirmed_events``: exact up to COUNTED_MAX; beyond, from the first to the last, gaps included.
    ``oldest_unix_seconds``: when the oldest of them was made, by its id; None: there is none."""

    unconfirmed_events: int
    oldest_unix_seconds: float | None
    unfinished_operations: int
    used_bytes: int
    max_bytes: int


def read_depth(connection: sqlite3.Connection, bytes_max: int) -> Depth:
    first, last, oldest, unfinished = connection.execute(SQL["depth"]).fetchone()
    events = 0 if first is None else last - first + 1
    if 0 < events <= COUNTED_MAX:
        events = connection.execute(SQL["outbox_size"]).fetchone()[0]
    made_at = None if oldest is None else (UUID(oldest).int >> 80) / 1000  # a UUIDv7 begins with it
    [pages] = connection.execute("pragma page_count").fetchone()
    [free] = connection.execute("pragma freelist_count").fetchone()
    [page_bytes] = connection.execute("pragma page_size").fetchone()
    return Depth(events, made_at, unfinished, (pages - free) * page_bytes, bytes_max)
