"""Limit checks, reservations, and the decision explained."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from contracts.identifiers import Name
from contracts.limits import TTL_SECONDS_MAX, Decision, LimitCheck
from contracts.problems import NOT_FOUND, RESERVATION_CLOSED, ProblemError
from ledger_service.api.bodies import CHECK_BYTES_MAX, json_body, read_model
from ledger_service.services import Services, services
from ledger_service.store.accounts import lock_accounts
from ledger_service.store.decisions import OperationKey, close_holds, extend_hold, find_decision
from ledger_service.usage_views import decision_view, json_response

router = APIRouter(prefix="/v1", tags=["limit checks"])

Wired = Annotated[Services, Depends(services)]


class ReservationRef(BaseModel):
    """Names the account where the caller knows it; spares a search over all of them."""

    model_config = ConfigDict(extra="forbid")

    account_id: Name | None = None


class ReservationExtension(ReservationRef):
    ttl_seconds: Annotated[int, Field(strict=True, ge=1, le=TTL_SECONDS_MAX)] | None = None


class ReservationState(BaseModel):
    operation_id: UUID
    state: str


class ReservationExtended(ReservationState):
    expires_at: str


@router.post("/limit-checks", response_model=Decision, openapi_extra=json_body(LimitCheck))
async def check_limits(request: Request) -> Response:
    """Decides whether the operation may proceed, and holds its share of every limit if so.

    Idempotent: the same operation_id with the same body gets the same answer; with another body 409.
    """
    check = await read_model(request, LimitCheck, CHECK_BYTES_MAX)
    wired = await services(request)
    return Response(await wired.limit_checks.check(check), media_type="application/json")


@router.post("/reservations/{operation_id}:release")
async def release_reservation(operation_id: UUID, wired: Wired, body: ReservationRef | None = None) -> ReservationState:
    """Gives a hold back: nothing is owed. Idempotent; 409 where the operation was settled already."""
    key, state = await _find_reservation(wired, operation_id, body)
    if state == "held":
        async with wired.reads.acquire() as connection, connection.transaction():
            await lock_accounts(connection, [key.account_id])
            await close_holds(connection, [key], "released", only_due=False)
        _, state = await _find_reservation(wired, operation_id, body)
    if state not in ("released", "expired"):
        raise ProblemError(RESERVATION_CLOSED, f"the reservation of operation {operation_id} is {state}")
    return ReservationState(operation_id=operation_id, state=state)


@router.post("/reservations/{operation_id}:extend")
async def extend_reservation(
    operation_id: UUID, wired: Wired, body: ReservationExtension | None = None
) -> ReservationExtended:
    """Keeps an open hold for ``ttl_seconds`` from now (default: as for a new one); 409 where it is not open."""
    ttl_seconds = (body.ttl_seconds if body else None) or wired.ttl_seconds
    key, state = await _find_reservation(wired, operation_id, body)
    async with wired.reads.acquire() as connection, connection.transaction():
        await lock_accounts(connection, [key.account_id])
        expires_at = await extend_hold(connection, key, ttl_seconds)
    if expires_at is None:
        raise ProblemError(RESERVATION_CLOSED, f"the reservation of operation {operation_id} is {state}")
    return ReservationExtended(operation_id=operation_id, state="held", expires_at=expires_at.isoformat())


@router.get("/decisions/{operation_id}")
async def explain_decision(operation_id: UUID, wired: Wired, account_id: Name | None = None) -> Response:
    """The decision as it was given, what was asked, the state of its hold, and what the operation used in the end."""
    async with wired.reads.acquire() as connection:
        row = await find_decision(connection, operation_id, account_id)
    if row is None:
        raise ProblemError(NOT_FOUND, f"no limit check of operation {operation_id} is known")
    return json_response(decision_view(row))


async def _find_reservation(
    wired: Services, operation_id: UUID, ref: ReservationRef | None
) -> tuple[OperationKey, str]:
    async with wired.reads.acquire() as connection:
        row = await find_decision(connection, operation_id, ref.account_id if ref else None)
    if row is None or row["state"] == "denied":
        raise ProblemError(NOT_FOUND, f"operation {operation_id} has no reservation")
    return OperationKey(row["account_id"], operation_id), row["state"]
