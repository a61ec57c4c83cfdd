"""`ledger periods …`: months that close, from the command line."""

from typing import Annotated, Final

import typer
from pydantic import BaseModel
from rich.table import Table

from contracts.adjustments import Author, Reason
from contracts.identifiers import Name
from contracts.periods import Month, PeriodClosing
from ledger_service.closing import close_period
from ledger_service.commands.database import answer_or_stop, messages, output, read_options, say_if_unknown, shown
from ledger_service.commands.json_output import AsJsonLines, write_json_lines
from ledger_service.store.periods import list_closings
from ledger_service.store.pool import Connection

app = typer.Typer(no_args_is_help=True, help="Months (UTC) that close: their totals then never change.")

ROWS_MAX: Final = 100_000


class _Close(BaseModel):
    account: Name | None
    period: Month
    author: Author
    reason: Reason


class _Of(BaseModel):
    account: Name | None


@app.command()
def close(
    period: Annotated[str, typer.Argument(help="The month, as 2026-09; it must be over. All before it close with it.")],
    author: Annotated[str, typer.Option("--author", help="Who does it; kept in the log.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the log.")],
    account: Annotated[str | None, typer.Option("--account", help="Of one account; default: of all.")] = None,
    as_json: AsJsonLines = False,
) -> None:
    """Closes a month for good. What comes later for it is booked in the first month that is open.

    Closed already: no change, and what closed it. Exit 0 where it is closed now; 1 where the ledger refuses it; 2 for
    wrong options.
    """
    given = {"account": account, "period": period, "author": author, "reason": reason}
    wanted = read_options(_Close, given)
    closing = answer_or_stop(
        lambda connection: close_period(connection, wanted.account, wanted.period, wanted.author, wanted.reason)
    )
    _show([closing], as_json)
    whose = f"account {closing.account_id}" if closing.account_id else "all accounts"
    messages().print(f"{wanted.period} and all before it are closed for {whose}, since {shown(closing.closed_at)}")


@app.command("list")
def list_(
    account: Annotated[str | None, typer.Option("--account", help="What is closed for this account.")] = None,
    as_json: AsJsonLines = False,
) -> None:
    """Shows what was closed, by whom and why."""
    wanted = read_options(_Of, {"account": account})

    async def read(connection: Connection) -> list[PeriodClosing]:
        await say_if_unknown(connection, wanted.account)
        return await list_closings(connection, wanted.account, ROWS_MAX)

    found = answer_or_stop(read)
    _show(found, as_json)
    if not found:
        messages().print("nothing is closed yet; `ledger periods close 2026-09 …` closes a month that is over")


def _show(closings: list[PeriodClosing], as_json: bool) -> None:
    if as_json:
        write_json_lines(closings)
    elif closings:
        table = Table("through", "account", "closed", "by", "why")
        for one in closings:
            table.add_row(one.period, one.account_id or "all", shown(one.closed_at), one.author, one.reason)
        output().print(table)
