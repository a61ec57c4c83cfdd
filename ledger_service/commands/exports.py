"""`ledger export`: the usage log, or FOCUS, into a file, or a folder of days."""

import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from contracts.exports import ExportFormat
from contracts.problems import ProblemError
from ledger_service.commands.database import messages, moment, own_settings, say_if_unknown, stop, with_database
from ledger_service.commands.json_output import AsJson, write_json
from ledger_service.export_files import (
    Done,
    Job,
    Manifest,
    TargetError,
    UnwritableError,
    opened_folder,
    read_manifest,
    to_file,
    to_folder,
    to_stream,
)
from ledger_service.exporting import FOCUS, USAGE_LOG, DataSet
from ledger_service.store.archives import refuse_archived
from ledger_service.store.connections import PAGES_AHEAD
from ledger_service.store.exports import (
    Selection,
    estimate_rows,
    open_pool,
    read_days,
    settled_moment,
)
from ledger_service.store.moments import FutureError, UnsettledError
from ledger_service.store.pool import Connection, Pool
from ledger_service.store.usage import UsageLogFilter

STDOUT: Final = Path("-")
_SUFFIXES: Final = {".csv": ExportFormat.CSV, ".jsonl": ExportFormat.JSONL, ".ndjson": ExportFormat.JSONL} | {
    ".parquet": ExportFormat.PARQUET
}


class Outcome(StrEnum):
    COMPLETED = "completed"
    FAILED = "failed"
    ADJUSTMENT = "adjustment"
    COUNTED = "counted"


class FocusVersion(StrEnum):
    V1_2 = "1.2"


def export(
    target: Annotated[
        Path, typer.Argument(help="A file: .csv, .jsonl or .parquet; a folder with --by-day; - = stdout.")
    ],
    format_: Annotated[
        ExportFormat | None, typer.Option("--format", help="Default: what the file's name says; of a folder parquet.")
    ] = None,
    focus: Annotated[FocusVersion | None, typer.Option(help="As FOCUS, of this version: csv or parquet.")] = None,
    by_day: Annotated[bool, typer.Option("--by-day", help="A folder with a file for each day (UTC).")] = False,
    account: Annotated[str | None, typer.Option(help="Of one account only.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="occurred_at: 2026-11-01, or RFC 3339; inclusive.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="The same, exclusive.")] = None,
    recorded_from: Annotated[str | None, typer.Option(help="recorded_at; inclusive.")] = None,
    recorded_to: Annotated[str | None, typer.Option(help="The same, exclusive.")] = None,
    user: Annotated[str | None, typer.Option()] = None,
    project: Annotated[str | None, typer.Option()] = None,
    api_key: Annotated[str | None, typer.Option()] = None,
    operation: Annotated[list[str] | None, typer.Option(help="Several times: any of them.")] = None,
    provider: Annotated[list[str] | None, typer.Option(help="Several times: any of them.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Several times: any of them.")] = None,
    outcome: Annotated[Outcome | None, typer.Option()] = None,
    endpoint: Annotated[str | None, typer.Option()] = None,
    as_of: Annotated[str | None, typer.Option(help="Only what was recorded by then; default: now.")] = None,
    as_json: AsJson = False,
) -> None:
    """Writes the usage log as CSV, JSON Lines or Parquet, or its FOCUS data set as CSV or Parquet.

    A file has its name once it is whole. With --by-day, the same command goes on where it ended: days that are done
    stay, and all are of the moment at which it was first run. Exit 0 when all is written, 1 where that failed; 2 for
    wrong options.
    """
    wanted = _format_of(target, format_, by_day)
    data_set = USAGE_LOG if focus is None else FOCUS
    if wanted not in data_set.projections:
        raise typer.BadParameter(f"FOCUS comes as {' or '.join(data_set.projections)}, not as {wanted}")
    if as_json and target == STDOUT:
        raise typer.BadParameter("--json is written to standard output, where the export goes: give a file")
    chosen = UsageLogFilter(
        start=_before("--to", moment(start), moment(end)), end=moment(end),
        recorded_start=_before("--recorded-to", moment(recorded_from), moment(recorded_to)),
        recorded_end=moment(recorded_to), operations=operation, providers=provider, models=model, user_id=user,
        project_id=project, api_key_id=api_key, outcome=outcome and outcome.value, endpoint=endpoint,
    )  # fmt: skip
    task = _Task(data_set, wanted, account, chosen, moment(as_of), as_json)
    begin = time.monotonic()
    try:
        if by_day:
            with opened_folder(target):
                done, known_at = with_database(lambda connection: task.to_folder(connection, target))
        else:
            done, known_at = with_database(lambda connection: task.to_file(connection, target))
    except TargetError as error:
        goes_on = by_day and isinstance(error, UnwritableError) and target.is_dir()
        next_ = "What was written stays: the same command goes on with it." if goes_on else "Nothing was written."
        raise stop(str(error), next_) from None
    _tell(target, done, known_at, time.monotonic() - begin, as_json)


