"""`ledger reconcile`: a provider's invoice beside the ledger."""

import asyncio
import re
from datetime import UTC, date, datetime, tzinfo
from pathlib import Path
from typing import Annotated, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer
from pydantic import TypeAdapter, ValidationError
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from contracts.exit_codes import ExitCode
from contracts.identifiers import Name
from contracts.problems import ProblemError
from ledger_service.commands.database import messages, moment, output, own_settings, stop, stop_at
from ledger_service.commands.json_output import AsJsonLines, write_json
from ledger_service.commands.reconciliation_screen import show, show_next
from ledger_service.domain.reconciliation import Item, Status
from ledger_service.invoice_files import InvoiceError
from ledger_service.invoice_mappings import InvoiceMapping, MappingError, read_mapping, shipped
from ledger_service.reconciliation_files import Export, both, finding, proposed_view, summary, write_adjustments
from ledger_service.reconciling import TOLERANCE_SECONDS_MAX, Asked, Reconciliation, run_reconciliation
from ledger_service.store.migrations import MigrationError
from ledger_service.store.pool import OUT_OF_REACH, reason_of

TOLERANCE_SECONDS: Final = 300
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)


def reconcile(
    files: Annotated[list[Path], typer.Argument(help="The provider's CSV files.", show_default=False)],
    provider: Annotated[str, typer.Option(help="Whose they are, as the ledger names it.")],
    mapping: Annotated[
        str, typer.Option(help=f"How they are written: a YAML file, or one of {', '.join(sorted(shipped()))}.")
    ],
    start: Annotated[
        str | None, typer.Option("--from", help="2026-11-01, or RFC 3339; default: the files' first day.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="The same, exclusive; default: after their last day.")] = None,
    time_zone: Annotated[
        str, typer.Option(help="In which days begin; of files with sums it is the mapping's.")
    ] = "UTC",
    tolerance_seconds: Annotated[
        int, typer.Option(min=0, max=TOLERANCE_SECONDS_MAX, help="How far apart a line and an operation may be.")
    ] = TOLERANCE_SECONDS,
    export: Annotated[
        Path | None, typer.Option(help="A folder for all findings: findings.csv, findings.jsonl, summary.json.")
    ] = None,
    propose_adjustments: Annotated[
        Path | None, typer.Option(help="A file for the adjustments that would settle the differences.")
    ] = None,
    missing_to: Annotated[
        str | None, typer.Option(help="Propose to book lines that nobody here knows to this account.")
    ] = None,
    not_billed: Annotated[
        bool, typer.Option("--not-billed", help="Propose that what they did not bill costs nothing.")
    ] = False,
    as_json: AsJsonLines = False,
) -> None:
    """Compares a provider's invoice or usage export with the ledger, line by line, and changes nothing.

    As JSON: each finding that is no plain match, then the summary.

    Exit 0 where both agree; 1 where they do not, or a file or the database cannot be read; 2 for wrong options.
    """
    asked = Asked(
        _name("--provider", provider), _mapping(mapping), files, _day_or_moment(start), _day_or_moment(end),
        _zone(time_zone), tolerance_seconds,
    )  # fmt: skip
    account = None if missing_to is None else _name("--missing-to", missing_to)
    names = [path.name for path in files]
    writer = None
    try:
        writer = Export(export, names) if export is not None else None
        done = _run(asked, writer, names if as_json else None)
        if writer is not None:
            writer.finish(done)
        proposed = None
        if propose_adjustments is not None:
            proposals = done.proposals(account, not_billed=not_billed)
            proposed = write_adjustments(propose_adjustments, proposals, done.report.not_kept)
    except InvoiceError as error:
        raise stop_at(error.errors, f"nothing was compared: {error}") from None
    except ProblemError as error:
        raise stop_at(error.problem.errors, error.kind.title) from None
    except MigrationError as error:
        raise stop(str(error)) from None
    except OUT_OF_REACH as error:
        raise stop(_unreadable(error)) from None
    finally:
        if writer is not None:
            writer.give_up()
    if as_json:
        told = {} if proposed is None else {"proposals": proposed_view(proposed)}
        write_json({"result": {**summary(done), **told}})
    else:
        show(output(), done)
    show_next(messages(), done, export, propose_adjustments, proposed)
    if not done.report.agrees:
        raise typer.Exit(ExitCode.FAILED)


def _run(asked: Asked, writer: Export | None, json_names: list[str] | None) -> Reconciliation:
    def print_json(item: Item) -> None:
        if item.status is not Status.MATCHED and json_names is not None:
            write_json({"finding": finding(item, json_names)})

    sink = both(writer.add if writer else None, print_json if json_names is not None else None)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(show_speed=True), TimeElapsedColumn())
    screen = messages()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bar = progress.add_task("reading the files", total=None)

        def tell(what: str, done: int, of: int | None) -> None:
            progress.update(bar, description=what, completed=done, total=of)

        async def run() -> Reconciliation:
            database_url = own_settings().database_url
            return await run_reconciliation(database_url, asked, tell, sink)

        return asyncio.run(run())


def _day_or_moment(text: str | None) -> datetime | date | None:
    if text is not None and _DAY.fullmatch(text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            pass  # said below
    return moment(text)


def _mapping(named: str) -> InvoiceMapping:
    try:
        return read_mapping(named)
    except MappingError as error:
        raise stop_at(error.errors, str(error)) from None
    except OSError as error:
        known = ", ".join(sorted(shipped()))
        raise typer.BadParameter(f"{named}: {error.strerror or error}; shipped are {known}") from None


def _zone(name: str) -> tzinfo:
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise typer.BadParameter(f"--time-zone: {name} is no IANA name such as Europe/Berlin") from None


def _name(option: str, value: str) -> str:
    try:
        return _NAME.validate_python(value)
    except ValidationError as error:
        raise typer.BadParameter(f"{option}: {error.errors()[0]['msg']}") from None


def _unreadable(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return f"cannot reach the database: {reason_of(error)}. Check LEDGER_DATABASE_URL."
