"""What the ledger answers of a decision, of an alert and of one entry of the usage log, with all that belongs to it.

The ledger writes these bodies itself, from rows and events; tests hold them against these models. Members may be added.
"""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from contracts.limits import Decision, Limit, LimitState, OverrideRef
from contracts.money import TotalNanos
from contracts.notifications.limit_threshold_reached import LimitThresholdReached
from contracts.usage_answers import LoggedUsage, UsageTotals


class LoggedCheck(BaseModel):
    """What was asked, as the log has it: of a lease with ``calls``."""

    operation_id: UUID
    account_id: str
    user_id: str
    project_id: str | None = None
    api_key_id: str | None = None
    operation: str
    provider: str
    model: str
    quantity: int = 1
    estimated_cost: TotalNanos | None = None
    attributes: dict[str, Any] | None = None  # the caller's own
    ttl_seconds: int | None = None
    dry_run: bool = False
    calls: int = 1


class OperationOutcome(BaseModel):
    """What the operation used in the end."""

    outcome: Literal["completed", "failed"]
    quantity: int
    cost: TotalNanos
    occurred_at: datetime


class AmountsThen(BaseModel):
    """A limit as it stood after the decision; whole numbers, for ``cost`` decimal strings."""

    maximum: int | str
    settled: int | str
    held: int | str
    available: int | str


class AmountsNow(BaseModel):
    """What counts in the same window now."""

    settled: int | str
    held: int | str


class CountedPeriod(BaseModel):
    """The window in which a limit counts."""

    name: str
    start: datetime
    end: datetime


class OpenHold(BaseModel):
    """A hold of another operation that was open then. ``state``: what became of it."""

    operation_id: UUID
    user_id: str
    amount: int | str
    placed_at: datetime
    expires_at: datetime
    is_lease: bool
    state: str
    closed_at: datetime | None


class OpenHolds(BaseModel):
    """``total`` of all ``count``; ``items`` has the first of them. ``is_complete``: they are all that was held."""

    count: int
    total: int | str
    is_complete: bool
    items: list[OpenHold]


class BindingLimit(BaseModel):
    """The limit that denied, or had least room left. What is null is not known, as its definition is not in the log;
    ``now`` also of a limit on credit. ``usage_log``: the address of the rows that make up what is settled."""

    limit_id: str
    limit: Limit | None
    scope_id: str | None
    plan_id: str | None
    plan_version: int | None
    override: OverrideRef | None
    asked: int | str
    then: AmountsThen
    period: CountedPeriod | None
    now: AmountsNow | None
    open_holds: OpenHolds | None
    usage_log: str | None


class EarlierHold(BaseModel):
    """What an operation held before that was moved to another provider: by the decision of this event."""

    event_id: UUID
    provider: str
    model: str
    quantity: int
    estimated_cost: TotalNanos
    decided_at: datetime


class ExplainedDecision(Decision):
    """A decision as it was given, what was asked, and what became of it. ``binding_limit`` null: no limit had a say.
    ``moved_from``: where it moved a hold, what that was before, the first first."""

    account_id: str
    state: str
    expires_at: datetime | None
    check: LoggedCheck
    outcome: OperationOutcome | None
    event_id: UUID
    moved_from: list[EarlierHold]
    binding_limit: BindingLimit | None


class RaisedAlert(LimitThresholdReached):
    """A threshold that was reached, as its event tells it."""

    event_id: UUID
    raised_at: datetime


class RaisedAlerts(BaseModel):
    """Newest first."""

    alerts: list[RaisedAlert]


class LoggedEvent(BaseModel):
    """An event of the log; ``body`` as it was received."""

    event_id: UUID
    type: str
    source: str
    source_sequence: int | None
    occurred_at: datetime
    recorded_at: datetime
    position: int
    body: dict[str, Any]  # a CloudEvent of any of our types and versions


class CountingLimit(LimitState):
    """A limit that covers the entry; ``counted``: how much of the entry counts in it."""

    counted: int | str


class LoggedEntry(BaseModel):
    """An entry of the usage log, its corrections, what it comes to with those, and the events of all of them."""

    entry: LoggedUsage
    comes_to: UsageTotals
    corrections: list[LoggedUsage]
    events: list[LoggedEvent]
    limits: list[CountingLimit]
