"""Operations as they happen: what the ledger records about them, as it records it."""

from datetime import datetime
from typing import Annotated, Literal, TypeAlias
from uuid import UUID

from pydantic import BaseModel, Field

Happening: TypeAlias = Literal["requested", "completed", "failed", "denied"]


class LiveOperation(BaseModel):
    """One thing that happened to an operation."""

    id: Annotated[str, Field(description="Its place in the log: what `after` and Last-Event-ID take.")]
    what: Happening
    account_id: str
    operation_id: UUID
    user_id: str
    operation: str
    provider: Annotated[str, Field(description="Who did it; until then, who is to.")]
    model: str
    quantity: int
    cost: Annotated[str | None, Field(description="Decimal dollars: of an outcome its own, before it the estimate.")]
    code: Annotated[str | None, Field(description="Why it failed or was denied.")]
    message: str | None
    occurred_at: datetime
    recorded_at: datetime


class RecentOperations(BaseModel):
    """Newest first. ``last_id``: the stream after it goes on where this ends; null: the log is empty."""

    items: list[LiveOperation]
    last_id: str | None
