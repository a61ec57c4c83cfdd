"""Dead letters: what could not enter the log, and what is done about it."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from contracts.identifiers import Name
from contracts.moments import Moment
from contracts.problems import FieldError, Problem

#: Of one request for many letters; ``next_cursor`` goes on with the rest.
LETTERS_PER_REQUEST_MAX: Final = 1000
DEAD_LETTER_ID_MAX: Final = 2**63 - 1

_Author = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
_Reason = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00]*$")]
_Filtered = Annotated[str, StringConstraints(max_length=128, pattern=r"^[^\x00]*$")]


class LetterState(StrEnum):
    """``open``: nobody has dealt with it. The same bytes, come again and refused again, make a letter open again."""

    OPEN = "open"
    REDRIVEN = "redriven"
    DISCARDED = "discarded"


class RedriveOutcome(StrEnum):
    """``duplicate``: the event was in the log already. ``closed``: the letter had been redriven before. ``refused``: it
    failed again and stays, with the new reason."""

    RECORDED = "recorded"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    CLOSED = "closed"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LetterAct(_Body):
    """Who does something about letters, and why: both are kept in the log."""

    author: _Author
    reason: _Reason


class Redrive(LetterAct):
    """``event``: a corrected copy to record in the letter's place, different only where that breaks a rule."""

    event: dict[str, JsonValue] | None = None


class LetterSelection(_Body):
    """Letters by what they are. What is left out selects all, but for ``state``: those that are open."""

    state: Annotated[list[LetterState], Field(min_length=1, max_length=len(LetterState))] = [LetterState.OPEN]
    code: _Filtered | None = None
    origin: _Filtered | None = None
    subject: _Filtered | None = None
    account_id: Name | None = None
    #: Received at ``from`` or later, and before ``to``.
    start: Annotated[Moment | None, Field(alias="from")] = None
    end: Annotated[Moment | None, Field(alias="to")] = None


class LettersAct(LetterAct):
    """The same for all letters that are selected, oldest first: up to ``limit``, after ``cursor``."""

    select: LetterSelection = LetterSelection()
    cursor: Annotated[int, Field(strict=True, ge=0, le=DEAD_LETTER_ID_MAX)] | None = None
    limit: Annotated[int, Field(strict=True, ge=1, le=LETTERS_PER_REQUEST_MAX)] = LETTERS_PER_REQUEST_MAX


class RecordedEvent(BaseModel):
    """The event of the log that a letter became."""

    account_id: str
    event_id: UUID


class DeadLetterItem(BaseModel):
    """A letter without its bytes. ``code`` and ``detail``: why it failed the last time.

    ``account_id`` and ``source`` are what the bytes claim, the latter where they are not many; ``recorded`` is what was
    recorded in the letter's place.
    """

    dead_letter_id: int
    state: LetterState
    code: str
    detail: str
    origin: str
    subject: str | None
    account_id: str | None
    source: str | None
    sha256: str
    body_bytes: int
    received_count: int
    first_received_at: datetime
    last_received_at: datetime
    redrive_count: int
    last_redriven_at: datetime | None
    closed_at: datetime | None
    recorded: RecordedEvent | None


class LetterAction(BaseModel):
    """What somebody did about a letter; the event ``event_id`` of the log says the same."""

    event_id: UUID
    action: str
    outcome: str | None
    code: str | None
    author: str
    reason: str
    corrected: bool
    at: datetime


class DeadLetter(DeadLetterItem):
    """A letter with every broken rule, its bytes (``text`` where they are UTF-8), and what was done about it."""

    errors: list[FieldError]
    text: str | None
    base64: str
    actions: list[LetterAction]


class DeadLetterPage(BaseModel):
    """Newest first; ``next_cursor`` is there while there may be more."""

    items: list[DeadLetterItem]
    next_cursor: str | None


class Redriven(BaseModel):
    """What became of a letter. ``problem``: why it was refused."""

    outcome: RedriveOutcome
    problem: Problem | None
    dead_letter: DeadLetterItem


class LettersDone(BaseModel):
    """How many letters had which outcome; ``next_cursor`` where the selection goes on."""

    outcomes: dict[str, int]
    next_cursor: int | None
