"""What is done about dead letters: redriven, as if they came once more, or discarded. Either is an event in the log."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import JsonValue

from contracts.dead_letters import LetterAct, LetterSelection, LetterState, RedriveOutcome
from contracts.identifiers import uuid7
from contracts.problems import (
    DEAD_LETTER_CLOSED,
    INVALID_REQUEST,
    NOT_FOUND,
    PROBLEM_TYPES,
    FieldError,
    Problem,
    ProblemError,
    describe,
)
from ledger_service.authorship import author_now
from ledger_service.domain.batches import Receipt, Submission
from ledger_service.domain.corrections import unfounded_changes
from ledger_service.domain.ledger_events import DEAD_LETTER_DISCARDED, DEAD_LETTER_REDRIVEN, NO_ACCOUNT, ledger_event
from ledger_service.intake import read_event, sequence_of
from ledger_service.recording import append_events, letter_problem, refusal_problem
from ledger_service.store.dead_letters import (
    LetterFilter,
    RecordedLetter,
    add_actions,
    close_discarded,
    close_redriven,
    find_bodies,
    keep_refused,
    list_letter_ids,
    lock_letters,
)
from ledger_service.store.event_log import append_many
from ledger_service.store.pool import REFUSED, Connection, in_transaction
from ledger_service.store.sources import add_sequences

if TYPE_CHECKING:
    import asyncpg

#: Letters of one transaction.
PORTION_MAX: Final = 100

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Redriving:
    """What became of one letter; ``problem`` is why it was refused."""

    dead_letter_id: int
    outcome: RedriveOutcome
    problem: Problem | None = None


async def redrive(connection: Connection, dead_letter_ids: Sequence[int], act: LetterAct) -> list[Redriving]:
    """Takes the letters' bytes in once more, each exactly once in effect, in one transaction where all of them can be.

    Redriven twice, or while the same event comes anew, a letter's event is in the log once, and the second is told
    ``duplicate`` or ``closed``. Letters that there are not are left out. The connection has its staging table
    (event_log.prepare_connection). Raises pool.UNAVAILABLE errors: whatever then was not committed is as it was.
    """
    try:
        done = await in_transaction(connection, lambda: _redrive(connection, dead_letter_ids, act))
    except REFUSED as error:
        if len(dead_letter_ids) > 1:
            middle = len(dead_letter_ids) // 2
            first = await redrive(connection, dead_letter_ids[:middle], act)
            return first + await redrive(connection, dead_letter_ids[middle:], act)
        refusals = {dead_letter_ids[0]: refusal_problem(error)}
        done = await in_transaction(connection, lambda: _settle(connection, {}, refusals, act))
        done = done or [Redriving(dead_letter_ids[0], RedriveOutcome.CLOSED)]
    return done


async def redrive_one(connection: Connection, dead_letter_id: int, act: LetterAct) -> Redriving:
    """The same for one letter. Raises ProblemError where there is none."""
    done = await redrive(connection, [dead_letter_id], act)
    if not done:
        raise not_found(dead_letter_id)
    return done[0]


async def redrive_corrected(
    connection: Connection, dead_letter_id: int, event: dict[str, JsonValue], act: LetterAct
) -> Redriving:
    """Records a corrected copy in a letter's place. Both stay: the letter's bytes here, the copy in the log.

    Raises ProblemError for one that breaks a rule itself, differs where the letter was right, or contradicts the log:
    then nothing is changed.
    """
    return await in_transaction(connection, lambda: _correct(connection, dead_letter_id, event, act))


async def discard(connection: Connection, dead_letter_ids: Sequence[int], act: LetterAct) -> list[int]:
    """Closes open letters without recording them. Answers those it closed: not what was closed or is not there."""
    return await in_transaction(connection, lambda: _discard(connection, dead_letter_ids, act))


async def discard_one(connection: Connection, dead_letter_id: int, act: LetterAct) -> None:
    """Discards one letter; a discarded one stays so. Raises ProblemError where it was redriven, or is not there."""
    if await discard(connection, [dead_letter_id], act):
        return
    if (await _body(connection, dead_letter_id))["state"] == LetterState.REDRIVEN:
        raise ProblemError(DEAD_LETTER_CLOSED, f"dead letter {dead_letter_id} is in the log: correct it there")


def selected_by(selection: LetterSelection) -> LetterFilter:
    """What a selection means to the store."""
    return LetterFilter(
        states=[state.value for state in selection.state],
        code=selection.code,
        origin=selection.origin,
        subject=selection.subject,
        account_id=selection.account_id,
        start=selection.start,
        end=selection.end,
    )


async def next_portion(connection: Connection, chosen: LetterFilter, after: int | None, at_most: int) -> list[int]:
    """The next letters to work off, oldest first, no more than one transaction takes."""
    return await list_letter_ids(connection, chosen, after, min(PORTION_MAX, at_most))


def not_found(dead_letter_id: int) -> ProblemError:
    return ProblemError(NOT_FOUND, f"there is no dead letter {dead_letter_id}")


async def _redrive(connection: Connection, dead_letter_ids: Sequence[int], act: LetterAct) -> list[Redriving]:
    # Read without a lock: letters are locked after accounts, as ingest does.
    found = await find_bodies(connection, dead_letter_ids)
    submissions: dict[int, Submission] = {}
    refusals: dict[int, Problem] = {}
    for letter in found:
        if letter["state"] == LetterState.REDRIVEN:
            continue
        read = read_event(letter["body"], letter["origin"], letter["subject"])
        if isinstance(read, Problem):
            refusals[letter["dead_letter_id"]] = read
        else:
            submissions[letter["dead_letter_id"]] = read
    recorded: dict[int, tuple[Submission, Receipt]] = {}
    for dead_letter_id, receipt in (await _append(connection, submissions)).items():
        submission = submissions[dead_letter_id]
        if receipt in (Receipt.ACCEPTED, Receipt.DUPLICATE):
            recorded[dead_letter_id] = submission, receipt
        else:
            refusals[dead_letter_id] = letter_problem(submission, receipt)
    done = {one.dead_letter_id: one for one in await _settle(connection, recorded, refusals, act)}
    ids = [letter["dead_letter_id"] for letter in found]
    return [done.get(one) or Redriving(one, RedriveOutcome.CLOSED) for one in ids]


async def _append(connection: Connection, submissions: Mapping[int, Submission]) -> dict[int, Receipt]:
    if not submissions:
        return {}
    receipts = await append_events(connection, list(submissions.values()))
    # Producers hear of it with the next repetition of what is committed of their source.
    await add_sequences(connection, [one for one in map(sequence_of, submissions.values()) if one is not None])
    return dict(zip(submissions, receipts, strict=True))


async def _settle(
    connection: Connection,
    recorded: Mapping[int, tuple[Submission, Receipt]],
    refusals: Mapping[int, Problem],
    act: LetterAct,
    *,
    corrected: bool = False,
) -> list[Redriving]:
    """Writes down what became of letters, in the transaction that recorded them; not where others were first."""
    states = await lock_letters(connection, [*recorded, *refusals])
    waiting = {one for one, state in states.items() if state != LetterState.REDRIVEN}
    closing = {one: found for one, found in recorded.items() if one in waiting}
    staying = {one: refusal for one, refusal in refusals.items() if one in waiting}
    done = [
        Redriving(one, RedriveOutcome.RECORDED if receipt is Receipt.ACCEPTED else RedriveOutcome.DUPLICATE)
        for one, (_, receipt) in closing.items()
    ]
    done += [Redriving(one, RedriveOutcome.REFUSED, refusal) for one, refusal in staying.items()]
    if closing:
        letters = [RecordedLetter(one, made.event.subject, made.event.id) for one, (made, _) in closing.items()]
        await close_redriven(connection, letters)
    if staying:
        await keep_refused(connection, staying)
    await _log_actions(
        connection,
        DEAD_LETTER_REDRIVEN,
        {
            one.dead_letter_id: {
                **_said(act, one.dead_letter_id),
                "outcome": one.outcome.value,
                "code": one.problem.code if one.problem else None,
                "corrected": corrected,
                "event": _named(closing.get(one.dead_letter_id)),
            }
            for one in done
        },
    )
    return done


async def _correct(
    connection: Connection, dead_letter_id: int, event: dict[str, JsonValue], act: LetterAct
) -> Redriving:
    letter = await _body(connection, dead_letter_id)
    if letter["state"] == LetterState.REDRIVEN:
        return Redriving(dead_letter_id, RedriveOutcome.CLOSED)
    submission = _read_corrected(letter, event)
    try:
        receipt = (await _append(connection, {dead_letter_id: submission}))[dead_letter_id]
    except REFUSED as error:
        raise _as_error(refusal_problem(error)) from None
    if receipt not in (Receipt.ACCEPTED, Receipt.DUPLICATE):
        raise _as_error(letter_problem(submission, receipt))
    settled = await _settle(connection, {dead_letter_id: (submission, receipt)}, {}, act, corrected=True)
    if not settled and receipt is Receipt.ACCEPTED:
        # Somebody else closed it meanwhile, with another event: this one must not stand beside it.
        raise ProblemError(DEAD_LETTER_CLOSED, f"dead letter {dead_letter_id} was redriven meanwhile")
    return settled[0] if settled else Redriving(dead_letter_id, RedriveOutcome.CLOSED)


async def _body(connection: Connection, dead_letter_id: int) -> "asyncpg.Record":
    found = await find_bodies(connection, [dead_letter_id])
    if not found:
        raise not_found(dead_letter_id)
    return found[0]


def _read_corrected(letter: "asyncpg.Record", event: dict[str, JsonValue]) -> Submission:
    # Not orjson: it writes no integer beyond 64 bits. What is no UTF-8 is refused like any other body.
    body = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    read = read_event(body, letter["origin"], letter["subject"])
    if isinstance(read, Problem):
        raise _as_error(read, "event.")
    changes = unfounded_changes(letter["body"], event, letter["first_received_at"])
    if changes:
        errors = [
            FieldError(field=f"event.{place}", rule="unfounded_change", message="differs from what was right there")
            for place in changes
        ]
        raise ProblemError(INVALID_REQUEST, describe(errors), errors)
    return read


def _as_error(refusal: Problem, prefix: str = "") -> ProblemError:
    kind = next(kind for kind in PROBLEM_TYPES if kind.code == refusal.code)
    errors = [error.model_copy(update={"field": f"{prefix}{error.field}".rstrip(".")}) for error in refusal.errors]
    return ProblemError(kind, describe(errors) if errors else refusal.detail, errors, **(refusal.model_extra or {}))


async def _discard(connection: Connection, dead_letter_ids: Sequence[int], act: LetterAct) -> list[int]:
    states = await lock_letters(connection, dead_letter_ids)
    closing = sorted(one for one, state in states.items() if state == LetterState.OPEN)
    await close_discarded(connection, closing)
    await _log_actions(connection, DEAD_LETTER_DISCARDED, {one: _said(act, one) for one in closing})
    return closing


def _said(act: LetterAct, dead_letter_id: int) -> dict[str, object]:
    return {"dead_letter_id": dead_letter_id, "author": act.author, "reason": act.reason}


def _named(recorded: tuple[Submission, Receipt] | None) -> dict[str, str] | None:
    if recorded is None:
        return None
    event = recorded[0].event
    return {"account_id": event.subject, "event_id": str(event.id)}


async def _log_actions(connection: Connection, event_type: str, data: Mapping[int, dict[str, object]]) -> None:
    if not data:
        return
    now, author = datetime.now(UTC), await author_now(connection)
    events = {dead_letter_id: uuid7() for dead_letter_id in data}
    await append_many(
        connection,
        [
            (
                NO_ACCOUNT,
                events[one],
                event_type,
                now,
                ledger_event(events[one], event_type, NO_ACCOUNT, now, said, author),
            )
            for one, said in data.items()
        ],
    )
    await add_actions(connection, list(events.items()))
