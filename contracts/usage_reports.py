"""Answers of analytics queries."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.money import TotalNanos


class UsageAmounts(BaseModel):
    """The measures that were asked for: ``calls`` and ``units`` of completed operations, ``failures`` of failed ones,
    ``cost`` of both, all with corrections; durations in milliseconds, null where no operation has one."""

    calls: int | None = None
    units: int | None = None
    cost: TotalNanos | None = None
    failures: int | None = None
    duration_p50: int | None = None
    duration_p90: int | None = None
    duration_p95: int | None = None
    duration_p99: int | None = None


class UsageRow(UsageAmounts):
    """Of one group in one interval. ``period`` names that: ``2026-11-05``, ``2026-W45``, ``2026-11``. ``kind``: a
    group, or all others that are not among the first, together: their ``group`` is empty. Null in it is what has no
    such value.
    ``previous``: the interval with the same place in the period before."""

    period: str
    start: datetime
    end: datetime
    kind: Literal["group", "others"]
    group: dict[str, str | None]
    previous: UsageAmounts | None = None


class PreviousPeriod(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    start: datetime = Field(alias="from")
    end: datetime = Field(alias="to")
    totals: UsageAmounts


class UsageReport(BaseModel):
    """``served_from``: the table that had the answer; ``served_because``: why no rollup had. ``totals``: of all rows,
    others included. ``groups``: one row a group, of the whole time, where that was asked for: then they are compared
    with the period before, and the rows are not."""

    model_config = ConfigDict(populate_by_name=True)

    start: datetime = Field(alias="from")
    end: datetime = Field(alias="to")
    interval: Literal["hour", "day", "week", "month", "none"]
    time_zone: str
    group_by: list[str]
    filters: dict[str, list[str]]
    measures: list[str]
    as_of: datetime | None
    served_from: Literal["usage_daily_all", "usage_hourly", "usage_hourly_all", "usage_summary", "usage_log"]
    served_because: list[str]
    totals: UsageAmounts
    previous: PreviousPeriod | None = None
    groups: list[UsageRow] | None = None
    rows: list[UsageRow]


class UsageDimensions(BaseModel):
    """Names for ``group_by`` and ``filter``: ``account``, …, ``metadata.KEY``."""

    dimensions: list[str]
