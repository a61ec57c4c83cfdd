"""Attempts as the image service makes them, for tests that call a provider without the service around it."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from contracts.identifiers import uuid7
from image_service.providers.attempt import Attempt


@dataclass
class Heard:
    """What the provider told: job ids, and fractions with states."""

    jobs: list[str] = field(default_factory=list)
    progress: list[tuple[float | None, str]] = field(default_factory=list)


def attempt_of(
    operation: str, heard: Heard | None = None, *, spool_folder: Path | None = None, deadline_seconds: float = 60
) -> Attempt:
    listening = heard or Heard()

    async def keep_job(job_id: str) -> None:
        listening.jobs.append(job_id)

    return Attempt(
        uuid7(),
        operation,
        spool_folder=spool_folder or Path(tempfile.gettempdir()),
        deadline_seconds=deadline_seconds,
        keep_job=keep_job,
        on_progress=lambda fraction, state: listening.progress.append((fraction, state)),
    )
