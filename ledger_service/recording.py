"""One batch of events into the log and its projections, in one transaction. The heart of ingest."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import structlog

from contracts.events import AHEAD_MAX, RecordedRanges
from contracts.problems import (
    CONFLICT,
    IN_FUTURE,
    INVALID_REQUEST,
    OPERATION_CONFLICT,
    FieldError,
    Problem,
    describe,
    problem,
)
from ledger_service.domain.batches import DEAD_LETTERED, Receipt, Submission, classify, in_future, split_first
from ledger_service.projections import PROJECTIONS
from ledger_service.store.accounts import lock_accounts
from ledger_service.store.alerts import raise_for_counters
from ledger_service.store.dead_letters import DeadLetter, add_dead_letters
from ledger_service.store.event_log import append_incoming, clear_incoming, find_events, find_finished, incoming_row
from ledger_service.store.moments import committing, database_now
from ledger_service.store.pool import REFUSED, Connection, Pool, retrying
from ledger_service.store.sources import NO_ACCOUNT, add_sequences

log = structlog.get_logger()

_BEFORE_LOCK: Final = tuple(one.apply_sql for one in PROJECTIONS if one.apply_sql and not one.under_lock)
_UNDER_LOCK: Final = tuple(one.apply_sql for one in PROJECTIONS if one.apply_sql and one.under_lock)


@dataclass(slots=True)
class Batch:
    """Events that were read, letters that could not be, and the sequence numbers of both."""

    submissions: list[Submission] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    sequences: list[tuple[str, int]] = field(default_factory=list)
    #: Of sources that somebody wrote who may do so for any account: see `add_sequences`.
    trusted: dict[str, str] = field(default_factory=dict)

    def trust(self, source: str, account_id: str) -> None:
        """Notes that a number of the source came from somebody who is bound to no account."""
        if self.trusted.setdefault(source, account_id) != account_id:
            self.trusted[source] = NO_ACCOUNT


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a batch: a receipt or a problem per submission, all that is committed of its sources, of each
    letter that was added why, and the position that it was committed as."""

    receipts: list[Receipt | Problem]
    confirmations: list[RecordedRanges]
    letter_codes: list[str] = field(default_factory=list)
    position: int = 0

    @property
    def accepted(self) -> int:
        return self.receipts.count(Receipt.ACCEPTED)

    @property
    def duplicates(self) -> int:
        return self.receipts.count(Receipt.DUPLICATE)


