"""Statements of accounts."""

import asyncio
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from contracts.identifiers import Name
from contracts.periods import Month, first_day
from contracts.problems import NOT_FOUND, ProblemError
from contracts.statements import Statement
from ledger_service.api.access import LedgerRoute
from ledger_service.api.moments import Demanded, reading
from ledger_service.services import Services, services
from ledger_service.statement_views import statement_csv, statement_html, statement_pdf
from ledger_service.store.accounts import find_account
from ledger_service.store.statements import read_statement

router = APIRouter(route_class=LedgerRoute, prefix="/v1/accounts/{account_id}", tags=["periods"])

Wired = Annotated[Services, Depends(services)]


class Format(StrEnum):
    JSON = "json"
    CSV = "csv"
    HTML = "html"
    PDF = "pdf"


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
) -> Response:
    """What the account used in a month (UTC), what came late for others, and every correction, with who and why.

    Of a closed period it never changes, in any format.
    """
    async with reading(wired, demand) as read:
        if await find_account(read.known, account_id) is None:
            raise ProblemError(NOT_FOUND, f"nothing is known of account {account_id}")
        statement = await read_statement(read.known, account_id, first_day(period))
    # They may be opened by a browser: nothing in them is to run.
    headers = {**read.headers, "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
    match wanted:
        case Format.JSON:
            return Response(statement.model_dump_json(), media_type="application/json", headers=read.headers)
        case Format.CSV:
            headers["Content-Disposition"] = f'attachment; filename="statement-{period}.csv"'
            return Response(statement_csv(statement), media_type="text/csv", headers=headers)
        case Format.HTML:
            return Response(statement_html(statement), media_type="text/html", headers=headers)
        case Format.PDF:
            headers["Content-Disposition"] = f'inline; filename="statement-{period}.pdf"'
            written = await asyncio.to_thread(statement_pdf, statement)
            return Response(written, media_type="application/pdf", headers=headers)
