"""From the journal to JetStream, and out of the journal once the ledger says that it has committed an event.

The broker's acknowledgement only says that an event need not be sent again for a while: an acknowledged message can
still be lost on power failure, and then is published again by itself.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

import nats.errors
import nats.js.errors
import structlog
from nats.js.client import JetStreamContext
from pydantic import ValidationError

from contracts.access.nats_access import NatsAccess
from contracts.client import jetstream
from contracts.client.journal import Journal, JournalUnavailableError, OutboxRow
from contracts.client.nats_link import NatsLink, Subscription
from contracts.client.republish import RepublishSchedule, common_ranges, merge_ranges
from contracts.events import INT8_MAX, RecordedRanges
from contracts.subjects import RECORDED

#: Published and not yet acknowledged by the broker; also the rows that are in memory at once.
IN_FLIGHT_MAX: Final = 64
#: Looks at the outbox at least so often, should a notice of new rows ever be missed.
IDLE_SECONDS_MAX: Final = 1.0
#: After what was published, for more to come together, where it was less than a full portion. Nobody waits for it.
GATHER_SECONDS: Final = 0.02
PAUSE_SECONDS_FIRST: Final = 0.1
PAUSE_SECONDS_MAX: Final = 5.0
#: Confirmed ranges that wait to be taken out of the journal; more than that are merged first.
RANGES_WAITING_MAX: Final = 1000

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class RelaySettings:
    access: NatsAccess
    confirm_after_seconds: float
    stall_seconds: float


class Relay:
    """Run `run` in a task; cancel it to stop. Nothing is lost by that: what matters is in the journal."""

    def __init__(self, journal: Journal, settings: RelaySettings) -> None:
        self._journal = journal
        self._settings = settings
        self._link = NatsLink(settings.access, journal.source, Subscription(RECORDED, self._on_recorded))
        self._schedule = RepublishSchedule(settings.confirm_after_seconds)
        #: Every row up to here was published in this process's life.
        self._cursor = 0
        #: Rows behind the cursor that were, of portions that were not published as a whole.
        self._ahead: set[int] = set()
        self._progress_at = time.monotonic()
        self._ranges: list[tuple[int, int]] = []
        self._ranges_came = asyncio.Event()

    @property
    def is_connected(self) -> bool:
        return self._link.is_connected

    async def run(self) -> None:
        """Publish and confirm until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._confirm_for_ever())
                tasks.create_task(self._publish_for_ever())
        finally:
            await self._link.close()

    async def _publish_for_ever(self) -> None:
        pause = PAUSE_SECONDS_FIRST
        while True:
            client = await self._link.client()
            try:
                moved = await self._publish_once(client.jetstream())
            except (_PublishError, JournalUnavailableError) as error:
                _log.warning("relay_waits", reason=str(error), pause_seconds=pause)
                await self._replace_if_stalled()
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_SECONDS_MAX)
                continue
            pause = PAUSE_SECONDS_FIRST
            if not moved:
                await self._wait_for_work()
            elif moved < IN_FLIGHT_MAX:
                await asyncio.sleep(GATHER_SECONDS)

    async def _publish_once(self, stream: JetStreamContext) -> int:
        """A portion of what is new and a portion of what is due again, so that neither holds up the other; the size of
        the larger one."""
        self._journal.outbox_grew.clear()
        new = await self._journal.outbox(self._cursor + 1, INT8_MAX, IN_FLIGHT_MAX)
        self._ahead.intersection_update(row.sequence for row in new)
        if new:
            await self._publish(stream, new)
            self._cursor = new[-1].sequence
            self._ahead.clear()
            self._schedule.published(new[0].sequence, self._cursor, time.monotonic())
        span = self._schedule.pop_due(time.monotonic())
        if span is None:
            return len(new)
        try:
            old = await self._journal.outbox(span.first, span.last, IN_FLIGHT_MAX)
            await self._publish(stream, old)
        except (_PublishError, JournalUnavailableError):
            self._schedule.postpone(span.first, span.last, span.attempt, time.monotonic())
            raise
        if old:
            _log.info("republished", first=old[0].sequence, last=old[-1].sequence, attempt=span.attempt + 1)
            self._schedule.published(old[0].sequence, old[-1].sequence, time.monotonic(), span.attempt + 1)
        if len(old) == IN_FLIGHT_MAX and old[-1].sequence < span.last:
            self._schedule.postpone(old[-1].sequence + 1, span.last, span.attempt, time.monotonic())
        return max(len(new), len(old), 1)

    async def _publish(self, stream: JetStreamContext, rows: list[OutboxRow]) -> None:
        """All of them acknowledged by the broker, or _PublishError; repeating is harmless (Nats-Msg-Id)."""
        answers = await asyncio.gather(
            *(jetstream.publish(stream, row.subject, row.event_id, row.body) for row in rows), return_exceptions=True
        )
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        self._ahead.update(
            row.sequence
            for row, answer in zip(rows, answers, strict=True)
            if row.sequence > self._cursor and not isinstance(answer, BaseException)
        )
        if self._ranges:
            self._ranges_came.set()
        # An error that the server answered (no stream yet, stream full) is progress of the connection all the same.
        answered = (nats.js.errors.APIError, nats.js.errors.NoStreamResponseError)
        if len(failures) < len(rows) or any(isinstance(failure, answered) for failure in failures):
            self._progress_at = time.monotonic()
        if failures:
            first = failures[0]
            if not isinstance(first, OSError | TimeoutError | nats.errors.Error):
                raise first
            raise _PublishError(f"{len(failures)} of {len(rows)}: {str(first) or type(first).__name__}") from first

    async def _replace_if_stalled(self) -> None:
        now = time.monotonic()
        if now - self._progress_at > self._settings.stall_seconds:
            _log.warning("nats_stalled")
            self._progress_at = now
            await self._link.replace()

    async def _wait_for_work(self) -> None:
        due = self._schedule.seconds_to_next(time.monotonic())
        try:
            async with asyncio.timeout(IDLE_SECONDS_MAX if due is None else min(IDLE_SECONDS_MAX, due)):
                await self._journal.outbox_grew.wait()
        except TimeoutError:
            # Idle is no stall: only what should be acknowledged and is not counts.
            self._progress_at = time.monotonic()

    async def _on_recorded(self, body: bytes) -> None:
        """A confirmation: kept for the task that takes the rows out, so that messages never queue up behind it."""
        try:
            recorded = RecordedRanges.model_validate_json(body, extra="ignore")  # as answers: see reading.py
        except ValidationError as error:
            _log.warning("confirmation_malformed", errors=error.error_count())
            return
        if recorded.source != self._journal.source:
            return
        self._ranges += recorded.recorded
        if len(self._ranges) > RANGES_WAITING_MAX:
            self._ranges = merge_ranges(self._ranges)
        self._ranges_came.set()

    async def _confirm_for_ever(self) -> None:
        while True:
            await self._ranges_came.wait()
            self._ranges_came.clear()
            ranges, self._ranges = merge_ranges(self._ranges), []
            try:
                await self._confirm(ranges)
            except JournalUnavailableError as error:
                # Not lost: the rows stay, are published again, and are confirmed again.
                _log.warning("confirmation_delayed", reason=str(error))
                await asyncio.sleep(PAUSE_SECONDS_MAX)

    async def _confirm(self, ranges: list[tuple[int, int]]) -> None:
        last = await self._journal.last_sequence()
        if ranges and ranges[-1][1] > last:
            # The journal was put back to an older copy, and numbers are used again: what the ledger confirms may be
            # other events than ours. Rather keep them all; the ledger knows repeated ones by their event_id.
            _log.error("journal_older_than_ledger", last_sequence=last, confirmed=ranges[-1][1])
            return
        # The same journal once it has caught up: what this process did not publish, the ledger need not mean. That part
        # waits until it is published, as a confirmation may be here before the broker's answer.
        published = merge_ranges([(1, self._cursor), *((sequence, sequence) for sequence in self._ahead)])
        self._ranges += [portion for portion in ranges if portion[1] > self._cursor]
        first, _ = await self._journal.outbox_ends()
        await self._journal.confirm(
            portion for portion in common_ranges(ranges, published) if first and portion[1] >= first
        )


class _PublishError(Exception):
    """Not everything was acknowledged."""
