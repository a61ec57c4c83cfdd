"""Producers with journals, as the ledger knows them: which of their numbers came, and which are missing."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from contracts.events import INT8_MAX, FreeText, Source


class SourceState(BaseModel):
    """One producer. Its numbers begin with 1, in the order in which its journal took its events. What was given up is
    missing no more."""

    source: Annotated[str, Field(description="As in its events.")]
    account_id: Annotated[
        str | None,
        Field(description="Whose bound tokens may send numbers of it; null: only producers for all accounts."),
    ]
    first_sequence: Annotated[int, Field(description="The lowest number that came.")]
    contiguous_until: Annotated[int, Field(description="From the first to here nothing is missing.")]
    last_sequence: Annotated[int, Field(description="The highest number that came.")]
    missing: Annotated[int, Field(description="Numbers between first and last that did not come, nor were given up.")]
    given_up: Annotated[int, Field(description="Numbers that did not come, and that somebody gave up.")]
    holes: Annotated[list[tuple[int, int]], Field(description="The first of them, as ranges with both ends.")]
    more_holes: Annotated[int, Field(description="Ranges that are not listed.")]
    holes_since: Annotated[datetime | None, Field(description="Since when there have been holes without a pause.")]
    last_seen_at: Annotated[datetime, Field(description="When one of its events last came, repeats too.")]


class Sources(BaseModel):
    """By name; ``next_cursor`` goes on where the page ended."""

    items: list[SourceState]
    next_cursor: str | None


class GiveUp(BaseModel):
    """Says that numbers of a source never will arrive, and why: its journal is lost. Of ``first_sequence`` to
    ``last_sequence``, both included, those are meant that are missing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Source
    first_sequence: Annotated[int, Field(strict=True, ge=1, lt=INT8_MAX)]
    last_sequence: Annotated[int, Field(strict=True, ge=1, lt=INT8_MAX)]
    reason: Annotated[FreeText, StringConstraints(min_length=1)]

    @model_validator(mode="after")
    def _has_numbers(self) -> "GiveUp":
        if self.first_sequence > self.last_sequence:
            raise PydanticCustomError("sequence_order", "first_sequence is behind last_sequence")
        return self


class NumbersGivenUp(BaseModel):
    """Which were missing until then, as ranges with both ends; none where all had come, or were given up already."""

    source: str
    numbers: list[tuple[int, int]]
    reason: str