async def record(pool: Pool, batch: Batch) -> Recorded:
    """Commits a batch. Repeats change nothing; the order of events does not matter.

    What PostgreSQL refuses (a total out of range, say) is found and dead-lettered, so that it cannot hold up its
    neighbours. Raises pool.UNAVAILABLE errors: then nothing is certain, and the batch is to be sent again.
    """
    try:
        return await _record_retrying(pool, batch)
    except REFUSED as error:
        if not batch.submissions:
            raise
        log.warning("ingest_refused", events=len(batch.submissions), error=str(error))
        # Totals are those of accounts: one whose total is full is set apart from the others first.
        accounts = sorted({submission.event.subject for submission in batch.submissions})
        if len(accounts) > 1:
            return await _record_apart(pool, batch, frozenset(accounts[: len(accounts) // 2]))
        return await _retrying(pool, lambda connection: _record_one_by_one(connection, batch))


async def _record_retrying(pool: Pool, batch: Batch) -> Recorded:
    return await _retrying(pool, lambda connection: _record_in_transaction(connection, batch))


async def _retrying(pool: Pool, work: Callable[[Connection], Awaitable[Recorded]]) -> Recorded:
    async def once() -> Recorded:
        async with pool.acquire() as connection, connection.transaction():
            return await work(connection)

    return await retrying(once)


async def _record_in_transaction(connection: Connection, batch: Batch) -> Recorded:
    receipts: list[Receipt | Problem] = []
    if batch.submissions:
        receipts = [*await append_events(connection, batch.submissions)]
    return await _finish(connection, batch, receipts)


async def _finish(connection: Connection, batch: Batch, receipts: list[Receipt | Problem]) -> Recorded:
    letters = list(batch.letters)
    for submission, receipt in zip(batch.submissions, receipts, strict=True):
        if isinstance(receipt, Problem):
            letters.append(_letter(submission, receipt))
        elif receipt in DEAD_LETTERED:
            letters.append(_letter(submission, letter_problem(submission, receipt)))
    if letters:
        await add_dead_letters(connection, letters)
        # One line a batch: what was refused must not be silent, and a flood of it must not flood the log.
        first = letters[0].problem
        log.warning("dead_lettered", letters=len(letters), code=first.code, detail=first.detail)
    confirmations = await add_sequences(connection, batch.sequences, batch.trusted)
    codes = [letter.problem.code for letter in letters]
    return Recorded(receipts, confirmations, codes, await committing(connection))


async def append_events(connection: Connection, submissions: Sequence[Submission]) -> list[Receipt]:
    """Brings events into the log and its projections, within the caller's transaction; what became of each."""
    receipts: dict[int, Receipt] = await _in_future(connection, submissions)
    undecided: Sequence[int] = range(len(submissions))
    if receipts:
        undecided = [index for index in undecided if index not in receipts]
    # One round, where nothing repeats. What came second to an event that the log then refused gets its turn in the
    # next; each round decides at least the first of those left.
    while undecided:
        split = split_first(submissions, undecided)
        losers = await append_incoming(
            connection,
            [incoming_row(index, submissions[index].event, submissions[index].body.decode()) for index in split.first],
        )
        appended = [index for index in split.first if index not in losers]
        receipts.update(dict.fromkeys(appended, Receipt.ACCEPTED))
        await _project(connection, [submissions[index] for index in appended])
        undecided = await _classify(connection, submissions, sorted([*losers, *split.later]), receipts)
        if undecided:
            await clear_incoming(connection)
    return [receipts[index] for index in range(len(submissions))]


async def _in_future(connection: Connection, submissions: Sequence[Submission]) -> dict[int, Receipt]:
    """What becomes of events whose time is too far ahead: those that are in the log stay what they are."""
    receipts: dict[int, Receipt] = {}
    if in_future(submissions, datetime.now(UTC)):
        # Ours may be wrong: the database's clock is the one that counts.
        ahead = in_future(submissions, await database_now(connection))
        for index in await _classify(connection, submissions, ahead, receipts):
            receipts[index] = Receipt.IN_FUTURE
    return receipts


async def _project(connection: Connection, appended: Iterable[Submission]) -> None:
    accounts = {submission.event.subject for submission in appended if submission.event.outcome is not None}
    if accounts:
        await project(connection, accounts)


async def project(connection: Connection, accounts: Collection[str]) -> None:
    """Folds what is staged, and new to the log, into the projections; ``accounts`` are those of its outcomes."""
    for apply_sql in _BEFORE_LOCK:
        await connection.execute(apply_sql)
    await lock_accounts(connection, accounts)
    for apply_sql in _UNDER_LOCK:
        await raise_for_counters(connection, await connection.fetch(apply_sql))


async def _classify(
    connection: Connection, submissions: Sequence[Submission], ordinals: list[int], receipts: dict[int, Receipt]
) -> list[int]:
    """Decides on what was not appended; answers those that nothing in the log stands against."""
    if not ordinals:
        return []
    events = [submissions[index].event for index in ordinals]
    bodies = await find_events(connection, {(event.subject, event.id) for event in events})
    finished = await find_finished(connection, {(event.subject, event.data.operation_id) for event in events})
    undecided = []
    for index, event in zip(ordinals, events, strict=True):
        body, has_outcome = bodies.get((event.subject, event.id)), (event.subject, event.data.operation_id) in finished
        receipt = classify(submissions[index], body, has_outcome)
        if receipt is None:
            undecided.append(index)
        else:
            receipts[index] = receipt
    return undecided


def letter_problem(submission: Submission, receipt: Receipt | Problem) -> Problem:
    """What is wrong with an event that can be read, and became a dead letter."""
    event = submission.event
    if receipt is Receipt.IN_FUTURE:
        message = f"{event.time.isoformat()} is more than {AHEAD_MAX.days} days ahead of the ledger's clock"
        error = FieldError(field="time", rule=IN_FUTURE.code, message=message)
        return problem(IN_FUTURE, describe([error]), [error], event_id=str(event.id))
    if receipt is Receipt.OPERATION_CONFLICT:
        detail = f"operation {event.data.operation_id} has another outcome in the log; this one was not counted"
        return problem(OPERATION_CONFLICT, detail, event_id=str(event.id))
    return problem(CONFLICT, f"event {event.id} is in the log with another body", event_id=str(event.id))


async def _record_apart(pool: Pool, batch: Batch, accounts: frozenset[str]) -> Recorded:
    """Records the events of these accounts, then those of the others."""
    places = [index for index, one in enumerate(batch.submissions) if one.event.subject in accounts]
    rest = [index for index, one in enumerate(batch.submissions) if one.event.subject not in accounts]
    # Letters and sequences go with the second part: once that is committed, so is everything before it.
    first = await record(pool, Batch([batch.submissions[index] for index in places]))
    others = [batch.submissions[index] for index in rest]
    second = await record(pool, Batch(others, batch.letters, batch.sequences, batch.trusted))
    receipts = dict(zip([*places, *rest], [*first.receipts, *second.receipts], strict=True))
    in_order = [receipts[index] for index in range(len(batch.submissions))]
    codes = first.letter_codes + second.letter_codes
    return Recorded(in_order, second.confirmations, codes, second.position)


async def _record_one_by_one(connection: Connection, batch: Batch) -> Recorded:
    """In one transaction; what PostgreSQL refuses becomes a letter, and the others stand."""
    receipts: list[Receipt | Problem] = []
    for submission in batch.submissions:
        try:
            async with connection.transaction():
                receipts += await append_events(connection, [submission])
                await clear_incoming(connection)
        except REFUSED as error:
            receipts.append(refusal_problem(error))
    return await _finish(connection, batch, receipts)


def refusal_problem(error: BaseException) -> Problem:
    """What is wrong with an event that PostgreSQL refuses."""
    return problem(INVALID_REQUEST, f"the database refuses the event: {error}")


def _letter(submission: Submission, refusal: Problem) -> DeadLetter:
    event = submission.event
    return DeadLetter(submission.origin, submission.subject, refusal, submission.body, event.subject)
