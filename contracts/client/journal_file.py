"""The journal's file: connections with the right durability, its tables, its one-owner lock, its named queries."""

import fcntl
import sqlite3
from pathlib import Path
from typing import Final, TextIO

from contracts.client.group_commit import JournalUnavailableError
from contracts.identifiers import uuid7

#: Raised by a change of the tables; a journal of another version is refused.
USER_VERSION: Final = 1


def connect(path: Path) -> sqlite3.Connection:
    # isolation_level None: transactions are begun and ended in group_commit.py, never by the driver.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    return connection


def prepare(connection: sqlite3.Connection, service: str) -> str:
    """Make or check the tables; returns the journal's name as a source of events."""
    version = int(connection.execute("pragma user_version").fetchone()[0])
    if version not in (0, USER_VERSION):
        raise sqlite3.DatabaseError(f"made by another version of the service (journal version {version})")
    connection.executescript((Path(__file__).parent / "journal_schema.sql").read_text())
    connection.execute(f"pragma user_version = {USER_VERSION}")
    connection.execute(SQL["init_meta"], ("source", f"{service}/{uuid7()}"))
    connection.execute(SQL["init_meta"], ("last_sequence", 0))
    return str(connection.execute(SQL["read_meta"], ("source",)).fetchone()[0])


def lock(path: Path) -> TextIO:
    # Two processes on one journal would each take the other's running operations for remains of a crash.
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise JournalUnavailableError(f"{path.parent} is in use by another process") from None
    return file


def _named_queries(text: str) -> dict[str, str]:
    queries = {}
    for part in text.split("-- name: ")[1:]:
        name, _, statement = part.partition("\n")
        queries[name.strip()] = statement.strip().removesuffix(";")
    return queries


SQL: Final = _named_queries((Path(__file__).parent / "journal.sql").read_text())
