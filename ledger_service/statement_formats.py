"""Statements in the formats that the API and the command have in common."""

from datetime import date
from enum import StrEnum
from typing import assert_never

from contracts.problems import NOT_FOUND, ProblemError
from contracts.statements import Statement
from ledger_service.statement_views import statement_csv, statement_html
from ledger_service.store.accounts import find_account
from ledger_service.store.pool import Connection
from ledger_service.store.statements import read_statement


class Format(StrEnum):
    JSON = "json"
    CSV = "csv"
    HTML = "html"
    PDF = "pdf"


async def find_statement(connection: Connection, account_id: str, month: date, cursor: str | None) -> Statement:
    """The account's statement of a month in UTC (its first day); to be read in one snapshot. Raises ProblemError
    (not_found)."""
    if await find_account(connection, account_id) is None:
        raise ProblemError(NOT_FOUND, f"nothing is known of account {account_id}")
    return await read_statement(connection, account_id, month, cursor)


def written(statement: Statement, wanted: Format) -> bytes:
    """The statement as a file. A PDF with a thousand entries takes seconds: not for the event loop."""
    match wanted:
        case Format.JSON:
            return statement.model_dump_json().encode()
        case Format.CSV:
            return statement_csv(statement).encode()
        case Format.HTML:
            return statement_html(statement).encode()
        case Format.PDF:
            # A library of fonts comes with it: two fifths of what a ledger's start would take.
            from ledger_service.statement_pdfs import statement_pdf

            return statement_pdf(statement)
        case _:
            assert_never(wanted)
