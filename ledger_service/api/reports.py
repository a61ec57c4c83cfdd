"""Reports for finance and operations."""

from datetime import UTC, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from contracts.identifiers import Name
from contracts.moments import UtcMoment
from contracts.problems import INVALID_REQUEST, FieldError, ProblemError
from contracts.reports import EstimateReport
from ledger_service.api.access import LedgerRoute
from ledger_service.api.moments import Demanded, reading
from ledger_service.services import Services, services
from ledger_service.store.reports import DAYS_DEFAULT, read_estimates

router = APIRouter(route_class=LedgerRoute, prefix="/v1/reports", tags=["reports"])

Wired = Annotated[Services, Depends(services)]


@router.get("/estimates")
async def report_estimates(
    wired: Wired,
    demand: Demanded,
    response: Response,
    start: Annotated[UtcMoment | None, Query(alias="from", description="occurred_at, inclusive")] = None,
    end: Annotated[UtcMoment | None, Query(alias="to", description="occurred_at, exclusive")] = None,
    account_id: Name | None = None,
) -> EstimateReport:
    """How far off holds are: what checks held as cost beside what was settled, by provider, model and operation.

    Default: the last 30 days before ``to``, which is now.
    """
    async with reading(wired, demand) as read:
        end = (end or read.now).astimezone(UTC)
        start = (start or end - timedelta(days=DAYS_DEFAULT)).astimezone(UTC)
        if start >= end:
            error = FieldError(field="query.to", rule="period", message="to is later than from")
            raise ProblemError(INVALID_REQUEST, "query.to: to is later than from", [error])
        lines = await read_estimates(read.known, start, end, account_id)
    read.tell(response)
    return EstimateReport(start=start, end=end, account_id=account_id, lines=lines)
