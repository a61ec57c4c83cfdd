"""Lists of what is administered: accounts and plans."""

from datetime import date, datetime

from pydantic import BaseModel

from contracts.limits import PlanStored


class AccountListed(BaseModel):
    """An account; ``plan_id`` null and ``version`` 0 where it was seen in checks or events, and never registered."""

    account_id: str
    plan_id: str | None
    time_zone: str
    billing_anchor: date
    version: int


class AccountList(BaseModel):
    """By account_id; ``next_cursor`` goes on where the page ended."""

    items: list[AccountListed]
    next_cursor: str | None


class PlanListed(PlanStored):
    """A plan's newest version, since when it holds, and how many accounts are registered with it."""

    recorded_at: datetime
    accounts: int


class PlanList(BaseModel):
    """By plan_id; ``next_cursor`` goes on where the page ended."""

    items: list[PlanListed]
    next_cursor: str | None
