"""Leases: allowances that a service fetches beforehand, for when it cannot reach the ledger."""

from uuid import UUID

from fastapi import APIRouter, Request, Response

from contracts.access.guard import bound_account
from contracts.leases import Lease, LeaseRequest, LeaseReturn, LeaseReturned
from ledger_service.api.access import LedgerRoute
from ledger_service.api.bodies import json_body, named_in_path, read_body
from ledger_service.calls import CHECK_BYTES_MAX
from ledger_service.services import services

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["leases"])

_JSON = "application/json"


@router.post("/leases", response_model=Lease, openapi_extra=json_body(LeaseRequest))
async def place_lease(request: Request) -> Response:
    """Holds the share of several operations at once, where the plan's fail mode for the caller is ``lease``.

    All or nothing. Idempotent: the same lease_id with the same body gets the same answer; with another body 409.
    """
    wired = await services(request)
    body = await read_body(request, CHECK_BYTES_MAX)
    return Response(await wired.calls.lease(body, bound_account(request)), media_type=_JSON)


@router.post("/leases/{lease_id}:return", response_model=LeaseReturned, openapi_extra=json_body(LeaseReturn))
async def return_lease(lease_id: UUID, request: Request) -> Response:
    """Gives back what is left of a lease. 403 without its token; 409 where it is over already."""
    wired = await services(request)
    body = await named_in_path(request, "lease_id", lease_id)
    return Response(await wired.calls.return_lease(body, bound_account(request)), media_type=_JSON)
