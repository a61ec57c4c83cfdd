"""Reservations: what an allowed limit check placed, named by its operation."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from contracts.events import Quantity
from contracts.identifiers import ModelName, Name
from contracts.limits import HoldSeconds
from contracts.moments import UtcMoment
from contracts.money import CostNanos
from contracts.prices import Attributes


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReservationRef(_Body):
    """Which reservation. Naming the account, where the caller knows it, spares a search over all of them."""

    operation_id: UUID
    account_id: Name | None = None


class ReservationExtension(ReservationRef):
    """Its hold is to last for ``ttl_seconds`` from now; default: as a new one's."""

    ttl_seconds: HoldSeconds | None = None


class ReservationMove(ReservationRef):
    """Its hold is to be that of another provider, from now on. The others are as of a limit check; who acts, and which
    operation it is, stays.

    ``placed_at``: the ``decided_at`` of the decision whose hold is meant, so that a request that was long on its way
    moves no other. ``billed``: what providers that were tried before have billed already; it is held on top.
    """

    placed_at: UtcMoment
    provider: Name
    model: ModelName
    quantity: Quantity = 1
    estimated_cost: CostNanos | None = None
    attributes: Attributes | None = None
    billed: CostNanos | None = None
    ttl_seconds: HoldSeconds | None = None


class ReservationState(BaseModel):
    """``state``: held, settled, released or expired; ``expires_at`` of one that is held."""

    operation_id: UUID
    state: str
    expires_at: datetime | None = None
