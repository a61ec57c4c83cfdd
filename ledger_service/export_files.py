"""Exports into files: whole by rename, or not there; a folder of days goes on where it ended."""

import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import IO, Final

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.exports import ExportFormat
from ledger_service.export_cursors import digest_of
from ledger_service.export_formats import make_encoder
from ledger_service.exporting import PAGE_ROWS, DataSet, encoded, read_pages
from ledger_service.store.archives import refuse_archived
from ledger_service.store.exports import Selection, read_days
from ledger_service.store.pool import Pool

#: What a folder says of itself; readers of data sets leave out names that begin so.
MANIFEST: Final = "_export.json"
#: Of rows since the last report.
Report = Callable[[int], None]


class TargetError(Exception):
    """The target cannot be written, or is not what it should be: the text says why."""


class UnwritableError(TargetError):
    """The file system refuses to write: what is whole stays, and the rest may be written once that is put right."""


@dataclass(frozen=True, slots=True)
class Job:
    """What goes into files."""

    data_set: DataSet
    format: ExportFormat
    selection: Selection
    page_rows: int = PAGE_ROWS

    @property
    def digest(self) -> str:
        return digest_of(self.data_set.name, self.selection.account_id, self.selection.filter)


class Day(BaseModel):
    """One that is done; without rows it has no file."""

    rows: int
    bytes: int


class Manifest(BaseModel):
    """``days``: those that are done, ``2026-11-03``. ``digest``: of what is selected."""

    model_config = ConfigDict(extra="forbid")

    export: str
    format: ExportFormat
    digest: str
    as_of: datetime
    complete: bool = False
    days: dict[date, Day] = {}


@dataclass(frozen=True, slots=True)
class Done:
    rows: int
    bytes: int
    files: int


async def to_stream(pool: Pool, job: Job, stream: IO[bytes], report: Report) -> Done:
    """Writes the export to something open. Raises TargetError, and what asyncpg raises."""
    size = rows = 0
    async for piece, more in _pieces(pool, job):
        with _writing(getattr(stream, "name", "the target")):
            stream.write(piece)
        size, rows = size + len(piece), rows + more
        report(more)
    with _writing(getattr(stream, "name", "the target")):
        stream.flush()
    return Done(rows, size, 1)


async def to_file(pool: Pool, job: Job, target: Path, report: Report) -> Done:
    """Writes the export to a file, which has its name once it is whole. Raises as to_stream()."""
    if target.is_dir():  # noqa: ASYNC240  nothing else runs here
        raise TargetError(f"{target} is a folder: with --by-day it takes a file for each day")
    part = target.with_name(f".{target.name}.part")
    try:
        with _writing(target):
            stream = part.open("wb")
        try:
            done = await to_stream(pool, job, stream, report)
            with _writing(target):
                os.fsync(stream.fileno())
        finally:
            with suppress(OSError):  # all was flushed, or the reason why not is on its way
                stream.close()
        with _writing(target):
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return done


async def to_folder(
    pool: Pool, job: Job, manifest: Manifest, target: Path, report: Callable[[date, int], None]
) -> Done:
    """Writes a file for each day (UTC) on which rows occurred, ``date=2026-11-03/part-0.parquet``, and the manifest
    after each. Days that the manifest has are done already. Raises as to_stream(); ProblemError (period_archived) where
    what is still to be written went into archives, before which the table does not even know that there was a day."""
    async with pool.acquire() as connection:
        span = await read_days(connection, job.selection)
        if not manifest.complete:
            await refuse_archived(connection, _still_from(job, manifest), "the rest of the export")
    day = None if span is None else span[0]
    while day is not None and span is not None and day <= span[1]:
        if day not in manifest.days:
            manifest.days[day] = await _write_day(pool, job, day, target)
            _write_manifest(target, manifest)
        report(day, manifest.days[day].rows)
        day += timedelta(days=1)
    manifest.complete = True
    _write_manifest(target, manifest)
    days = [one for one in manifest.days.values() if one.rows]
    return Done(sum(one.rows for one in days), sum(one.bytes for one in days), len(days))


def _still_from(job: Job, manifest: Manifest) -> datetime | None:
    """From when on days are still to be written. None: from the first."""
    if not manifest.days:
        return job.selection.filter.start
    return datetime.combine(max(manifest.days) + timedelta(days=1), time(), UTC)


async def _write_day(pool: Pool, job: Job, day: date, target: Path) -> Day:
    chosen = job.selection.filter
    begin = datetime.combine(day, time(), UTC)
    end = begin + timedelta(days=1)
    begin = begin if chosen.start is None else max(begin, chosen.start)
    end = end if chosen.end is None else min(end, chosen.end)
    of_day = replace(job, selection=replace(job.selection, filter=replace(chosen, start=begin, end=end)))
    folder = target / f"date={day}"
    with _writing(folder):
        folder.mkdir(exist_ok=True)
    file = folder / f"part-0.{job.format}"
    done = await to_file(pool, of_day, file, lambda _: None)
    if not done.rows:
        with _writing(folder):
            file.unlink()
            folder.rmdir()
        return Day(rows=0, bytes=0)
    return Day(rows=done.rows, bytes=done.bytes)


@contextmanager
def opened_folder(target: Path) -> Iterator[None]:
    """The folder, made where there is none, and this process's alone. Raises TargetError."""
    with _writing(target):
        target.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TargetError(f"another export is being written to {target}") from None
        yield
    finally:
        os.close(descriptor)


def read_manifest(target: Path) -> Manifest | None:
    """None where the folder is empty. Raises TargetError where it holds something else."""
    file = target / MANIFEST
    with _writing(target):
        if not file.exists():
            if any(target.iterdir()):
                raise TargetError(f"{target} is not empty, and holds no export: give a folder of its own")
            return None
        text = file.read_bytes()
    try:
        return Manifest.model_validate_json(text)
    except ValidationError:
        raise TargetError(f"{file} is not what an export wrote") from None


def _write_manifest(target: Path, manifest: Manifest) -> None:
    part = target / f".{MANIFEST}.part"
    with _writing(target):
        with part.open("wb") as stream:
            stream.write(orjson.dumps(manifest.model_dump(mode="json"), option=orjson.OPT_INDENT_2))
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(target / MANIFEST)


def _pieces(pool: Pool, job: Job) -> AsyncIterator[tuple[bytes, int]]:
    data_set, as_of = job.data_set, job.selection.as_of.isoformat()
    encoder = make_encoder(job.format, data_set.columns, {"export": data_set.name, "as_of": as_of, **data_set.about})
    rows = data_set.page_rows(job.page_rows)
    pages = read_pages(pool, data_set.projections[job.format], job.selection, rows=rows)
    return encoded(pages, encoder)


@contextmanager
def _writing(target: object) -> Iterator[None]:
    """What the file system refuses is about the target, and not about the database, whose errors may look alike."""
    try:
        yield
    except OSError as error:
        raise UnwritableError(f"cannot write {target}: {error.strerror or error}") from error
