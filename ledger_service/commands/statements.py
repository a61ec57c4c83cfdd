"""`ledger statement`: what an account used in a month, as every format of the API."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from contracts.identifiers import Name
from contracts.periods import Month, first_day
from contracts.statements import Cursor, Statement
from ledger_service.commands.database import answer_or_stop, messages, read_options, stop
from ledger_service.commands.json_output import AsJson, write_json
from ledger_service.statement_formats import Format, find_statement, written
from ledger_service.store.pool import Connection


class _Wanted(BaseModel):
    account: Name
    period: Month
    cursor: Cursor | None


def statement(
    account: Annotated[str, typer.Argument(help="The account.")],
    period: Annotated[str, typer.Argument(help="The month in UTC, as 2026-09.")],
    wanted: Annotated[Format, typer.Option("--format", help="As what.")] = Format.JSON,
    file: Annotated[Path | None, typer.Option("--output", "-o", help="Write it there, which must be new.")] = None,
    cursor: Annotated[str | None, typer.Option(help="next_cursor of the statement before: its next entries.")] = None,
    as_json: AsJson = False,
) -> None:
    """Writes an account's statement, as `GET /v1/accounts/…/statements/…` does, byte for byte.

    Exit 0 with the statement; 1 where there is none, or it cannot be written; 2 for wrong options.
    """
    asked = read_options(_Wanted, {"account": account, "period": period, "cursor": cursor})
    if as_json and file is None and wanted is not Format.JSON:
        raise typer.BadParameter("--json and --format are two ways to say as what: give --output FILE, or one of them")
    if file is None and wanted is Format.PDF and sys.stdout.isatty():
        raise typer.BadParameter("a PDF is nothing for a terminal: give --output FILE")

    async def read(connection: Connection) -> Statement:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return await find_statement(connection, asked.account, first_day(asked.period), asked.cursor)

    found = answer_or_stop(read)
    with messages().status("writing the statement"):
        content = written(found, wanted)
    if file is None:
        sys.stdout.buffer.write(content)
        return
    try:
        with file.open("xb") as opened:
            opened.write(content)
    except FileExistsError:
        raise stop(f"{file} exists already; nothing was written") from None
    except OSError as error:
        raise stop(f"cannot write {file}: {error.strerror or error}") from None
    if as_json:
        told = {"output": str(file), "format": wanted, "bytes": len(content), "closed": found.closed}
        write_json({**told, "next_cursor": found.next_cursor})
    messages().print(f"{file}: {'closed' if found.closed else 'still open, its figures may change'}")
