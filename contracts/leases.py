"""Leases: a bounded allowance that a service fetches beforehand, for when it cannot reach the ledger."""

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from contracts.identifiers import Id, ModelName, Name, OperationType
from contracts.limits import LEASE_CALLS_MAX, Denial, HoldSeconds, LimitCheck, LimitState
from contracts.money import CostNanos, TotalNanos

LEASE_QUANTITY_MAX: Final = LEASE_CALLS_MAX * 1000
_Calls = Annotated[int, Field(strict=True, ge=1, le=LEASE_CALLS_MAX)]
_LeaseQuantity = Annotated[int, Field(strict=True, ge=1, le=LEASE_QUANTITY_MAX)]


class LeaseRequest(BaseModel):
    """``calls`` operations of one kind by one caller, with ``quantity`` units and ``estimated_cost`` in all.

    Without ``estimated_cost`` it is held at the worst case of all its units; without ``ttl_seconds`` it may be used for
    as long as the plan allows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    lease_id: Id
    account_id: Name
    user_id: Name
    project_id: Name | None = None
    api_key_id: Name | None = None
    operation: OperationType
    provider: Name
    model: ModelName
    calls: _Calls
    quantity: _LeaseQuantity
    estimated_cost: CostNanos | None = None
    ttl_seconds: HoldSeconds | None = None


class LeaseCheck(LimitCheck):
    """The limit check that a lease is inside the ledger: one that asks for several calls at once.

    ``operation_id`` is the lease_id, ``ttl_seconds`` how long it may be used: it is held for longer.
    """

    quantity: _LeaseQuantity
    calls: _Calls


class Lease(BaseModel):
    """The answer to a lease request. ``token`` proves to the ledger who holds it; null where it was denied.

    Until ``expires_at`` its holder may begin operations under it. Their share stays held until the holder returns the
    lease, or until ``reclaimed_at``, by which all their outcomes must have arrived.
    """

    lease_id: UUID
    account_id: str
    allowed: bool
    denial: Denial | None
    token: str | None
    calls: int
    quantity: int
    estimated_cost: TotalNanos
    expires_at: datetime | None
    reclaimed_at: datetime | None
    limits: list[LimitState]


class LeaseReturn(BaseModel):
    """Ends a lease: all its operations have their outcomes in the ledger, what is left is given back.

    Naming the lease as well is for the address of the HTTP call; the token says which it is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    lease_id: Id | None = None
    token: Annotated[str, Field(max_length=2000)]


class LeaseReturned(BaseModel):
    """What was left of the lease's hold, and is given back."""

    lease_id: UUID
    account_id: str
    calls: int
    quantity: int
    estimated_cost: TotalNanos
