"""One call of one provider under an operation: what the provider tells the service while it works."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final
from uuid import UUID

from contracts.identifiers import uuid7

STATE_LENGTH_MAX: Final = 60


class Attempt:
    """Handed to every capability method. Belongs to one task.

    ``keep_job`` makes a job id durable; ``on_progress`` hears what `progress` is told.
    """

    def __init__(
        self,
        operation_id: UUID,
        operation: str,
        *,
        spool_folder: Path,
        deadline_seconds: float,
        keep_job: Callable[[str], Awaitable[None]],
        on_progress: Callable[[float | None, str], None],
    ) -> None:
        #: Made by us, unique, and the same in every attempt for the operation: for a provider's own idempotency keys.
        self.operation_id = operation_id
        #: The operation type, such as ``edit``.
        self.operation = operation
        #: From its beginning; a call that takes longer is cancelled. For clients that bound their own polling.
        self.deadline_seconds = deadline_seconds
        self._spool_folder = spool_folder
        self._spooled: list[Path] = []
        self._keep_job = keep_job
        self._on_progress = on_progress
        self._sent = 0
        self._job_id: str | None = None
        self._used_attributes: dict[str, str | int] | None = None
        self._used_quantity: int | None = None

    def sending(self) -> None:
        """To be called right before the request that may be billed goes out: from here on its outcome is in doubt
        until the provider has said it. Not for requests that only look (polling, downloads)."""
        self._sent += 1

    def not_sent(self) -> None:
        """One of those that were announced did not go out after all, or started nothing, and that is certain: the
        connection was refused, say."""
        self._sent -= 1

    async def accepted(self, job_id: str) -> None:
        """The provider took the job; once this returns, a restart of the service finds it again. To be called as soon
        as the id is known. ``job_id`` is the provider client's own text, 1 to 2000 characters: what `recover` needs."""
        self._job_id = _unicode(job_id)
        await self._keep_job(self._job_id)

    def progress(self, fraction: float | None, state: str) -> None:
        """For the caller's eyes: how much is done, from 0 to 1, where that is known, and in which state the job is
        (``queued``, ``processing`` …, the provider's own word). Cheap; never raises."""
        bounded = None if fraction is None else min(1.0, max(0.0, fraction))
        self._on_progress(bounded, _unicode(state)[:STATE_LENGTH_MAX])

    def used(self, attributes: Mapping[str, str | int] | None = None, *, quantity: int | None = None) -> None:
        """What was really made and is billed, where that is not what was quoted; for costs that the provider does not
        report. All attributes anew, not only those that differ."""
        if attributes is not None:
            self._used_attributes = dict(attributes)
        if quantity is not None:
            self._used_quantity = quantity

    def spool(self) -> Path:
        """The name of a new file for a large answer, to be written by the provider's client and given in an Artifact.
        The service moves or deletes it once the operation has ended."""
        path = self._spool_folder / f"{uuid7()}.part"
        self._spooled.append(path)
        return path

    # --- for the service

    @property
    def may_be_billed(self) -> bool:
        return self._sent > 0 or self._job_id is not None

    @property
    def job_id(self) -> str | None:
        return self._job_id

    @property
    def used_attributes(self) -> Mapping[str, str | int] | None:
        return self._used_attributes

    @property
    def used_quantity(self) -> int | None:
        return self._used_quantity

    async def discard(self) -> None:
        """Delete what was spooled and not moved."""
        if self._spooled:
            await asyncio.to_thread(self._delete)

    def _delete(self) -> None:
        for path in self._spooled:
            path.unlink(missing_ok=True)


def _unicode(text: str) -> str:
    """Halves of surrogate pairs, which a provider's JSON lets through and nothing of ours can write, spelt out."""
    return text.encode(errors="backslashreplace").decode()
