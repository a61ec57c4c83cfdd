"""`ledger archive`, `ledger unarchive` and `ledger archives`: closed months of the usage log in files."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Final, TypeVar

import pyarrow
import typer
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from contracts.money import format_nanos
from contracts.periods import first_day
from ledger_service import archiving, rebuilding
from ledger_service.archive_files import ArchiveFileError
from ledger_service.archiving import ArchiveRefusedError
from ledger_service.commands.database import messages, output, own_settings, stop, with_database
from ledger_service.commands.json_output import AsJson, write_json
from ledger_service.rebuilding import RebuildRefusedError, RebuildUnfinishedError
from ledger_service.store import archives
from ledger_service.store.archives import Archive
from ledger_service.store.pool import Connection
from ledger_service.verification import JOBS_DEFAULT

Folder = Annotated[Path | None, typer.Option("--dir", help="The folder of archives. Default: LEDGER_ARCHIVE_FOLDER.")]
Answer = TypeVar("Answer")
#: Before it, nothing is in the ledger.
_FIRST_YEAR: Final = 2000


def archive(
    before: Annotated[str | None, typer.Option(help="Months before this one: 2026-01.")] = None,
    keep_months: Annotated[
        int | None,
        typer.Option(min=2, help="Or so many stay, the current one included. Default: LEDGER_ARCHIVE_KEEP_MONTHS."),
    ] = None,
    folder: Folder = None,
    dry_run: Annotated[bool, typer.Option(help="Only say which months that are.")] = False,
    as_json: AsJson = False,
) -> None:
    """Writes closed months of the usage log to Parquet files, reads them back, and takes their rows out of the table.

    The log keeps every event, and every total stays. Ended at any moment, it is called again and goes on. Exit 0 where
    all of it is done, else 1; 2 for wrong options.
    """
    end, place = _before(before, keep_months), _folder(folder)
    told: list[dict[str, object]] = []

    async def work(connection: Connection) -> None:
        months = await archiving.plan(connection, end)
        if dry_run or not months:
            said = ", ".join(f"{month:%Y-%m}" for month in months)
            messages().print(f"to be archived: {said}" if said else f"nothing before {end:%Y-%m} is to be archived")
            told.extend({"month": f"{month:%Y-%m}"} for month in months)
            return
        with _screen() as screen:
            for month in months:
                done = await archiving.archive(connection, month, place, screen)
                if done is not None:
                    screen.say(f"{month:%Y-%m}: {done.rows:,} rows in {place / done.file}, {done.bytes / 1e6:,.1f} MB")
                    told.append(_as_json(done, None))
            await connection.execute("vacuum (analyze) usage_log")
        messages().print(
            "The room that they had in the table is used again; see deploy/guides/storage.md.", style="green"
        )

    _run(work)
    if as_json:
        write_json({"before": f"{end:%Y-%m}", "dry_run": dry_run, "months": told})


def unarchive(
    since: Annotated[str, typer.Option(help="This month and all later ones: 2026-01.")],
    folder: Folder = None,
    from_log: Annotated[
        bool, typer.Option("--from-log", help="Without their files: the log is read, all of it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Brings archived months back into the usage log, the newest first. Their files stay.

    Ended at any moment, it is called again and goes on. Exit 0 where all of it is done, else 1; 2 for wrong options.
    """
    begin = _month(since)
    if from_log:
        told = _recover(begin)
        if as_json:
            write_json(told)
        return
    place, rows, months = _folder(folder), 0, list[str]()

    async def work(connection: Connection) -> None:
        nonlocal rows
        found = [one for one in await archives.list_archives(connection) if one.month >= begin]
        if not found:
            messages().print(f"nothing since {begin:%Y-%m} is in an archive")
        with _screen() as screen:
            for one in reversed(found):
                await archiving.restore(connection, one, place, screen)
                screen.say(f"{one.month:%Y-%m}: {one.rows:,} rows are in the table again")
                rows += one.rows
                months.append(f"{one.month:%Y-%m}")

    _run(work)
    if as_json:
        write_json({"rows": rows, "months": months})


def _recover(begin: date) -> dict[str, object]:
    told: dict[str, object] = {}

    async def work(connection: Connection) -> None:
        months = [one.month for one in await archives.list_archives(connection) if one.month >= begin]
        settings = own_settings()
        url = settings.owner_database_url or settings.database_url
        rows = await archiving.recover(url, months, rebuilding.Progress(), JOBS_DEFAULT)
        messages().print(f"{rows:,} rows were put back from the log, {len(months)} months are in the table again")
        told.update(rows=rows, months=[f"{month:%Y-%m}" for month in months])

    _refusing(work)
    return told


