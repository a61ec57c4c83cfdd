"""Disk space that is kept for the outcomes of operations that run already: given up when the disk is full."""

import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

#: Taken again only once there is so many times as much free: what was just given up is for outcomes.
_FREE_TIMES: Final = 2


class DiskReserve:
    """A file of ``size_bytes`` that holds nothing; 0 = none is kept."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._size_bytes = size_bytes
        self._making = threading.Lock()

    def is_kept(self) -> bool:
        """Whether it is there. Does not raise; quick."""
        try:
            return not self._size_bytes or self._path.stat().st_size == self._size_bytes
        except OSError:
            return False

    def make(self) -> bool:
        """Makes it where it is not there and there is room; whether it is there now. Writes; does not raise."""
        with self._making:
            return self.is_kept() or self._make()

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
