"""Producers with journals, as the ledger knows them: which of their numbers came, and which are missing."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field


class SourceState(BaseModel):
    """One producer. Its numbers begin with 1, in the order in which its journal took its events."""

    source: Annotated[str, Field(description="As in its events.")]
    account_id: Annotated[
        str | None,
        Field(description="Whose bound tokens may send numbers of it; null: only producers for all accounts."),
    ]
    first_sequence: Annotated[int, Field(description="The lowest number that came.")]
    contiguous_until: Annotated[int, Field(description="From the first to here nothing is missing.")]
    last_sequence: Annotated[int, Field(description="The highest number that came.")]
    missing: Annotated[int, Field(description="Numbers between first and last that did not come.")]
    holes: Annotated[list[tuple[int, int]], Field(description="The first of them, as ranges with both ends.")]
    more_holes: Annotated[int, Field(description="Ranges that are not listed.")]
    holes_since: Annotated[datetime | None, Field(description="Since when there have been holes without a pause.")]
    last_seen_at: Annotated[datetime, Field(description="When one of its events last came, repeats too.")]


class Sources(BaseModel):
    """By name; ``next_cursor`` goes on where the page ended."""

    items: list[SourceState]
    next_cursor: str | None