def list_archives(
    check: Annotated[
        bool, typer.Option("--check", help="Read every file back and compare it with the usage summary.")
    ] = False,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """The months of the usage log that are in files. Exit 1 where a file is not what was written."""
    place = _folder(folder) if check else None
    found, wrong = with_database(lambda connection: _look(connection, place))
    if as_json:
        write_json([_as_json(one, wrong.get(one.month)) for one in found])
    else:
        table = Table("month", "state", "file", "rows", "MB", "calls", "cost", *(["checked"] if check else []))
        for one in found:
            cells = [f"{one.month:%Y-%m}", one.state.value, one.file, f"{one.rows:,}", f"{one.bytes / 1e6:,.1f}"]
            cells += [f"{one.figures.calls:,}", format_nanos(one.figures.cost_nanos)]
            table.add_row(*cells, *(["wrong" if one.month in wrong else "whole"] if check else []))
        output().print(table)
    if wrong:
        raise stop(
            f"{len(wrong)} of {len(found)} archives are not what was written",
            *(f"  {month:%Y-%m}: {why}" for month, why in wrong.items()),
            "The log has all of their events: see deploy/guides/storage.md.",
        )


async def _look(connection: Connection, folder: Path | None) -> tuple[list[Archive], dict[date, str]]:
    found, wrong = await archives.list_archives(connection), {}
    for one in found if folder is not None else []:
        assert folder is not None
        try:
            await archiving.check(connection, one, folder)
        except (ArchiveFileError, ArchiveRefusedError, OSError, pyarrow.ArrowException) as error:
            wrong[one.month] = str(error)
    return found, wrong


def _as_json(one: Archive, wrong: str | None) -> dict[str, object]:
    return {
        "month": f"{one.month:%Y-%m}", "state": one.state.value, "file": one.file, "sha256": one.digest.hex(),
        "bytes": one.bytes, "rows": one.rows, "calls": one.figures.calls, "units": one.figures.units,
        "failures": one.figures.failures, "cost": format_nanos(one.figures.cost_nanos), "wrong": wrong,
    }  # fmt: skip


def _run(work: Callable[[Connection], Awaitable[None]]) -> None:
    async def checked(_: Connection) -> None:
        settings = own_settings()
        async with archiving.alone(settings.owner_database_url or settings.database_url) as connection:
            await work(connection)

    _refusing(checked)


def _refusing(work: Callable[[Connection], Awaitable[None]]) -> None:
    try:
        with_database(work, whole_tables=True)
    except (ArchiveRefusedError, ArchiveFileError, RebuildRefusedError, RebuildUnfinishedError) as error:
        raise stop(str(error), "What was done by then stays done; the rest is as it was.") from None
    except pyarrow.ArrowException as error:
        raise stop(f"the file cannot be read or written: {error}") from None


def _folder(folder: Path | None) -> Path:
    chosen = folder or own_settings().archive_folder
    if chosen is None:
        raise typer.BadParameter("say --dir, or set LEDGER_ARCHIVE_FOLDER: where the files are")
    return chosen


def _before(before: str | None, keep_months: int | None) -> date:
    keep = keep_months or own_settings().archive_keep_months
    if before is not None and keep_months is not None:
        raise typer.BadParameter("say either --before or --keep-months")
    if before is not None:
        return _month(before)
    if keep is None:
        raise typer.BadParameter("say --before or --keep-months, or set LEDGER_ARCHIVE_KEEP_MONTHS")
    now = datetime.now(UTC)
    months = max(now.year * 12 + now.month - keep, _FIRST_YEAR * 12)
    return date(months // 12, months % 12 + 1, 1)


def _month(text: str) -> date:
    try:
        if len(text) == len("2026-01"):
            return first_day(text)
    except ValueError:
        pass
    raise typer.BadParameter(f"{text}: not a month such as 2026-01")


class _Screen(archiving.Progress):
    """One line a step."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def begins(self, month: date, what: str) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(f"{month:%Y-%m} {what}", total=None)

    def rows(self, number: int) -> None:
        if self._task is not None:
            self._bars.advance(self._task, number)

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False, soft_wrap=True)


@contextmanager
def _screen() -> Iterator[_Screen]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=messages(), transient=True) as bars:
        yield _Screen(bars)
