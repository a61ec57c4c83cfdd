"""A reconciliation from start to end: files first, then the ledger, then what belongs together. Only reads."""

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import Final, NamedTuple

from contracts.adjustments import Adjustment
from contracts.problems import broken_rule
from ledger_service.domain.reconciliation import Item, Line, Terms, line_ids, reconcile
from ledger_service.domain.reconciliation_proposals import TooLarge, Wanted, needs_ids, propose
from ledger_service.domain.reconciliation_report import Report
from ledger_service.domain.reconciliation_sums import Bucket, Sums
from ledger_service.invoice_files import ANY_MODEL, InvoiceFile, open_files, read_lines
from ledger_service.invoice_mappings import InvoiceMapping
from ledger_service.invoice_values import bucket_reader
from ledger_service.store.archives import refuse_archived
from ledger_service.store.migrations import check_schema
from ledger_service.store.reconciliations import open_snapshot, read_charges

#: Lines that are matched one by one, about 1.3 KB each with their charges. Sums have no such bound.
LINES_MAX: Final = 2_000_000
#: Jobs that began before the range, or ended after it, are looked for as well.
MARGIN: Final = timedelta(days=1)
TOLERANCE_SECONDS_MAX: Final = 86_400

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_CHARGES_PER_STEP: Final = 5_000


@dataclass(frozen=True)
class Asked:
    """``start`` and ``end``: default is from the first day in the files to the last. Days begin in ``zone``; where the
    files have sums, in that of the mapping."""

    provider: str
    mapping: InvoiceMapping
    paths: Sequence[Path]
    start: datetime | date | None
    end: datetime | date | None
    zone: tzinfo
    tolerance_seconds: int


class Outside(NamedTuple):
    """Lines of the files that are of other times than what was asked for, and the counterpart of nothing in it."""

    lines: int = 0
    theirs: int = 0


class OfOtherTimes(NamedTuple):
    """Operations that began before the range or after it, and have lines in it: they are in the totals."""

    charges: int = 0
    ours: int = 0


@dataclass
class Reconciliation:
    """What was compared, and what came of it. ``archived_before``: of the day before, for jobs that were billed late,
    only what is not in archives was read."""

    provider: str
    files: list[InvoiceFile]
    start: datetime
    end: datetime
    report: Report
    lines: list[Line]
    outside: Outside
    of_other_times: OfOtherTimes
    archived_before: datetime | None = None

    def proposals(self, missing_to: str | None, *, not_billed: bool) -> Iterator[Adjustment | TooLarge]:
        """See reconciliation_proposals."""
        items = self.report.differences
        named = {line.content for item in items if needs_ids(item) for line in item.lines}
        ids = line_ids(self.provider, self.lines, named) if named else {}
        names = [file.name for file in self.files]
        return propose(Wanted(self.provider, names, missing_to, not_billed), items, ids)


#: What is under way, how much of it is done, and of how much; in bytes of files, or in charges.
Progress = Callable[[str, int, int | None], None]
#: Gets every finding, plain matches too.
Sink = Callable[[Item], None]


async def run_reconciliation(database_url: str, asked: Asked, progress: Progress, sink: Sink) -> Reconciliation:
    """Raises InvoiceError and ProblemError, before the database is asked; OSError, MigrationError, and what asyncpg
    raises."""
    if asked.mapping.provider != asked.provider:
        message = f"the mapping is for {asked.mapping.provider}, not for {asked.provider}"
        raise broken_rule("mapping.provider", "other_provider", message)
    files = open_files(asked.paths)
    # Millions of tuples that all stay: collecting garbage among them finds none, and takes as long as the work.
    gc.disable()
    try:
        if asked.mapping.rows == "each":
            return await _each(database_url, asked, files, progress, sink)
        return await _sums(database_url, asked, files, progress, sink)
    finally:
        gc.enable()


