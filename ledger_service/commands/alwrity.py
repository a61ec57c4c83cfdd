"""`ledger import-alwrity`: brings in what an ALwrity installation recorded, and says why the totals differ."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import orjson
import structlog
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from contracts.exit_codes import ExitCode
from contracts.money import format_nanos
from contracts.problems import ProblemError
from ledger_service.alwrity.files import FileRefusedError
from ledger_service.alwrity.importing import Options, import_files
from ledger_service.alwrity.reading import Broken, ImportRefusedError
from ledger_service.alwrity.report import Report
from ledger_service.commands.database import messages, output, own_settings, stop
from ledger_service.commands.json_output import AsJson, write_json
from ledger_service.domain.alwrity.standing import Period
from ledger_service.store.migrations import MigrationError, check_schema
from ledger_service.store.pool import OUT_OF_REACH, open_hot_pool, reason_of

#: Of periods, broken rows and notices that are shown; --json and --report have all.
SHOWN_MAX: Final = 60

Paths = Annotated[list[Path], typer.Argument(help="SQLite files of ALwrity, or folders with such files in them.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="The same report, and nothing is written.")]
ReportFile = Annotated[Path | None, typer.Option("--report", help="Write the report as JSON to this file, too.")]
SkipBroken = Annotated[
    bool, typer.Option("--skip-broken", help="Leave out rows that cannot be taken, instead of refusing all.")
]
UsageOnly = Annotated[bool, typer.Option("--usage-only", help="No plans, accounts and prices.")]
AccountPrefix = Annotated[str, typer.Option(help="Before each user's id, to name the user's account.")]
PlanPrefix = Annotated[str, typer.Option(help="Before each plan's name, to name the plan.")]


def import_alwrity(
    paths: Paths,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    report: ReportFile = None,
    skip_broken: SkipBroken = False,
    usage_only: UsageOnly = False,
    account_prefix: AccountPrefix = "",
    plan_prefix: PlanPrefix = "alwrity-",
) -> None:
    """Imports ALwrity's usage, plans, subscriptions and prices, one account per user.

    The ledger may be serving meanwhile. Safe to run again, also after it was broken off: what is there is not counted
    twice, wherever the files lie. The files are only read. All files are looked through before anything is written.

    Exit 0 where all of it is in the ledger; 1 where it was refused, broke off, or rows contradict the ledger; 2 for
    wrong options.
    """
    # Standard output is for the report.
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    if report is not None:
        _write(report, "")
    options = Options(dry_run, usage_only, skip_broken, account_prefix, plan_prefix)
    try:
        done = asyncio.run(_import(paths, options))
    except ImportRefusedError as error:
        raise _refused(error, as_json=as_json) from None
    except FileRefusedError as error:
        raise stop(f"{error}; run the same again with a file that can be read to its end") from None
    except MigrationError as error:
        raise stop(str(error)) from None
    except ProblemError as error:
        raise stop(error.problem.detail) from None
    except OUT_OF_REACH as error:
        raise stop(
            f"broke off: {reason_of(error)}",
            "Check LEDGER_DATABASE_URL and run the same again: it goes on where it ended, and adds nothing twice.",
        ) from None
    written = orjson.dumps(done.as_json(), option=orjson.OPT_INDENT_2).decode() + "\n"
    if report is not None:
        _write(report, written)
    if as_json:
        write_json(done.as_json())
    else:
        _show(done)
    if done.conflicts or done.refused:
        raise typer.Exit(ExitCode.FAILED)


async def _import(paths: Sequence[Path], options: Options) -> Report:
    pool = await open_hot_pool(own_settings().database_url, 2, "import")
    try:
        async with pool.acquire() as connection:
            await check_schema(connection)
        with _bars() as show:
            return await import_files(pool, paths, options, datetime.now(UTC), show)
    finally:
        await pool.close()


@contextmanager
def _bars() -> "Iterator[_Bars]":
    console = messages()
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield _Bars(progress)


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("copying", total=None)

    def __call__(self, step: str, done: int, of: int) -> None:
        self._progress.update(self._task, description=step, completed=done, total=of)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise stop(
            f"cannot write {path}: {error.strerror or error}",
            "Run it again, with another --report: it adds nothing twice.",
        ) from None


def _refused(error: ImportRefusedError, *, as_json: bool) -> typer.Exit:
    if as_json:
        problems = [dict(zip(Broken._fields, _cells(one), strict=True)) for one in error.broken]
        write_json({"count": error.count, "problems": problems})
    table = Table("file", "table", "row", "column", "rule", "why")
    for one in error.broken[:SHOWN_MAX]:
        table.add_row(*_cells(one))
    messages().print(table)
    more = error.count - min(len(error.broken), SHOWN_MAX)
    lines = [f"and {more} more"] if more else []
    if any(one.table for one in error.broken):
        lines.append("--skip-broken leaves such rows out, and says so in the report")
    return stop(str(error), *lines)


def _cells(one: Broken) -> tuple[str, ...]:
    return str(one.path), one.table, one.row, one.column, one.rule, one.message


def _show(done: Report) -> None:
    screen, said = output(), messages()
    if done.periods:
        screen.print(_table(done.periods[:SHOWN_MAX]))
    if len(done.periods) > SHOWN_MAX:
        said.print(f"and {len(done.periods) - SHOWN_MAX} more periods; --json has them")
    for title, lines in (
        ("Not counted", done.conflict_lines),
        ("Left as it is", done.terms.lines),
        ("Worth knowing", done.notices),
    ):
        if lines:
            said.print(f"{title}:", style="yellow")
        for line in lines[:SHOWN_MAX]:
            said.print(f"  - {line}", markup=False, soft_wrap=True)
        if len(lines) > SHOWN_MAX:
            said.print(f"  and {len(lines) - SHOWN_MAX} more; --json has them")
    for name, counts in (("plans", done.terms.plans), ("accounts", done.terms.accounts), ("prices", done.terms.prices)):
        if told := ", ".join(f"{number} {what}" for what, number in counts.items() if number):
            said.print(f"{name}: {told}")
    rows = {
        name: getattr(done, name) for name in ("new", "known", "repeated", "wrapped", "conflicts", "refused", "broken")
    }
    told = ", ".join(f"{number:,} {name}" for name, number in rows.items() if number)
    said.print(f"{done.rows:,} log rows: {told or 'none'}; {done.adjustments} adjustments", style="bold")
    if done.dry_run:
        said.print("nothing was written; the same without --dry-run does it")


def _table(periods: Sequence[Period]) -> Table:
    table = Table(title="Theirs and ours: all calls, failed ones included, and their cost in dollars")
    table.add_column("user", overflow="fold")
    table.add_column("period")
    for column in ("summary", "$", "rows say", "$", "ledger", "$"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("why they differ", overflow="fold")
    for one in periods:
        summary = ("", "") if one.summary is None else (str(one.summary.calls), _short(one.summary.cost_nanos))
        why = [f"{why.calls:+} calls, ${_short(why.cost_nanos)}: {why.text}" for why in one.reasons()]
        table.add_row(
            one.user_id, one.period, *summary, str(one.log.calls), _short(one.log.cost_nanos),
            str(one.ours.calls), _short(one.ours.cost_nanos), "\n".join([*why, *one.remarks()]),
        )  # fmt: skip
    return table


def _short(nanos: int) -> str:
    return format_nanos(nanos).rstrip("0").rstrip(".")
