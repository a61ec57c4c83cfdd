"""`ledger report …`: reports on the command line."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.table import Table

from contracts.money import format_nanos
from contracts.reports import EstimateLine, EstimateReport
from ledger_service.commands.database import messages, moment, output, shown, with_database
from ledger_service.commands.json_output import AsJson, write_json
from ledger_service.store.reports import DAYS_DEFAULT, read_estimates

app = typer.Typer(no_args_is_help=True, help="Reports over what was recorded.")


@app.callback()
def _report() -> None:
    """Keeps `estimates` a subcommand while it is the only one."""


@app.command()
def estimates(
    start: Annotated[str | None, typer.Option("--from", help="2026-11-01, or RFC 3339; inclusive.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="The same, exclusive; default: now.")] = None,
    account_id: Annotated[str | None, typer.Option(help="Of one account only.")] = None,
    as_json: AsJson = False,
) -> None:
    """How far off holds are: what checks held as cost beside what was settled, by default of the last 30 days."""
    until = moment(end) or datetime.now(UTC)
    since = moment(start) or until - timedelta(days=DAYS_DEFAULT)
    if since >= until:
        raise typer.BadParameter("--to is later than --from")
    lines = with_database(lambda connection: read_estimates(connection, since, until, account_id))
    if as_json:
        write_json(EstimateReport(start=since, end=until, account_id=account_id, lines=lines))
    else:
        output().print(_table(lines))
    messages().print(f"operations that occurred from {shown(since)} until before {shown(until)}, UTC")


def _table(lines: list[EstimateLine]) -> Table:
    table = Table("provider", "model", "operation")
    for title in ("settled", "held $", "settled $", "settled/held", "p50", "p95", "held 0", "above", "by at worst $"):
        table.add_column(title, justify="right")
    for line in lines:
        table.add_row(
            line.provider,
            line.model,
            line.operation,
            str(line.operations),
            format_nanos(line.held),
            format_nanos(line.settled),
            _ratio(line.ratio),
            _ratio(line.p50),
            _ratio(line.p95),
            str(line.held_at_nothing),
            str(line.above),
            format_nanos(line.worst_above) if line.above else "",
        )
    return table


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.4f}"
