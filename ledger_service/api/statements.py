"""Statements of accounts."""

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Response

from contracts.identifiers import Name
from contracts.periods import Month, first_day
from contracts.statements import Cursor, Statement
from ledger_service.api.access import LedgerRoute
from ledger_service.api.moments import Demanded, reading
from ledger_service.services import Services, services
from ledger_service.statement_formats import Format, find_statement, written
from ledger_service.store.archives import refuse_archived

router = APIRouter(route_class=LedgerRoute, prefix="/v1/accounts/{account_id}", tags=["periods"])

Wired = Annotated[Services, Depends(services)]


#: Each with its media type, and whether it is shown or kept.
_TYPES: Final = {
    Format.JSON: ("application/json", None),
    Format.CSV: ("text/csv", "attachment"),
    Format.HTML: ("text/html", None),
    Format.PDF: ("application/pdf", "inline"),
}


@router.get(
    "/statements/{period}",
    response_model=Statement,
    responses={
        200: {"content": {"text/csv": {}, "text/html": {}, "application/pdf": {}}, "description": "The statement"}
    },
)
async def read_account_statement(
    account_id: Name,
    period: Month,
    wired: Wired,
    demand: Demanded,
    wanted: Annotated[Format, Query(alias="format", description="json, csv, html, or pdf")] = Format.JSON,
    cursor: Annotated[Cursor | None, Query(description="next_cursor of the page before")] = None,
) -> Response:
    """What the account used in a month (UTC), what came late for others, and every correction, with who and why.

    At most a thousand late arrivals and corrections are listed one by one; those beyond are summed up in ``rest``, and
    come with ``next_cursor``.

    Of a closed period it never changes, in any format.
    """
    async with reading(wired, demand) as read:
        if read.as_of is not None:  # its opening adds up all that was recorded before
            await refuse_archived(read.connection, None, "a statement of an earlier moment")
        statement = await find_statement(read.known, account_id, first_day(period), cursor)
    media_type, disposition = _TYPES[wanted]
    # They may be opened by a browser: nothing in them is to run.
    headers = {**read.headers, "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
    if disposition:
        headers["Content-Disposition"] = f'{disposition}; filename="statement-{period}.{wanted}"'
    return Response(await asyncio.to_thread(written, statement, wanted), media_type=media_type, headers=headers)
