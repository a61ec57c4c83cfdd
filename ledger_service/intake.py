"""Bytes from outside → events that may be recorded, or dead letters that say why not."""

import re
from typing import Final

import orjson
from pydantic import ValidationError

from contracts.events import EVENT_BYTES_MAX, EVENT_MODELS, parse_event
from contracts.identifiers import NAME_PATTERN
from contracts.problems import INVALID_REQUEST, TOO_LARGE, Problem, ProblemError, invalid, problem
from contracts.strict_json import refuse_repeats_in_json
from ledger_service.domain.batches import Submission
from ledger_service.recording import Batch
from ledger_service.store.dead_letters import DeadLetter
from ledger_service.store.sources import NO_ACCOUNT

#: pydantic puts the union's tag into the location; people look for data.cost.
_TAGS: Final = frozenset(EVENT_MODELS)
#: Of the broken rules that are kept of one event: thousands would cost its neighbours their time.
RULES_MAX: Final = 20
SEQUENCE_MAX: Final = 2**63 - 2
_NAME: Final = re.compile(NAME_PATTERN.removesuffix("$"))


def read_event(body: bytes, origin: str, subject: str | None = None) -> Submission | Problem:
    """The event in the body, or the problem with it."""
    if len(body) > EVENT_BYTES_MAX:
        return problem(TOO_LARGE, f"at most {EVENT_BYTES_MAX} bytes an event, not {len(body)}")
    try:
        event = parse_event(body)
        # Not in parse_event(): what is in logs and journals from before is read as it was then.
        refuse_repeats_in_json(body)
        return Submission(event, body, origin, subject)
    except ValidationError as error:
        return invalid(error, skip=_TAGS, at_most=RULES_MAX).problem
    except ProblemError as error:
        return error.problem
    except (ValueError, TypeError, RecursionError) as error:
        # No rule of ours, but no reason either for one message to stop its neighbours.
        return problem(INVALID_REQUEST, f"cannot be read: {type(error).__name__}")


def add_to_batch(batch: Batch, body: bytes, origin: str, subject: str | None) -> None:
    """Reads one message into the batch. What cannot be read becomes a letter; its source is told either way."""
    read = read_event(body, origin, subject)
    if isinstance(read, Problem):
        legible = _legible_members(body)
        account_id = _account_in(legible)
        batch.letters.append(DeadLetter(origin, subject, read, body, account_id))
        sequence = _sequence_in(legible)
    else:
        batch.submissions.append(read)
        account_id, sequence = read.event.subject, sequence_of(read)
    if sequence is not None:
        batch.sequences.append(sequence)
        batch.trust(sequence[0], account_id or NO_ACCOUNT)


def sequence_of(submission: Submission) -> tuple[str, int] | None:
    """The event's place in its producer's journal."""
    event = submission.event
    return None if event.sourcesequence is None else (event.source, event.sourcesequence)


def _legible_members(body: bytes) -> dict[str, object]:
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return event if isinstance(event, dict) else {}


def _account_in(legible: dict[str, object]) -> str | None:
    account_id = legible.get("subject")
    return account_id if isinstance(account_id, str) and _NAME.fullmatch(account_id) else None


def _sequence_in(legible: dict[str, object]) -> tuple[str, int] | None:
    # A producer whose event is dead-lettered must hear that it arrived, or it would send it for ever.
    source, sequence = legible.get("source"), legible.get("sourcesequence")
    if not isinstance(source, str) or not 0 < len(source) <= 256 or "\x00" in source:
        return None
    if type(sequence) is not int or not 1 <= sequence <= SEQUENCE_MAX:
        return None
    return source, sequence
