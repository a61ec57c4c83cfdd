"""Denials: limit checks that were refused, and why."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from contracts.money import TotalNanos


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class DeniedCheck(_Answer):
    """A check that was denied: what it asked for, and why not. ``limit_id``: the limit that had no room, if one did.

    ``code`` is null where a version of the ledger wrote it that did not keep it; the decision has it.
    """

    account_id: str
    operation_id: UUID
    decided_at: datetime
    code: str | None
    limit_id: str | None
    message: str | None
    user_id: str
    project_id: str | None
    api_key_id: str | None
    operation: str
    provider: str
    model: str
    calls: int
    quantity: int
    estimated_cost: TotalNanos
    is_lease: bool


class DeniedChecks(_Answer):
    """Newest first; ``next_cursor`` goes on where the page ended."""

    items: list[DeniedCheck]
    next_cursor: str | None


class DenialCount(_Answer):
    """Denials for one reason in the interval that begins at ``period``."""

    period: datetime
    code: str | None
    limit_id: str | None
    denials: int


class DeniedAccount(_Answer):
    account_id: str
    denials: int
    latest_at: datetime


class DenialCounts(_Answer):
    """How many there were: by interval and reason, and (of all accounts) in the accounts with most of them."""

    start: datetime
    end: datetime
    interval: str
    rows: list[DenialCount]
    accounts: list[DeniedAccount]
