"""Operations of which the ledger does not know what they came to."""

from datetime import datetime
from typing import Annotated, Literal, TypeAlias
from uuid import UUID

from pydantic import BaseModel, Field

from contracts.provider_calls import JobId

#: ``outcome_unknown``: nobody could say what its provider did; it stands at what was held, until it is corrected.
#: ``open``: admitted a while ago, and no outcome yet. ``expired``: its hold ended without one.
Doubt: TypeAlias = Literal["outcome_unknown", "open", "expired"]


class DoubtfulOperation(BaseModel):
    doubt: Doubt
    account_id: str
    operation_id: UUID
    user_id: str
    operation: str
    provider: str
    model: str
    cost: Annotated[str, Field(description="Decimal dollars: what it stands at, or what is or was held for it.")]
    began_at: Annotated[datetime, Field(description="When it was requested or admitted.")]
    ended_at: Annotated[datetime, Field(description="When it failed, or when its hold ends or ended.")]
    job_ids: Annotated[list[JobId], Field(description="What the provider calls its jobs, where that was told.")]
    message: Annotated[str | None, Field(description="What its producer says of it.")]


class DoubtfulOperations(BaseModel):
    """Newest first, of those that are ``open`` the ones that end first; ``next_cursor`` goes on."""

    items: list[DoubtfulOperation]
    next_cursor: str | None
