"""Corrections of what was recorded."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response

from contracts.access.guard import bound_account, principal_of_request
from contracts.access.rules import not_your_account
from contracts.adjustments import Adjustment, AdjustmentKind, AdjustmentStored, Author
from contracts.identifiers import Name
from contracts.moments import UtcMoment
from contracts.problems import broken_rule
from contracts.usage_answers import UsageLogPage
from ledger_service.adjusting import adjust, try_adjustment
from ledger_service.api.access import LedgerRoute
from ledger_service.api.bodies import json_body, read_model
from ledger_service.api.moments import Demanded, reading, writing
from ledger_service.calls import CHECK_BYTES_MAX
from ledger_service.page_cursors import decode_cursor
from ledger_service.services import Services, services
from ledger_service.store.archives import refuse_archived, usage_log_begins
from ledger_service.store.usage import CorrectionFilter, read_corrections
from ledger_service.usage_views import corrections_view, json_response

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["corrections"])

Wired = Annotated[Services, Depends(services)]
AUTHOR_MAX = 128


def author_of(request: Request) -> str:
    """Who calls, as the log is told."""
    return principal_of_request(request).subject[:AUTHOR_MAX] or "unnamed"


@router.post("/adjustments", openapi_extra=json_body(Adjustment))
async def record_adjustment(
    request: Request,
    wired: Wired,
    response: Response,
    dry_run: Annotated[bool, Query(description="only say what would be recorded")] = False,
) -> AdjustmentStored:
    """Corrects what was recorded, by an event of its own: nothing that was recorded changes.

    Limits count it at once, in the windows of what it corrects. The same ``adjustment_id`` with the same body: the same
    answer, and no second effect. The author is whoever the token is of. With ``dry_run`` the answer, or the problem, is
    the same, and nothing is recorded.
    """
    wanted = await read_model(request, Adjustment, CHECK_BYTES_MAX)
    only = bound_account(request)
    if only not in (None, wanted.account_id):
        raise not_your_account()
    if dry_run:
        async with wired.writes.acquire() as connection:
            return await try_adjustment(connection, wanted, author_of(request))
    async with writing(wired.writes, response) as connection:
        return await adjust(connection, wanted, author_of(request))


@router.get("/adjustments", response_model=UsageLogPage)
async def list_adjustments(
    wired: Wired,
    demand: Demanded,
    start: Annotated[UtcMoment | None, Query(alias="from", description="recorded_at, inclusive")] = None,
    end: Annotated[UtcMoment | None, Query(alias="to", description="recorded_at, exclusive")] = None,
    account_id: Annotated[Name | None, Query(description="default: all")] = None,
    kind: Annotated[
        list[AdjustmentKind] | None, Query(max_length=len(AdjustmentKind), description="several times: any of them")
    ] = None,
    author: Annotated[Author | None, Query(description="who, as the log has it")] = None,
    cursor: Annotated[str | None, Query(max_length=400)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Corrections of all accounts, or of one, newest first by when they were **recorded**, as the usage log has them.
    ``next_cursor`` goes on where a page ended.

    A correction stands in the usage log at the time of what it corrects (``occurred_at``), and counts there. Where
    there is ``archived_before``, those that are booked in months before that one are in archives, and not here.
    """
    if start is not None and end is not None and start >= end:
        raise broken_rule("query.to", "period", "the range ends before it begins")
    after = decode_cursor(cursor, _place) if cursor else None
    chosen = CorrectionFilter(account_id, start, end, kind, author)
    async with reading(wired, demand) as read:
        begins = await usage_log_begins(read.connection)
        if start is not None:
            await refuse_archived(read.connection, start, "the list")
        rows = await read_corrections(read.known, chosen, after, limit)
    return read.tell(json_response(corrections_view(rows, limit, begins)))


def _place(recorded_at: datetime, account_id: str, operation_id: str) -> tuple[datetime, str, UUID]:
    return recorded_at, account_id, UUID(operation_id)
