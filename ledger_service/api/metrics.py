"""What the ledger tells Prometheus, over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from contracts.metrics import CONTENT_TYPE
from ledger_service.api.access import LedgerRoute
from ledger_service.services import Services, services

router = APIRouter(route_class=LedgerRoute, tags=["health"])


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
async def read_metrics(wired: Annotated[Services, Depends(services)]) -> Response:
    """Prometheus' text format. Gauges of what is in the database are left out while it cannot be reached."""
    return Response(await wired.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})
