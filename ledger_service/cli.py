"""The ``ledger`` command."""

from typing import Annotated, Final

import typer

from contracts.exit_codes import EXIT_CODES
from contracts.version import VERSION
from ledger_service.arrow_start import lean_arrow
from ledger_service.commands.lazily import lazy_group

#: Each command's module is read when the command is called: most need little of what the others do.
COMMANDS: Final = {
    "archive": "archives:archive",
    "archives": "archives:list_archives",
    "adjust": "corrections:adjust",
    "adjust-all": "adjustment_files:adjust_all",
    "backtest": "backtests:backtest",
    "close-gap": "gaps:close_gap",
    "dead-letters": "dead_letters:app",
    "doctor": "doctor:doctor",
    "export": "exports:export",
    "import-alwrity": "alwrity:import_alwrity",
    "migrate": "migration:migrate",
    "periods": "periods:app",
    "prices": "prices:app",
    "rebuild": "rebuilds:rebuild",
    "reconcile": "reconciliation:reconcile",
    "report": "reports:app",
    "reprice": "corrections:reprice",
    "seals": "seals:app",
    "statement": "statements:statement",
    "tokens": "tokens:app",
    "unarchive": "archives:unarchive",
    "verify": "rebuilds:verify",
    "webhooks": "webhooks:app",
}

app = typer.Typer(
    cls=lazy_group(COMMANDS),
    no_args_is_help=True,
    help="Works on a ledger's database and stream; see LEDGER_* for where they are.",
    epilog=EXIT_CODES,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def ledger(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version, and end.")
    ] = False,
) -> None:
    """Without one of its own, typer takes a group for a single command."""


def main() -> None:
    lean_arrow()
    app()


if __name__ == "__main__":
    main()
