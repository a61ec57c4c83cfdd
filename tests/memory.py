"""A folder in memory for servers of which nothing has to outlive the tests."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SHARED_MEMORY: Final = Path("/dev/shm")
PREFIX: Final = "usage-ledger-tests-"
#: The servers of one worker take some 0.2 GB.
FREE_BYTES_MIN: Final = 2 << 30


@contextmanager
def folder_in_memory(otherwise: Path) -> Iterator[Path]:
    """A folder that is gone afterwards; ``otherwise`` where this machine has no memory to spare for one.

    Each test makes and drops a database of some 400 files: 15 ms of processor time in memory, up to 250 ms on a disk.
    """
    if not is_memory_to_spare():
        yield otherwise
        return
    _remove_left_behind()
    folder, lock = _made()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        os.close(lock)


def is_memory_to_spare() -> bool:
    """Enough of it for the servers of a worker."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free >= FREE_BYTES_MIN and _available_bytes() >= 2 * FREE_BYTES_MIN
    except OSError:
        return False


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return 0


def _made() -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=SHARED_MEMORY))
        lock = _lock(folder)
        if lock is not None:
            if folder.exists():
                return folder, lock
            os.close(lock)
        # Another worker found it before it was locked, took it for one left behind, and removes it.


def _lock(folder: Path) -> int | None:
    """A file descriptor that holds the folder as long as this process lives; None where another one holds it."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    return held


def _remove_left_behind() -> None:
    """What a killed run left would take memory for ever."""
    for folder in SHARED_MEMORY.glob(f"{PREFIX}*"):
        try:
            lock = _lock(folder)
        except OSError:
            continue  # another user's, or gone meanwhile
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
