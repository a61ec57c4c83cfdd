"""`ledger adjust` and `ledger reprice`: corrections from the command line."""

from collections.abc import Sequence
from typing import Annotated, Final

import typer
from pydantic import BaseModel
from rich.table import Table

from contracts.adjustments import Adjustment, AdjustmentStored, Author
from contracts.identifiers import uuid7
from contracts.money import format_nanos
from contracts.repricings import Difference, Repricing, RepricingResult
from ledger_service.adjusting import adjust as record_adjustment
from ledger_service.commands.database import answer_or_stop, messages, moment, output, own_settings, read_options, shown
from ledger_service.commands.json_output import AsJson, write_json
from ledger_service.commands.progress import watched
from ledger_service.repricing import run_repricing
from ledger_service.store import event_log
from ledger_service.store.pool import Connection

#: Of accounts and models; --json has more.
ROWS_SHOWN: Final = 20

By = Annotated[str, typer.Option("--author", help="Who does it; kept in the log.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the log.")]


class _Author(BaseModel):
    author: Author


def adjust(
    kind: Annotated[str, typer.Argument(help="adjustment (free amounts), void, or rerate.")],
    author: By,
    reason: Reason,
    account: Annotated[str, typer.Option("--account", help="The account that it is about.")],
    operation_id: Annotated[str | None, typer.Option("--of", help="The operation that it corrects.")] = None,
    of_adjustment: Annotated[str | None, typer.Option("--of-adjustment", help="Or the adjustment.")] = None,
    cost: Annotated[str | None, typer.Option(help="Dollars to add, -0.25 for one; of rerate, the new cost.")] = None,
    calls: Annotated[int | None, typer.Option(help="Calls to add, or to take off: -1.")] = None,
    units: Annotated[int | None, typer.Option(help="The same for units.")] = None,
    failures: Annotated[int | None, typer.Option(help="The same for failures.")] = None,
    user: Annotated[str | None, typer.Option("--user", help="Free amounts: for this user.")] = None,
    project: Annotated[str | None, typer.Option("--project", help="For this project.")] = None,
    api_key: Annotated[str | None, typer.Option("--api-key", help="For this key.")] = None,
    operation: Annotated[str | None, typer.Option(help="As this operation type.")] = None,
    provider: Annotated[str | None, typer.Option(help="As of this provider.")] = None,
    model: Annotated[str | None, typer.Option(help="As of this model.")] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="When it counts (2026-11-01, or RFC 3339); default: now.")
    ] = None,
    adjustment_id: Annotated[
        str | None, typer.Option("--id", help="The adjustment's own id, a UUIDv7: the same one again adds nothing.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Corrects what was recorded, by an event of its own: nothing that was recorded changes.

    Exit 0 where it is in the log now; 1 where the ledger refuses it; 2 for wrong options.
    """
    reference = {"operation_id": operation_id, "adjustment_id": of_adjustment}
    given = {
        "adjustment_id": adjustment_id or str(uuid7()),
        "account_id": account,
        "kind": kind,
        "reason": reason,
        "reference": {name: value for name, value in reference.items() if value is not None} or None,
        "calls": calls,
        "units": units,
        "failures": failures,
        "cost": cost,
        "user_id": user,
        "project_id": project,
        "api_key_id": api_key,
        "operation": operation,
        "provider": provider,
        "model": model,
        "occurred_at": moment(at),
    }
    wanted, who = read_options(Adjustment, given), read_options(_Author, {"author": author}).author

    async def run(connection: Connection) -> AdjustmentStored:
        await event_log.prepare_connection(connection)
        return await record_adjustment(connection, wanted, who)

    stored = answer_or_stop(run)
    if as_json:
        write_json(stored)
        return
    table = Table("adjustment", "calls", "units", "failures", "cost $", "counts at")
    amounts = [str(number) for number in (stored.calls, stored.units, stored.failures)]
    table.add_row(str(stored.adjustment_id), *amounts, format_nanos(stored.cost), shown(stored.counted_at))
    output().print(table)
    if stored.cost_before is not None and stored.cost_after is not None:
        before, after = format_nanos(stored.cost_before), format_nanos(stored.cost_after)
        messages().print(f"the operation came to ${before}, and comes to ${after} now")


def reprice(
    start: Annotated[str, typer.Option("--from", help="Admitted at 2026-11-01, or an RFC 3339 time, or later.")],
    end: Annotated[str, typer.Option("--to", help="Admitted before.")],
    author: By,
    reason: Reason,
    account: Annotated[str | None, typer.Option("--account", help="Of one account; default: all.")] = None,
    provider: Annotated[str | None, typer.Option(help="Of this provider only.")] = None,
    operation: Annotated[str | None, typer.Option(help="Of this operation type only.")] = None,
    model: Annotated[str | None, typer.Option(help="Of this model only.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Record it. Without, nothing is changed.")] = False,
    repricing_id: Annotated[
        str | None, typer.Option("--id", help="Of one that broke off: it goes on, and adds nothing twice.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rates completed operations again by the prices in force when they were admitted: first as a dry run.

    Exit 0 with the differences; 1 where the ledger refuses it, or it broke off; 2 for wrong options.
    """
    given = {
        "repricing_id": repricing_id or str(uuid7()),
        "from": moment(start),
        "to": moment(end),
        "reason": reason,
        "account_id": account,
        "operation": operation,
        "provider": provider,
        "model": model,
        "dry_run": not apply,
    }
    wanted, who = read_options(Repricing, given), read_options(_Author, {"author": author}).author
    if apply:
        messages().print(f"repricing {wanted.repricing_id}; should it break off, `--id {wanted.repricing_id}` goes on")
    result = answer_or_stop(lambda _: watched(run_repricing(own_settings().database_url, wanted, who)))
    if as_json:
        write_json({"result": result})
        return
    _show(result)
    if not apply:
        messages().print("nothing was changed; the same with --apply records it")


def _show(result: RepricingResult) -> None:
    screen, total = output(), result.total
    what = "changed" if result.applied else "would change"
    screen.print(
        f"of {result.looked_at} operations {total.operations} {what}, from ${format_nanos(total.before)} to "
        f"${format_nanos(total.after)}: {_signed(total)}",
        highlight=False,
    )
    for title, rows in (
        ("account", [((one.account_id,), one) for one in result.by_account]),
        ("model", [((f"{one.provider}/{one.operation}/{one.model}",), one) for one in result.by_model]),
        ("day", [((one.day.isoformat(),), one) for one in result.by_day]),
    ):
        if rows:
            screen.print(_table(title, rows if title == "day" else rows[:ROWS_SHOWN]))
        if title != "day" and len(rows) > ROWS_SHOWN:
            messages().print(f"and {len(rows) - ROWS_SHOWN} more; --json has them")
    left = {name: getattr(result, name) for name in ("unchanged", "voided", "unpriced", "ambiguous", "earlier")}
    told = ", ".join(f"{number} {name}" for name, number in left.items() if number)
    messages().print(f"left as they are: {told or 'none'}")


def _table(title: str, rows: Sequence[tuple[tuple[str, ...], Difference]]) -> Table:
    table = Table()
    table.add_column(title, overflow="fold")
    for column in ("operations", "before $", "after $", "difference $"):
        table.add_column(column, justify="right")
    for names, one in rows:
        table.add_row(*names, str(one.operations), format_nanos(one.before), format_nanos(one.after), _signed(one))
    return table


def _signed(one: Difference) -> str:
    return f"{'+' if one.difference > 0 else ''}{format_nanos(one.difference)}"
