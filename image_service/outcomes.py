"""What operations come to, and the files in which outcomes are kept for repeats of an idempotency key."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from image_service.images import ProducedImage

_SUFFIX: Final = ".outcome"


@dataclass(frozen=True)
class Completed:
    """An operation that delivered. Cost in nano-dollars."""

    operation_id: UUID
    provider: str
    model: str
    cost_nanos: int
    images: tuple[ProducedImage, ...]
    seed: int | None


class _ImageEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    media_type: str
    width: int
    height: int
    size_bytes: int


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    operation_id: UUID
    provider: str
    model: str
    cost_nanos: int
    seed: int | None
    images: list[_ImageEntry]


class OutcomeStore:
    """One file per outcome: a line of JSON, then the images' bytes. Its methods block: call them in a thread."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def save(self, outcome: Completed) -> None:
        """Durable when it returns, and there as a whole or not at all. Raises OSError."""
        path = self._path(outcome.operation_id)
        part = path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                file.write(_manifest(outcome).model_dump_json().encode() + b"\n")
                for image in outcome.images:
                    file.write(image.data)
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
            self._sync_folder()
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def load(self, operation_id: UUID) -> Completed | None:
        """The outcome, or None where there is none (any more)."""
        try:
            with self._path(operation_id).open("rb") as file:
                manifest = _Manifest.model_validate_json(file.readline())
                images = tuple(
                    ProducedImage(file.read(entry.size_bytes), entry.media_type, entry.width, entry.height)
                    for entry in manifest.images
                )
        except FileNotFoundError:
            return None
        return Completed(
            manifest.operation_id, manifest.provider, manifest.model, manifest.cost_nanos, images, manifest.seed
        )

    def sweep(self, older_than_seconds: float) -> int:
        """Delete outcomes, and remains of a crash, that are older than this. Returns how many."""
        before = time.time() - older_than_seconds
        swept = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.stat().st_mtime < before:
                    Path(entry.path).unlink(missing_ok=True)
                    swept += 1
        return swept

    def _path(self, operation_id: UUID) -> Path:
        return self._folder / f"{operation_id}{_SUFFIX}"

    def _sync_folder(self) -> None:
        # The rename itself is durable only once the folder is.
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _manifest(outcome: Completed) -> _Manifest:
    return _Manifest(
        operation_id=outcome.operation_id,
        provider=outcome.provider,
        model=outcome.model,
        cost_nanos=outcome.cost_nanos,
        seed=outcome.seed,
        images=[
            _ImageEntry(media_type=image.media_type, width=image.width, height=image.height, size_bytes=len(image.data))
            for image in outcome.images
        ],
    )
