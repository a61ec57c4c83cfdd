"""Which events of a batch may enter the log together: the first of each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Final
from uuid import UUID

import orjson

from contracts.events import AHEAD_MAX, UsageEvent


@dataclass(frozen=True, slots=True)
class Submission:
    """One event as it arrived: decoded, the body as it is kept, and where from (for the dead letters)."""

    event: UsageEvent
    body: bytes
    origin: str
    subject: str | None = None


class Receipt(Enum):
    """What became of a submission."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    #: The event id is in the log with another body.
    CONFLICT = "conflict"
    #: The operation has another outcome in the log.
    OPERATION_CONFLICT = "operation_conflict"
    #: The event's time is too far ahead, and it is not in the log.
    IN_FUTURE = "in_future"


#: What is dead-lettered as a conflict.
CONFLICTS: Final = frozenset({Receipt.CONFLICT, Receipt.OPERATION_CONFLICT})
#: What becomes a dead letter, however it came.
DEAD_LETTERED: Final = CONFLICTS | {Receipt.IN_FUTURE}


@dataclass(slots=True)
class Split:
    """Ordinals of a batch: ``first`` may be appended together, ``later`` came second to one of them."""

    first: list[int] = field(default_factory=list)
    later: list[int] = field(default_factory=list)


def split_first(submissions: Sequence[Submission], ordinals: Iterable[int]) -> Split:
    """Separates the first event of each id, and the first outcome of each operation, from what repeats it."""
    seen: set[tuple[str, UUID, bool]] = set()
    split = Split()
    for ordinal in ordinals:
        event = submissions[ordinal].event
        keys = [(event.subject, event.id, False)]
        if event.outcome is not None:
            keys.append((event.subject, event.data.operation_id, True))
        if seen.isdisjoint(keys):
            seen.update(keys)
            split.first.append(ordinal)
        else:
            split.later.append(ordinal)
    return split


def in_future(submissions: Sequence[Submission], now: datetime) -> list[int]:
    """Ordinals of the events whose time is too far ahead of now."""
    latest = now + AHEAD_MAX
    return [ordinal for ordinal, submission in enumerate(submissions) if submission.event.time > latest]


def classify(submission: Submission, recorded_body: str | None, has_outcome: bool) -> Receipt | None:
    """What a submission that was not appended is: from the body in the log under its event id, if any, and whether
    the log has an outcome of its operation. None where neither stands in its way, so that it may be tried again."""
    if recorded_body is not None:
        return Receipt.DUPLICATE if same_json(submission.body, recorded_body) else Receipt.CONFLICT
    return Receipt.OPERATION_CONFLICT if has_outcome and submission.event.outcome is not None else None


def same_json(one: bytes, other: str) -> bool:
    """Whether two JSON texts say the same; the order of members and white space do not matter."""
    return one == other.encode() or _canonical(one) == _canonical(other)


def _canonical(text: bytes | str) -> bytes:
    # Compared as text again: to Python, true and 1 are equal.
    return orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS)
