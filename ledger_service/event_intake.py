"""Events over HTTP: many requests, one transaction; each answered once its own events are committed."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from contracts.batching import MicroBatcher, QueueFullError
from contracts.events import RecordedRanges
from contracts.problems import OVERLOADED, Problem, ProblemError
from ledger_service.domain.batches import Receipt, Submission
from ledger_service.ingest_spans import tell_commits
from ledger_service.intake import sequence_of
from ledger_service.metrics import IngestMetrics
from ledger_service.recording import Batch, record
from ledger_service.store.pool import TRANSIENT, Pool, StoreUnavailableError

QUEUE_MAX: Final = 1_000
#: Of one transaction, but for the rest of its last request: as long as it takes, its accounts are locked for checks.
EVENTS_PER_BATCH_MAX: Final = 2_000


class Received(NamedTuple):
    """What became of each of a request's submissions, and the position that they were committed as."""

    receipts: list[Receipt | Problem]
    position: int | None


class EventIntake:
    """Records submissions that came over HTTP."""

    def __init__(
        self,
        pool: Pool,
        confirm: Callable[[list[RecordedRanges], int], Awaitable[None]],
        metrics: IngestMetrics,
    ) -> None:
        self._pool = pool
        self._confirm = confirm
        self._metrics = metrics
        self._batcher: MicroBatcher[list[Submission], Received] = MicroBatcher(
            self._handle, EVENTS_PER_BATCH_MAX, QUEUE_MAX, weigh=len
        )
        self.run = self._batcher.run

    async def record(self, submissions: list[Submission]) -> Received:
        """What became of them, once committed. Raises ProblemError (overloaded) and StoreUnavailableError."""
        try:
            return await self._batcher.submit(submissions)
        except QueueFullError:
            raise ProblemError(OVERLOADED, f"{QUEUE_MAX} requests with events are waiting") from None

    async def _handle(self, requests: Sequence[list[Submission]]) -> list[Received | Exception]:
        submissions = [submission for request in requests for submission in request]
        sequences = [sequence for sequence in map(sequence_of, submissions) if sequence is not None]
        began_at_ns = time.time_ns()
        try:
            recorded = await record(self._pool, Batch(submissions, sequences=sequences))
        except TRANSIENT as error:
            raise StoreUnavailableError(str(error)) from error
        self._metrics.committed(recorded.accepted, recorded.duplicates, recorded.letter_codes)
        tell_commits(submissions, recorded.receipts, began_at_ns)
        await self._confirm(recorded.confirmations, recorded.position)
        receipts = iter(recorded.receipts)
        return [Received([next(receipts) for _ in request], recorded.position) for request in requests]
