"""How a ledger stands: what its metrics say, for people and programs that scrape none."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field


class LedgerStatus(BaseModel):
    """Each figure as the metric of that name tells it (deploy/guides/observability.md), at most a few seconds old;
    null: it could not be read now."""

    read_at: datetime
    nats_connected: Annotated[bool, Field(description="This process is connected to NATS.")]
    ingest_lag_events: int | None
    ingest_lag_seconds: float | None
    dead_letters_open: int | None
    dead_letters_open_by_code: dict[str, int] | None
    missing_events: int | None
    holds_open: int | None
    holds_overdue_seconds: float | None
    transaction_horizon_age_seconds: float | None
    is_sealed: Annotated[bool, Field(description="Whether this ledger seals its log.")]
    seals_diverged: Annotated[bool, Field(description="Nothing is sealed: what was published does not go on here.")]
    seals_lag_events: int | None
    seals_lag_seconds: float | None
