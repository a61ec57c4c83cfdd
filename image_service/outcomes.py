"""What operations come to, and the files in which outcomes are kept: for repeats of a key, and behind a URL."""

import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from contracts.problems import OPERATION_FAILED, Problem, ProblemError
from image_service.artifacts import Artifact, Content

_SUFFIX: Final = ".outcome"


@dataclass(frozen=True)
class Completed:
    """An operation that delivered. Cost in nano-dollars; provider and model are those that did the work."""

    operation_id: UUID
    account_id: str
    operation: str
    provider: str
    model: str
    cost_nanos: int
    artifacts: tuple[Artifact, ...]
    seed: int | None = None
    #: Where the artifacts are kept, since when.
    kept_at: datetime | None = None


@dataclass(frozen=True)
class Failed:
    """An operation that did not deliver, and what its caller is told."""

    operation_id: UUID
    account_id: str
    operation: str
    problem: Problem
    kept_at: datetime | None = None


Outcome = Completed | Failed


def failure_problem(operation_id: UUID, provider: str, model: str, code: str, message: str) -> ProblemError:
    """What the caller of a failed operation is told, then and on every repeat."""
    return ProblemError(
        OPERATION_FAILED,
        f"{provider}: {message}",
        operation_id=str(operation_id),
        provider=provider,
        model=model,
        error={"code": code, "message": message},
    )


class _ArtifactEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    media_type: str
    width: int | None = None
    height: int | None = None
    duration_ms: int | None = None


class _Delivered(BaseModel):
    model_config = ConfigDict(extra="forbid")

    provider: str
    model: str
    cost_nanos: int
    seed: int | None = None
    artifacts: list[_ArtifactEntry]


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    operation_id: UUID
    account_id: str
    operation: str
    kept_at: datetime
    delivered: _Delivered | None = None
    problem: Problem | None = None


class OutcomeStore:
    """A line of JSON per outcome, and beside it a file per artifact. Its methods block: call them in a thread."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def save(self, outcome: Outcome) -> Outcome:
        """The outcome as it is kept. Durable when it returns, and there as a whole or not at all; spooled files are
        moved. Raises OSError, with them where they were."""
        try:
            return self._save(outcome)
        except OSError:
            if isinstance(outcome, Completed):
                self._give_back(outcome)
            raise

    def _save(self, outcome: Outcome) -> Outcome:
        kept_at = datetime.now(UTC)
        delivered = None
        if isinstance(outcome, Completed):
            artifacts = tuple(
                self._save_artifact(outcome.operation_id, number, artifact)
                for number, artifact in enumerate(outcome.artifacts)
            )
            outcome = replace(outcome, artifacts=artifacts)
            delivered = _delivered(outcome)
        manifest = _Manifest(
            operation_id=outcome.operation_id,
            account_id=outcome.account_id,
            operation=outcome.operation,
            kept_at=kept_at,
            delivered=delivered,
            problem=outcome.problem if isinstance(outcome, Failed) else None,
        )
        # The manifest comes last: with it, all of the outcome is there.
        _write(self._path(outcome.operation_id), manifest.model_dump_json(exclude_none=True).encode())
        self._sync_folder()
        return replace(outcome, kept_at=kept_at)

    def load(self, operation_id: UUID) -> Outcome | None:
        """The outcome, or None where there is none (any more)."""
        try:
            manifest = _Manifest.model_validate_json(self._path(operation_id).read_bytes())
        except FileNotFoundError:
            return None
        if manifest.delivered is None:
            assert manifest.problem is not None, "a manifest has the one or the other"
            return Failed(
                manifest.operation_id, manifest.account_id, manifest.operation, manifest.problem, manifest.kept_at
            )
        delivered = manifest.delivered
        artifacts = []
        for number, entry in enumerate(delivered.artifacts):
            path = self._artifact_path(operation_id, number)
            if not path.exists():
                return None
            artifacts.append(
                Artifact(Content(path), entry.media_type, entry.width, entry.height, entry.duration_ms)
            )  # fmt: skip
        return Completed(
            manifest.operation_id,
            manifest.account_id,
            manifest.operation,
            delivered.provider,
            delivered.model,
            delivered.cost_nanos,
            tuple(artifacts),
            delivered.seed,
            manifest.kept_at,
        )

    def sweep(self, older_than_seconds: float) -> int:
        """Delete what is older than this, remains of a crash too. Returns how many files."""
        before = time.time() - older_than_seconds
        swept = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # gone meanwhile
                    if entry.is_file() and entry.stat().st_mtime < before:
                        Path(entry.path).unlink()
                        swept += 1
        return swept

    def _save_artifact(self, operation_id: UUID, number: int, artifact: Artifact) -> Artifact:
        path = self._artifact_path(operation_id, number)
        source = artifact.content.source
        if isinstance(source, bytes):
            _write(path, source)
        elif source != path:
            _sync(source)
            shutil.move(source, path)
            os.utime(path)  # the retention begins now
        return replace(artifact, content=Content(path))

    def _give_back(self, outcome: Completed) -> None:
        """What could not be kept is still its caller's."""
        for number, artifact in enumerate(outcome.artifacts):
            source, path = artifact.content.source, self._artifact_path(outcome.operation_id, number)
            if source == path:
                continue
            with suppress(OSError):  # it was not there yet
                if isinstance(source, bytes):
                    path.unlink()
                else:
                    shutil.move(path, source)

    def _path(self, operation_id: UUID) -> Path:
        return self._folder / f"{operation_id}{_SUFFIX}"

    def _artifact_path(self, operation_id: UUID, number: int) -> Path:
        return self._folder / f"{operation_id}.{number}"

    def _sync_folder(self) -> None:
        # The renames themselves are durable only once the folder is.
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _delivered(outcome: Completed) -> _Delivered:
    return _Delivered(
        provider=outcome.provider,
        model=outcome.model,
        cost_nanos=outcome.cost_nanos,
        seed=outcome.seed,
        artifacts=[
            _ArtifactEntry(
                media_type=artifact.media_type,
                width=artifact.width,
                height=artifact.height,
                duration_ms=artifact.duration_ms,
            )
            for artifact in outcome.artifacts
        ],
    )
