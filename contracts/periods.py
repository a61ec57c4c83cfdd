"""Periods that close: months in UTC, whose totals then never change."""

import re
from datetime import date, datetime
from typing import Annotated, Final
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, WithJsonSchema
from pydantic_core import PydanticCustomError

from contracts.adjustments import Reason

_MONTH: Final = "^20[0-9]{2}-(0[1-9]|1[0-2])$"


def _is_month(text: str) -> str:
    if not re.fullmatch(_MONTH, text):
        raise PydanticCustomError("month", "a month in UTC is written as 2026-11, of the years 2000 to 2099")
    return text


#: A month in UTC: ``2026-11``.
Month = Annotated[
    str, AfterValidator(_is_month), WithJsonSchema({"type": "string", "pattern": _MONTH, "examples": ["2026-11"]})
]


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
