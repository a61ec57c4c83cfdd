"""Limit checks, reservations, and the decision explained."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from contracts.access.guard import bound_account
from contracts.explained_answers import ExplainedDecision
from contracts.identifiers import Name
from contracts.limits import Decision, LimitCheck, LimitCheckBatch, LimitCheckBatchAnswer
from contracts.problems import NOT_FOUND, ProblemError
from contracts.reservations import ReservationExtension, ReservationMove, ReservationRef, ReservationState
from ledger_service.api.access import LedgerRoute
from ledger_service.api.bodies import json_body, named_in_path, read_body
from ledger_service.api.moments import Demanded, reading
from ledger_service.calls import BATCH_BYTES_MAX, CHECK_BYTES_MAX
from ledger_service.explanations import explain
from ledger_service.services import Services, services
from ledger_service.usage_views import json_response

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["limit checks"])

Wired = Annotated[Services, Depends(services)]
_JSON = "application/json"


@router.post("/limit-checks", response_model=Decision, openapi_extra=json_body(LimitCheck))
async def check_limits(request: Request) -> Response:
    """Decides whether the operation may proceed, and holds its share of every limit if so.

    Idempotent: the same operation_id with the same body gets the same answer; with another body 409.
    """
    wired = await services(request)
    return Response(
        await wired.calls.check(await read_body(request, CHECK_BYTES_MAX), bound_account(request)), media_type=_JSON
    )


@router.post("/limit-checks:batch", response_model=LimitCheckBatchAnswer, openapi_extra=json_body(LimitCheckBatch))
async def check_many_limits(request: Request) -> Response:
    """Up to 1,000 checks, each decided on its own; what is wrong with one is its own answer."""
    wired = await services(request)
    body = await read_body(request, BATCH_BYTES_MAX)
    return Response(await wired.calls.check_batch(body, bound_account(request)), media_type=_JSON)


@router.post(
    "/reservations/{operation_id}:release", response_model=ReservationState, openapi_extra=json_body(ReservationRef)
)
async def release_reservation(operation_id: UUID, request: Request) -> Response:
    """Gives a hold back: nothing is owed. Idempotent; 409 where the operation was settled already."""
    wired = await services(request)
    body = await named_in_path(request, "operation_id", operation_id)
    return Response(await wired.calls.release(body, bound_account(request)), media_type=_JSON)


@router.post(
    "/reservations/{operation_id}:extend",
    response_model=ReservationState,
    openapi_extra=json_body(ReservationExtension),
)
async def extend_reservation(operation_id: UUID, request: Request) -> Response:
    """Keeps an open hold for ``ttl_seconds`` from now (default: as for a new one); 409 where it is not open."""
    wired = await services(request)
    body = await named_in_path(request, "operation_id", operation_id)
    return Response(await wired.calls.extend(body, bound_account(request)), media_type=_JSON)


@router.post("/reservations/{operation_id}:move", response_model=Decision, openapi_extra=json_body(ReservationMove))
async def move_reservation(operation_id: UUID, request: Request) -> Response:
    """Moves an open hold to another provider and model, for the same operation, where all limits have room for that.

    In one step: what is held now does not count against it. Denied, everything is as it was. The same move again gets
    the same answer; 409 where the hold is over, or is not the one that was decided at ``placed_at`` any more.
    """
    wired = await services(request)
    body = await named_in_path(request, "operation_id", operation_id)
    return Response(await wired.calls.move(body, bound_account(request)), media_type=_JSON)


@router.get("/decisions/{operation_id}", response_model=ExplainedDecision)
async def explain_decision(
    operation_id: UUID, wired: Wired, demand: Demanded, account_id: Name | None = None
) -> Response:
    """The decision as it was given, what was asked, the state of its hold, and what the operation used in the end.

    ``binding_limit``: the limit that denied, or had least room left, as it was then; what it had settled and held then
    and now; the holds that were open then; where the rows of the usage log are that make up what is settled now.
    """
    async with reading(wired, demand) as read:
        explained = await explain(read.known, operation_id, account_id, is_past=read.as_of is not None)
    if explained is None:
        raise ProblemError(NOT_FOUND, f"no limit check of operation {operation_id} is known")
    return read.tell(json_response(explained))
