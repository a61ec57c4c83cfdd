"""Events over HTTP: many requests, one transaction; each answered once its own events are committed."""

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, NamedTuple

from contracts.batching import MicroBatcher, QueueFullError
from contracts.events import RecordedRanges
from contracts.problems import FORBIDDEN, OVERLOADED, FieldError, Problem, ProblemError, describe, problem
from ledger_service.domain.batches import Receipt, Submission
from ledger_service.ingest_spans import tell_commits
from ledger_service.intake import sequence_of
from ledger_service.metrics import IngestMetrics
from ledger_service.recording import Batch, record
from ledger_service.store.pool import TRANSIENT, Pool, StoreUnavailableError
from ledger_service.store.sources import claim_sources

QUEUE_MAX: Final = 1_000
#: Of one transaction, but for the rest of its last request: as long as it takes, its accounts are locked for checks.
EVENTS_PER_BATCH_MAX: Final = 2_000


class Sent(NamedTuple):
    """A request's submissions, and the account that its token is bound to; None: it may write for all."""

    submissions: list[Submission]
    account_id: str | None


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
        self._batcher: MicroBatcher[Sent, Received] = MicroBatcher(
            self._handle, EVENTS_PER_BATCH_MAX, QUEUE_MAX, weigh=lambda sent: len(sent.submissions)
        )
        self.run = self._batcher.run

    async def record(self, submissions: list[Submission], account_id: str | None) -> Received:
        """What became of them, once committed; the sender's token is bound to ``account_id``, or to none.

        Raises ProblemError (overloaded) and StoreUnavailableError.
        """
        try:
            return await self._batcher.submit(Sent(submissions, account_id))
        except QueueFullError:
            raise ProblemError(OVERLOADED, f"{QUEUE_MAX} requests with events are waiting") from None

    async def _handle(self, requests: Sequence[Sent]) -> list[Received | Exception]:
        began_at_ns = time.time_ns()
        try:
            owners = await self._owners(requests)
            batch, is_foreign = Batch(), []
            for submission, bound in _each(requests):
                numbered = sequence_of(submission)
                is_foreign.append(numbered is not None and bound is not None and owners[numbered[0]] != bound)
                if is_foreign[-1]:
                    continue
                batch.submissions.append(submission)
                if numbered is not None:
                    batch.sequences.append(numbered)
                    if bound is None:
                        batch.trust(numbered[0], submission.event.subject)
            recorded = await record(self._pool, batch)
        except TRANSIENT as error:
            raise StoreUnavailableError(str(error)) from error
        self._metrics.committed(recorded.accepted, recorded.duplicates, recorded.letter_codes)
        tell_commits(batch.submissions, recorded.receipts, began_at_ns)
        await self._confirm(recorded.confirmations, recorded.position)
        receipts = iter(recorded.receipts)
        results = iter([_foreign_source() if foreign else next(receipts) for foreign in is_foreign])
        return [Received([next(results) for _ in request.submissions], recorded.position) for request in requests]

    async def _owners(self, requests: Sequence[Sent]) -> dict[str, str]:
        """Whose the sources are of which bound tokens send numbers."""
        wanted: dict[str, str] = {}
        for submission, bound in _each(requests):
            if bound is not None and submission.event.sourcesequence is not None:
                wanted.setdefault(submission.event.source, bound)
        if not wanted:
            return {}
        # Before the batch and apart from it: within, rows of sources are locked after accounts.
        async with self._pool.acquire() as connection:
            return await claim_sources(connection, wanted)


def _each(requests: Sequence[Sent]) -> Iterator[tuple[Submission, str | None]]:
    return ((submission, request.account_id) for request in requests for submission in request.submissions)


def _foreign_source() -> Problem:
    # The same whether it is another account's or a trusted producer's.
    message = (
        "the numbers of this source are another producer's, and the token is bound to an account: name a source of "
        "your own, or send events without sourcesequence"
    )
    error = FieldError(field="source", rule="foreign_source", message=message)
    return problem(FORBIDDEN, describe([error]), [error])
