"""How limits stand: what is used of them, when they are reached at the present pace, and what holds them."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from contracts.limits import LimitState, Selector
from contracts.money import TotalNanos


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Outlook(StrEnum):
    """Where a limit is heading: nothing is left of it; it is reached at a moment of this period; the period ends
    sooner; nothing is being used."""

    REACHED = "reached"
    IN_PERIOD = "in_period"
    NOT_IN_PERIOD = "not_in_period"
    UNUSED = "unused"


class Forecast(_Answer):
    """When a limit is reached if use goes on as it did: ``since`` that moment. ``at``: where outlook is in_period."""

    outlook: Outlook
    at: datetime | None
    since: datetime


class LimitStanding(LimitState):
    """A limit as it stands now. ``scope_id``: the user, project or key whose share it is; null = the whole account.

    ``period_start`` and ``period_end`` are null where the window has none. ``forecast`` is by the pace of this period
    so far, null for what counts for ever; ``recent`` by that of the last 24 hours, for limits on the account.
    """

    selector: Selector
    thresholds: list[int]
    credit: bool
    scope_id: str | None
    period_start: datetime | None
    period_end: datetime | None
    forecast: Forecast | None
    recent: Forecast | None


class LimitStandings(_Answer):
    """``limits``: those on the account, in the plan's order. ``callers``: of limits on each user, project or key, those
    who used most, at most 50 a limit, the fullest first; only who was checked in the period is known."""

    account_id: str
    plan_id: str | None
    plan_version: int | None
    time_zone: str
    limits: list[LimitStanding]
    callers: list[LimitStanding]


class NearLimit(LimitState):
    """A limit of an account, and the share of it that is settled or held: 1 = all of it, above: overage."""

    account_id: str
    share: float


class NearestLimits(_Answer):
    """The fullest limits of all accounts, as they stood at ``read_at``."""

    read_at: datetime
    items: list[NearLimit]


class OpenHold(_Answer):
    """What an admitted operation holds until its outcome is known. A lease: what is left of it."""

    operation_id: UUID
    user_id: str
    project_id: str | None
    api_key_id: str | None
    operation: str
    provider: str
    model: str
    calls: int
    quantity: int
    estimated_cost: TotalNanos
    placed_at: datetime
    expires_at: datetime
    is_lease: bool


class OpenHolds(_Answer):
    """Oldest first; ``next_cursor`` goes on where the page ended."""

    items: list[OpenHold]
    next_cursor: str | None
