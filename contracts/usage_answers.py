"""What the ledger answers of an account's usage: programs in other languages are made from it.

The ledger writes these bodies itself, from rows; tests hold them against these models. Members may be added.
"""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from contracts.adjustments import AdjustmentKind, AppliedPrice, Reference
from contracts.events import ErrorData
from contracts.limits import LimitState
from contracts.money import TotalNanos


class UsageTotals(BaseModel):
    """``calls`` and ``units`` are of completed operations, ``failures`` of failed ones, ``cost`` of both."""

    calls: int
    units: int
    failures: int
    cost: TotalNanos


class UsageSummary(BaseModel):
    """A month (UTC) of an account, as it is booked. ``late`` where the question has ``late_after``."""

    account_id: str
    period: str
    totals: UsageTotals
    by_operation: dict[str, UsageTotals]
    by_provider: dict[str, UsageTotals]
    by_model: dict[str, UsageTotals]
    limits: list[LimitState]
    late: UsageTotals | None = None


class LoggedAdjustment(BaseModel):
    """What an adjustment is about, who made it and why; ``corrects`` is the operation in the end."""

    kind: AdjustmentKind
    reason: str
    author: str
    reference: Reference | None
    corrects: UUID | None
    cost_before: TotalNanos | None
    cost_after: TotalNanos | None
    repricing_id: UUID | None
    price: AppliedPrice | None
    calls: int
    units: int
    failures: int


class LoggedUsage(BaseModel):
    """A finished operation, or an adjustment. ``user_id`` is null for adjustments alone."""

    account_id: str
    operation_id: UUID
    event_id: UUID
    outcome: Literal["completed", "failed", "adjustment"]
    user_id: str | None
    project_id: str | None
    api_key_id: str | None
    operation: str
    provider: str
    requested_provider: str
    model: str
    quantity: int
    cost: TotalNanos
    requested_at: datetime
    occurred_at: datetime
    counted_at: datetime
    recorded_at: datetime
    duration_ms: int
    status_code: int | None
    retry_count: int
    request_bytes: int
    response_bytes: int | None
    endpoint: str | None
    metadata: dict[str, Any] | None  # the caller's own JSON
    error: ErrorData | None
    lag_seconds: float
    late: bool
    booked_period: str | None = None
    adjustment: LoggedAdjustment | None = None


class UsageLogPage(BaseModel):
    """Newest first. ``searched_until``: down to there fewer entries than asked for pass the filters, and older ones
    were not looked at: the cursor goes on there. ``archived_before``: months before that one are in archives."""

    items: list[LoggedUsage]
    next_cursor: str | None
    searched_until: datetime | None = None
    archived_before: str | None = None
