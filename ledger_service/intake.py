"""Bytes from outside → events that may be recorded, or dead letters that say why not."""

from typing import Final

import orjson
from pydantic import ValidationError

from contracts.events import EVENT_MODELS, parse_event
from contracts.problems import INVALID_REQUEST, Problem, invalid, problem
from ledger_service.domain.batches import Submission
from ledger_service.recording import Batch
from ledger_service.store.dead_letters import DeadLetter

#: pydantic puts the union's tag into the location; people look for data.cost.
_TAGS: Final = frozenset(EVENT_MODELS)
SEQUENCE_MAX: Final = 2**63 - 2


def read_event(body: bytes, origin: str, subject: str | None = None) -> Submission | Problem:
    """The event in the body, or the problem with it."""
    try:
        return Submission(parse_event(body), body, origin, subject)
    except ValidationError as error:
        return invalid(error, skip=_TAGS).problem
    except (ValueError, TypeError, RecursionError) as error:
        # No rule of ours, but no reason either for one message to stop its neighbours.
        return problem(INVALID_REQUEST, f"cannot be read: {type(error).__name__}")


def add_to_batch(batch: Batch, body: bytes, origin: str, subject: str | None) -> None:
    """Reads one message into the batch. What cannot be read becomes a letter; its source is told either way."""
    read = read_event(body, origin, subject)
    if isinstance(read, Problem):
        batch.letters.append(DeadLetter(origin, subject, read, body))
        sequence = _sequence_of_unreadable(body)
    else:
        batch.submissions.append(read)
        sequence = sequence_of(read)
    if sequence is not None:
        batch.sequences.append(sequence)


def sequence_of(submission: Submission) -> tuple[str, int] | None:
    """The event's place in its producer's journal."""
    event = submission.event
    return None if event.sourcesequence is None else (event.source, event.sourcesequence)


def _sequence_of_unreadable(body: bytes) -> tuple[str, int] | None:
    # A producer whose event is dead-lettered must hear that it arrived, or it would send it for ever.
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(event, dict):
        return None
    source, sequence = event.get("source"), event.get("sourcesequence")
    if not isinstance(source, str) or not 0 < len(source) <= 256 or "\x00" in source:
        return None
    if type(sequence) is not int or not 1 <= sequence <= SEQUENCE_MAX:
        return None
    return source, sequence
