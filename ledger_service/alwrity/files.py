"""Which files hold ALwrity's tables, and a copy of each that stands still while it is read.

The files themselves are never opened for writing, and nothing is left beside them. What is read is a copy of our own,
made by SQLite's backup where ALwrity may be running, so that it is one state of the database, its WAL included.
"""

import shutil
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final

SIGNATURE: Final = b"SQLite format 3\x00"
SUFFIXES: Final = (".db", ".sqlite", ".sqlite3")
_LOCK_SECONDS: Final = 10.0
_WAL_MODE: Final = 2
_BACKUP_PAGES: Final = 4096


class FileRefusedError(Exception):
    """A file that cannot be read: which one, which rule it breaks (not_sqlite, locked, broken …), and in words."""

    def __init__(self, path: Path, rule: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path, self.rule, self.message = path, rule, message


def find_files(paths: Iterable[Path]) -> tuple[list[Path], list[FileRefusedError]]:
    """The database files that the paths name, or that lie below them, each once; and what of the paths is none."""
    found: dict[Path, Path] = {}
    refused: list[FileRefusedError] = []
    for path in paths:
        try:
            below = _below(path)
        except FileRefusedError as error:
            refused.append(error)
        except OSError as error:
            refused.append(FileRefusedError(path, "unreadable", f"cannot be read: {error.strerror or error}"))
        else:
            for one in below:
                found.setdefault(one.resolve(), one)
    return sorted(found.values()), refused


def _below(path: Path) -> list[Path]:
    if not path.exists():
        raise FileRefusedError(path, "missing", "there is no such file or folder")
    if not path.is_dir():
        return [path]
    below = [one for one in sorted(path.rglob("*")) if one.suffix.lower() in SUFFIXES and one.is_file()]
    if not below:
        raise FileRefusedError(path, "empty_folder", f"no file in this folder ends in {', '.join(SUFFIXES)}")
    return below


def take_snapshot(path: Path, folder: Path, number: int) -> Path:
    """A copy of the database in ``folder``, sound and in one state. Raises FileRefusedError."""
    copy = folder / f"{number}.db"
    try:
        with path.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise FileRefusedError(path, "unreadable", f"cannot be read: {error.strerror or error}") from None
    if not head:
        raise FileRefusedError(path, "not_sqlite", "is empty")
    if not head.startswith(SIGNATURE):
        raise FileRefusedError(path, "not_sqlite", "is no SQLite database, or an encrypted one")
    try:
        _copy(path, copy, is_wal=len(head) > 19 and head[19] == _WAL_MODE)
        _check(path, copy)
    except sqlite3.Error as error:
        raise FileRefusedError(path, "broken", f"cannot be read as a database: {error}") from None
    except OSError as error:
        raise FileRefusedError(path, "unreadable", f"cannot be copied: {error.strerror or error}") from None
    return copy


def _copy(path: Path, copy: Path, *, is_wal: bool) -> None:
    beside = {end: path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal")}
    if is_wal and not beside["-shm"].exists():
        # Nobody has it open, and to open it would make files beside it: copied as it lies, with what the WAL still has.
        _copy_plainly(path, copy, beside)
        return
    try:
        _back_up(path, copy)
    except sqlite3.OperationalError as error:
        if _is_locked(error):
            message = f"is locked by another program for more than {_LOCK_SECONDS:.0f} seconds: try again, or copy it"
            raise FileRefusedError(path, "locked", message) from None
        # A read-only folder, or a journal that a crash left: only a copy can be brought back to a sound state.
        _copy_plainly(path, copy, beside)


def _back_up(path: Path, copy: Path) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS

    def give_up(status: int, _remaining: int, _total: int) -> None:
        # The loop over a locked database has no end of its own.
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline:
            raise sqlite3.OperationalError("database is locked")

    with closing(_open_to_read(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.execute("select count(*) from sqlite_master").fetchone()
        source.backup(target, pages=_BACKUP_PAGES, progress=give_up, sleep=0.05)


def _open_to_read(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_LOCK_SECONDS)


def _is_locked(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or (
        "locked" in str(error)
    )


def _copy_plainly(path: Path, copy: Path, beside: dict[str, Path]) -> None:
    for end in ("-wal", "-journal"):
        if beside[end].exists():
            shutil.copyfile(beside[end], copy.with_name(copy.name + end))
    shutil.copyfile(path, copy)
    with closing(sqlite3.connect(copy)) as connection:
        # Brings in the WAL, or takes back what a crash left half-done.
        connection.execute("select count(*) from sqlite_master").fetchone()
        connection.execute("pragma journal_mode = delete")


def _check(path: Path, copy: Path) -> None:
    with closing(open_snapshot(copy)) as connection:
        problems = [str(row[0]) for row in connection.execute("pragma quick_check(3)")]
    if problems != ["ok"]:
        raise FileRefusedError(path, "broken", f"is damaged: {problems[0]}")


def open_snapshot(copy: Path) -> sqlite3.Connection:
    """For reading; nobody else has it. Text that is not UTF-8 has marks in it instead of breaking off the reading."""
    connection = sqlite3.connect(f"{copy.as_uri()}?mode=ro&immutable=1", uri=True)
    # A file from elsewhere may define views and functions; none of them is to do anything.
    connection.execute("pragma trusted_schema = off")
    connection.text_factory = lambda value: value.decode("utf-8", "replace")
    return connection