class _Task:
    def __init__(
        self,
        data_set: DataSet,
        wanted: ExportFormat,
        account_id: str | None,
        chosen: UsageLogFilter,
        as_of: datetime | None,
        quiet: bool,
    ) -> None:
        self._data_set, self._format, self._account_id, self._chosen = data_set, wanted, account_id, chosen
        self._as_of = as_of
        self._quiet = quiet

    async def to_file(self, connection: Connection, target: Path) -> tuple[Done, datetime]:
        job = self._job(await self._settled(connection))
        rows = await estimate_rows(connection, job.selection)

        async def work(pool: Pool, progress: Progress, bar: TaskID) -> Done:
            def report(more: int) -> None:
                progress.advance(bar, more)

            if target == STDOUT:
                return await to_stream(pool, job, sys.stdout.buffer, report)
            return await to_file(pool, job, target, report)

        return await self._run(work, rows, "rows"), job.selection.as_of

    async def to_folder(self, connection: Connection, target: Path) -> tuple[Done, datetime]:
        manifest = read_manifest(target)
        if manifest is None:
            job = self._job(await self._settled(connection))
            manifest = Manifest(
                export=self._data_set.name, format=self._format, digest=job.digest, as_of=job.selection.as_of
            )
        job = self._job(manifest.as_of)
        self._check_same(manifest, job, target)
        span = await read_days(connection, job.selection)
        days = (span[1] - span[0]).days + 1 if span else 0

        async def work(pool: Pool, progress: Progress, bar: TaskID) -> Done:
            written = 0

            def report(day: date, rows: int) -> None:
                nonlocal written
                written += rows
                progress.update(bar, advance=1, description=f"{day}  {written:,} rows")

            return await to_folder(pool, job, manifest, target, report)

        return await self._run(work, days, "days"), job.selection.as_of

    def _check_same(self, manifest: Manifest, job: Job, target: Path) -> None:
        told = (manifest.export, manifest.format, manifest.digest)
        if told != (self._data_set.name, self._format, job.digest):
            raise TargetError(
                f"{target} holds another export ({manifest.export} as {manifest.format}, of {manifest.as_of})"
            )
        if self._as_of not in (None, manifest.as_of):
            raise TargetError(
                f"{target} holds the same export as of {manifest.as_of}: leave out --as-of to go on with it"
            )

    def _job(self, as_of: datetime) -> Job:
        return Job(
            self._data_set,
            self._format,
            Selection(as_of, self._account_id, self._chosen),
            own_settings().export_page_rows,
        )

    async def _settled(self, connection: Connection) -> datetime:
        await say_if_unknown(connection, self._account_id)
        try:
            await refuse_archived(connection, self._chosen.start, "the export")
            return (await settled_moment(connection, self._as_of)).astimezone(UTC)
        except ProblemError as error:
            raise stop(error.problem.detail) from None
        except FutureError:
            raise typer.BadParameter("--as-of is later than the database's clock") from None
        except UnsettledError:
            raise stop(
                "something is being recorded that does not end", "Try again, or give an earlier --as-of."
            ) from None

    async def _run(self, work: "Callable[[Pool, Progress, TaskID], Awaitable[Done]]", total: int, unit: str) -> Done:
        screen = messages()
        columns = (
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
            TextColumn("{task.completed:,.0f} " + unit), TimeRemainingColumn(),
        )  # fmt: skip
        settings = own_settings()
        pool = await open_pool(settings.database_url, PAGES_AHEAD, settings.billing_account_id)
        try:
            shown = Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal or self._quiet)
            with shown as progress:
                return await work(pool, progress, progress.add_task(f"exporting {self._data_set.name}", total=total))
        except ProblemError as error:
            raise stop(error.problem.detail) from None
        finally:
            pool.terminate()


def _format_of(target: Path, wanted: ExportFormat | None, by_day: bool) -> ExportFormat:
    if wanted is not None:
        return wanted
    if by_day:
        return ExportFormat.PARQUET
    if target.suffix not in _SUFFIXES:
        raise typer.BadParameter(f"{target}: give --format, or a name that ends in {', '.join(_SUFFIXES)}")
    return _SUFFIXES[target.suffix]


def _before(option: str, start: datetime | None, end: datetime | None) -> datetime | None:
    if start is not None and end is not None and start >= end:
        raise typer.BadParameter(f"{option} is later than what it ends")
    return start


def _tell(target: Path, done: Done, as_of: datetime, seconds: float, as_json: bool) -> None:
    if as_json:
        told = {
            "target": str(target), "rows": done.rows, "bytes": done.bytes, "files": done.files, "as_of": as_of,
            "elapsed_seconds": round(seconds, 3),
        }  # fmt: skip
        write_json(told)
        return
    files = "1 file" if done.files == 1 else f"{done.files:,} files"
    messages().print(
        f"{done.rows:,} rows, {done.bytes / 1e6:,.1f} MB in {files}, {seconds:.1f} s; as of {as_of.isoformat()}",
        style="green",
    )
