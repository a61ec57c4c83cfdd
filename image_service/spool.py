"""Files that belong to one operation: its uploads, on their way to the provider."""

import hashlib
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from contracts.identifiers import uuid7
from image_service.artifacts import Content

#: Up to here, bytes are as well off in memory.
MEMORY_BYTES_MAX: Final = 256 * 1024
_PORTION_BYTES: Final = 1024 * 1024


class Spool:
    """Its methods block where they touch files: call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[Path] = []

    def take(self, source: BinaryIO, size_bytes: int) -> Content:
        """What is in ``source``, from its beginning, as content of our own."""
        source.seek(0)
        if size_bytes <= MEMORY_BYTES_MAX:
            return Content(source.read())
        path = self._folder / f"{uuid7()}.part"
        self._files.append(path)
        with path.open("wb") as file:
            shutil.copyfileobj(source, file, _PORTION_BYTES)
        return Content(path)

    def keep(self, content: Content) -> Content:
        """The same, as a file where it is large: it is kept until the operation has ended."""
        if isinstance(content.source, Path) or content.size_bytes <= MEMORY_BYTES_MAX:
            return content
        return self.take(content.open(), content.size_bytes)

    @property
    def has_files(self) -> bool:
        return bool(self._files)

    def clear(self) -> None:
        """Delete the files. Idempotent."""
        for path in self._files:
            path.unlink(missing_ok=True)
        self._files.clear()


def digest(contents: list[Content]) -> bytes:
    """One hash of all of them, in their order."""
    whole = hashlib.sha256()
    for content in contents:
        whole.update(content.size_bytes.to_bytes(8, "big"))
        with content.open() as file:
            while portion := file.read(_PORTION_BYTES):
                whole.update(portion)
    return whole.digest()


def sweep_folder(folder: Path, older_than_seconds: float) -> None:
    """Delete what nobody fetched: results of callers that went away before their answer began."""
    before = time.time() - older_than_seconds
    for path in folder.glob("*.part"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                path.unlink()


def clear_folder(folder: Path) -> None:
    """Make the folder, and delete what a crash left in it. It belongs to one running service."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.part"):
        path.unlink(missing_ok=True)
