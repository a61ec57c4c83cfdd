"""Periods that close: months in UTC, whose totals then never change."""

from datetime import date, datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, StringConstraints

from contracts.adjustments import Reason

#: A month in UTC: ``2026-11``.
Month = Annotated[str, StringConstraints(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$")]


def first_day(month: str) -> date:
    """``"2026-11"`` → the first of November."""
    return date.fromisoformat(f"{month}-01")


class ClosePeriod(BaseModel):
    """Why a period is closed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Reason


class PeriodClosing(BaseModel):
    """A month that was closed, and with it all before; ``account_id`` is null where that is for all accounts."""

    account_id: str | None
    period: str
    author: str
    reason: str
    closed_at: datetime
    event_id: UUID


class PeriodClosings(BaseModel):
    """What closed months of an account, by month; those for all accounts are among them."""

    closings: list[PeriodClosing]
