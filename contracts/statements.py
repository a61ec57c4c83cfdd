"""Statements: what an account used in a period, and what came late or was corrected."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from pydantic import BaseModel, StringConstraints

from contracts.money import TotalNanos
from contracts.periods import PeriodClosing

#: Late operations and corrections that a statement lists one by one; what is beyond is summed up.
ENTRIES_MAX: Final = 1000

#: Where a page of entries ended: the place of its last one.
Cursor = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,18}_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]


class Figures(BaseModel):
    """``calls`` and ``units`` of completed operations, ``cost`` of all; corrections may make any of them negative."""

    calls: int = 0
    units: int = 0
    failures: int = 0
    cost: TotalNanos = 0


class StatementLine(Figures):
    """All that is booked in the period of one operation type, provider and model."""

    operation: str
    provider: str
    model: str


class EntryKind(StrEnum):
    """``late``: an operation of a period that was closed when it came; the others are adjustments."""

    LATE = "late"
    ADJUSTMENT = "adjustment"
    VOID = "void"
    RERATE = "rerate"


class StatementEntry(Figures):
    """Something that does not speak for itself. ``id``: the operation's, or the adjustment's; ``reference``: what an
    adjustment is about. ``occurred_at`` says to which period it belongs."""

    kind: EntryKind
    id: UUID
    reference: UUID | None
    author: str | None
    reason: str | None
    operation: str
    provider: str
    model: str
    occurred_at: datetime
    recorded_at: datetime


class StatementRest(Figures):
    """Entries after those that are listed, summed up by kind, operation type, provider and model."""

    kind: EntryKind
    operation: str
    provider: str
    model: str
    entries: int


class Statement(BaseModel):
    """``opening`` + ``total`` = ``closing``: all that was booked before the period, in it, and up to its end.

    ``total`` = ``usage`` + ``late`` + ``corrections`` = the sum of ``lines``; ``late`` + ``corrections`` = the sum of
    ``entries`` and ``rest``. ``next_cursor``: asks for the entries that ``rest`` sums up; null where there are none.
    ``closed``: what closed the period; null while it is open: then its figures may still change.
    """

    account_id: str
    period: str
    closed: PeriodClosing | None
    opening: Figures
    usage: Figures
    late: Figures
    corrections: Figures
    total: Figures
    closing: Figures
    lines: list[StatementLine]
    entries: list[StatementEntry]
    entries_in_all: int
    rest: list[StatementRest] = []
    next_cursor: str | None = None