async def _each(
    database_url: str, asked: Asked, files: list[InvoiceFile], progress: Progress, sink: Sink
) -> Reconciliation:
    lines = []
    for line in _read(asked, files, progress):
        lines.append(line)
        if len(lines) > LINES_MAX:
            raise broken_rule("files", "too_many_lines", f"at most {LINES_MAX} lines at once: reconcile fewer files")
    start, end = _range(asked, min(line.at for line in lines), max(line.at for line in lines))
    tolerance = timedelta(seconds=asked.tolerance_seconds) // _MICROSECOND
    terms = Terms(asked.provider, _microseconds(start), _microseconds(end), tolerance)
    charges, by_end = [], asked.mapping.time_of == "end"
    async with open_snapshot(database_url) as connection:
        await check_schema(connection)
        archived_before = await refuse_archived(connection, start, "the reconciliation")
        async for charge in read_charges(connection, asked.provider, start - MARGIN, end + MARGIN, by_end=by_end):
            charges.append(charge)
            if len(charges) % _CHARGES_PER_STEP == 0:
                progress("reading the ledger", len(charges), None)
    report, shown, others = Report(), Outside(), OfOtherTimes()
    for number, item in enumerate(reconcile(terms, lines, charges)):
        report.add(item)
        shown = _add(shown, (line for line in item.lines if not terms.has(line.at)))
        if item.charge is not None and not terms.has(item.charge.at):
            others = OfOtherTimes(others.charges + 1, others.ours + item.ours)
        sink(item)
        if number % _CHARGES_PER_STEP == 0:
            progress("matching", number, max(len(lines), len(charges)))
    every = _add(Outside(), (line for line in lines if not terms.has(line.at)))
    outside = Outside(every.lines - shown.lines, every.theirs - shown.theirs)
    lacks = archived_before is not None and start - MARGIN < archived_before
    return Reconciliation(
        asked.provider, files, start, end, report, lines, outside, others, archived_before if lacks else None
    )  # fmt: skip


def _add(outside: Outside, lines: Iterable[Line]) -> Outside:
    for line in lines:
        outside = Outside(outside.lines + 1, outside.theirs + line.amount)
    return outside


async def _sums(
    database_url: str, asked: Asked, files: list[InvoiceFile], progress: Progress, sink: Sink
) -> Reconciliation:
    sums, bucket_of, whole = Sums(), bucket_reader(asked.mapping), asked.mapping.columns.model is None
    first, last = None, None
    for line in _read(asked, files, progress):
        first, last = min(first or line.at, line.at), max(last or line.at, line.at)
        sums.add_line(Bucket(bucket_of(line.at), line.model), line.amount)
    assert first is not None, "a file without rows is refused"
    assert last is not None
    start, end = _range(asked, first, last)
    for field, moment in (("from", start), ("to", end)):
        if bucket_of(_microseconds(moment)) != _microseconds(moment):
            zone = asked.mapping.zone() or UTC
            begins = (_EPOCH + bucket_of(_microseconds(moment)) * _MICROSECOND).astimezone(zone)
            message = f"is within a {asked.mapping.rows} of {zone}, of which the files say only the sum"
            raise broken_rule(field, "range", f"{message}; it begins at {begins.isoformat()}")
    by_end = asked.mapping.time_of == "end"
    async with open_snapshot(database_url) as connection:
        await check_schema(connection)
        await refuse_archived(connection, start, "the reconciliation")
        count = 0
        async for charge in read_charges(connection, asked.provider, start, end, by_end=by_end):
            model = ANY_MODEL if whole else charge.model
            sums.add_charge(Bucket(bucket_of(charge.at), model), charge.amount)
            count += 1
            if count % _CHARGES_PER_STEP == 0:
                progress("reading the ledger", count, None)
    report, outside = Report(), Outside()
    within = range(bucket_of(_microseconds(start)), _microseconds(end))
    for item in sums.items():
        if item.at in within:
            report.add(item)
            sink(item)
        else:
            outside = Outside(outside.lines + item.line_count, outside.theirs + item.theirs)
    return Reconciliation(asked.provider, files, start, end, report, [], outside, OfOtherTimes())


def _read(asked: Asked, files: list[InvoiceFile], progress: Progress) -> Iterator[Line]:
    size = sum(file.path.stat().st_size for file in files)
    return read_lines(files, asked.mapping, lambda done: progress("reading the files", done, size))


def _range(asked: Asked, first: int, last: int) -> tuple[datetime, datetime]:
    """Whole days, or months where the sums are of months, which have a time zone of their own."""
    zone = asked.zone if asked.mapping.rows == "each" else asked.mapping.zone() or UTC
    first_day, last_day = (_day(at, zone) for at in (first, last))
    following = last_day + timedelta(days=1)
    if asked.mapping.rows == "month":
        first_day = first_day.replace(day=1)
        following = (last_day.replace(day=1) + timedelta(days=32)).replace(day=1)
    start, end = _begin(asked.start or first_day, zone), _begin(asked.end or following, zone)
    if start >= end:
        raise broken_rule("to", "range", "the range ends before it begins")
    if not (start < _EPOCH + last * _MICROSECOND + _MICROSECOND and _EPOCH + first * _MICROSECOND < end):
        message = f"no line of the files is in it; they are from {first_day} to {last_day}, in {zone}"
        raise broken_rule("from", "range", message)
    return start, end


def _begin(given: datetime | date, zone: tzinfo) -> datetime:
    return given if isinstance(given, datetime) else _midnight(given, zone)


def _day(at: int, zone: tzinfo) -> date:
    return (_EPOCH + at * _MICROSECOND).astimezone(zone).date()


def _midnight(day: date, zone: tzinfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND
