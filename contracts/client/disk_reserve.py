"""Disk space that is kept for the outcomes of operations that run already: given up when the disk is full."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

#: Taken again only once there is so many times as much free: what was just given up is for outcomes.
_FREE_TIMES: Final = 2


class DiskReserve:
    """A file of ``size_bytes`` that holds nothing; 0 = none is kept. Used by one thread at a time."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._size_bytes = size_bytes

    def is_kept(self) -> bool:
        """Whether it is there; it is made where it is not and there is room. Does not raise."""
        if not self._size_bytes:
            return True
        try:
            if self._path.stat().st_size == self._size_bytes:
                return True
        except OSError:
            pass
        return self._make()

    def give_up(self) -> bool:
        """Makes room on the disk. False: there is nothing left to give."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def _make(self) -> bool:
        unfinished = self._path.with_suffix(".reserve-new")
        try:
            if shutil.disk_usage(self._path.parent).free < _FREE_TIMES * self._size_bytes:
                return False
            with unfinished.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self._size_bytes)
                os.fsync(file.fileno())
            unfinished.rename(self._path)
        except OSError:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            return False
        return True
