"""Reservations: what an allowed limit check placed, named by its operation."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from contracts.identifiers import Name
from contracts.limits import TTL_SECONDS_MAX


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReservationRef(_Body):
    """Which reservation. Naming the account, where the caller knows it, spares a search over all of them."""

    operation_id: UUID
    account_id: Name | None = None


class ReservationExtension(ReservationRef):
    """Its hold is to last for ``ttl_seconds`` from now; default: as a new one's."""

    ttl_seconds: Annotated[int, Field(strict=True, ge=1, le=TTL_SECONDS_MAX)] | None = None


class ReservationState(BaseModel):
    """``state``: held, settled, released or expired; ``expires_at`` of one that is held."""

    operation_id: UUID
    state: str
    expires_at: datetime | None = None
