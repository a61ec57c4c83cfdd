"""Closed months of the usage log into Parquet files and out of the table, and back.

Only what nothing can change any more: months that are closed for all, oldest first, and with their rows as they are
booked, so that a late arrival stays with the month that counts it. A file is written from one snapshot, read back and
compared row by row, and its totals with the usage summary, before the first row leaves the table. Rows leave account by
account; ended at any moment, the same call goes on, and every total is right in between: what a counter needs of rows
that are away is read from the log, which keeps all events.
"""

from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ledger_service import rebuilding
from ledger_service.archive_files import (
    ArchiveFileError,
    Comparison,
    Contents,
    Writer,
    check_digest,
    digest_of,
    read_contents,
    read_rows,
    schema_of,
)
from ledger_service.store import archives
from ledger_service.store.archives import Archive, Cell, Figures, State
from ledger_service.verification import Scope, Verification, connected

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection
    from ledger_service.store.tables import Table

#: Rows that leave the table, or come back, in one transaction, unless one account alone has more.
PORTION_ROWS: Final = 10_000
#: Longer than any window of a limit that ends: what was counted before is in no window that is open.
WINDOWS_DAYS_MAX: Final = 33


class ArchiveRefusedError(Exception):
    """It cannot be archived or brought back as things are; nothing of it was changed."""


class Progress:
    """What archiving tells of itself; to be overridden by whoever listens."""

    def begins(self, month: date, what: str) -> None:
        """A month's next step."""

    def rows(self, number: int) -> None:
        """So many more rows were dealt with in this step."""


@asynccontextmanager
async def alone(database_url: str) -> "AsyncIterator[Connection]":
    """A connection on which months are archived or brought back. Raises ArchiveRefusedError where others do, or a
    rebuild runs."""
    async with connected(database_url, "archive") as connection:
        if not await archives.lock_archives(connection):
            raise ArchiveRefusedError("a rebuild or another archiving is running: wait for it, or end it")
        yield connection


async def plan(connection: "Connection", before: date) -> list[date]:
    """Months before this one that are to be archived, those whose removal was broken off included.

    Raises ArchiveRefusedError where one of them is not closed for all accounts, is on its way back, or is too young.
    """
    known = await archives.list_archives(connection)
    restoring = [one.month for one in known if one.state in (State.RESTORING, State.RECOVERING)]
    if restoring:
        raise ArchiveRefusedError(f"{restoring[0]:%Y-%m} is on its way back: let `ledger unarchive` end first")
    newest = (datetime.now(UTC) - timedelta(days=WINDOWS_DAYS_MAX)).date().replace(day=1)
    if before > newest:
        raise ArchiveRefusedError(f"limits may still count what is of {newest:%Y-%m}: only months before it can go")
    months = await archives.months_before(connection, before)
    for month, is_closed in months:
        if not is_closed:
            raise ArchiveRefusedError(f"{month:%Y-%m} is not closed for all accounts: close it, or end before it")
    return sorted([one.month for one in known if one.state is State.REMOVING] + [month for month, _ in months])


async def archive(connection: "Connection", month: date, folder: Path, progress: Progress) -> Archive | None:
    """One month of plan(), the oldest first; None where nothing is booked in it. Safe to call again, wherever it ended.

    Raises ArchiveRefusedError and ArchiveFileError: then no further row has left the table. Raises OSError.
    """
    known = next((one for one in await archives.list_archives(connection) if one.month == month), None)
    path = folder / _file_name(month)
    if known is None:
        written = await _write(connection, month, path, progress)
        if written is None:
            return None
        known, contents = written
        await archives.begin_archive(connection, known)
    else:
        check_digest(path, known.digest)
        contents = read_contents(path)
    if known.state is State.REMOVING:
        await _remove(connection, month, contents, progress)
        await archives.turn_archive(connection, month, State.ARCHIVED)
    return replace(known, state=State.ARCHIVED)


async def restore(connection: "Connection", found: Archive, folder: Path, progress: Progress) -> None:
    """Brings a month back, the newest first; its file stays. Safe to call again, wherever it ended.

    Raises ArchiveRefusedError and ArchiveFileError, also where rows came back that the file does not have.
    """
    if found.state is State.RECOVERING:
        raise ArchiveRefusedError(f"{found.month:%Y-%m} is being put back from the log: say --from-log until that ends")
    await _refuse_not_newest(connection, found)
    path = folder / found.file
    check_digest(path, found.digest)
    columns = [name.strip('"') for name in (await archives.usage_table(connection)).columns]
    if found.state is State.REMOVING:
        raise ArchiveRefusedError(
            f"{found.month:%Y-%m} is only half-way in its archive: let `ledger archive` end first"
        )
    await archives.turn_archive(connection, found.month, State.RESTORING)
    progress.begins(found.month, "rows back into the table")
    for rows in read_rows(path, columns, PORTION_ROWS):
        async with connection.transaction():
            await archives.restore_rows(connection, columns, rows)
        progress.rows(len(rows))
    there = await archives.count_left(connection, found.month)
    if there != found.rows:
        raise ArchiveFileError(f"{there:,} rows of {found.month:%Y-%m} are in the table, {found.rows:,} in its archive")
    await archives.forget_archive(connection, found.month)


async def recover(database_url: str, months: Sequence[date], progress: rebuilding.Progress, jobs: int) -> int:
    """Brings months back without their files, by a rebuild of the usage log from the log; how many rows it put there.

    The newest ones. Safe to call again, wherever it ended. Raises as restore() and rebuild().
    """
    async with alone(database_url) as connection:
        for one in await archives.list_archives(connection):
            if one.month in months:
                await _refuse_not_newest(connection, one, months)
                await archives.turn_archive(connection, one.month, State.RECOVERING)
    done = await rebuilding.rebuild(Verification(database_url, jobs), Scope(None, (archives.TABLE,)), progress)
    if done.left:
        raise ArchiveRefusedError("rows of the usage log still differ from the log: see `ledger verify`")
    async with alone(database_url) as connection:
        for one in await archives.list_archives(connection):
            if one.state is State.RECOVERING:
                await archives.forget_archive(connection, one.month)
    return done.replaced.total()


async def _refuse_not_newest(connection: "Connection", found: Archive, with_it: Collection[date] = ()) -> None:
    later = [one.month for one in await archives.list_archives(connection) if one.month > found.month]
    if set(later) - set(with_it):
        raise ArchiveRefusedError(f"{later[-1]:%Y-%m} is in an archive as well: it has to come back first")


async def check(connection: "Connection", found: Archive, folder: Path) -> None:
    """Reads a file back. Raises ArchiveFileError where it is not the one that was written, or its totals by account,
    operation, provider and model are not those of the usage summary."""
    path = folder / found.file
    check_digest(path, found.digest)
    contents = read_contents(path)
    if contents.rows != found.rows or contents.figures != found.figures:
        raise ArchiveFileError(f"{path} has other totals than were noted when it was written")
    _compare_totals(contents, await archives.read_cells(connection, found.month), found.month)


def _file_name(month: date) -> str:
    return f"usage-log-{month:%Y-%m}.parquet"


async def _write(
    connection: "Connection", month: date, path: Path, progress: Progress
) -> tuple[Archive, Contents] | None:
    table = await archives.usage_table(connection)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = Writer(path, schema_of(table.columns))
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            if not await _write_rows(connection, table, month, writer, progress):
                return None
            progress.begins(month, "read back and compared")
            comparison = Comparison(writer.part, schema_of(table.columns))
            async for rows in archives.rows_of_month(connection, table, month):
                comparison.add(rows)
                progress.rows(len(rows))
            comparison.end()
            contents = read_contents(writer.part)
            _compare_totals(contents, await archives.read_cells(connection, month), month)
        writer.keep()
    finally:
        writer.drop()
    known = Archive(
        month, State.REMOVING, path.name, *digest_of(path), contents.rows, contents.figures,
        datetime.now(UTC), None,
    )  # fmt: skip
    return known, contents


async def _write_rows(connection: "Connection", table: "Table", month: date, writer: Writer, progress: Progress) -> int:
    """All rows of the month; how many. Raises ArchiveRefusedError where an open window may still count one."""
    progress.begins(month, "written")
    written, counted_at = 0, list(table.columns).index("counted_at")
    young = datetime.now(UTC) - timedelta(days=WINDOWS_DAYS_MAX)
    async for rows in archives.rows_of_month(connection, table, month):
        for row in rows:
            moment = row[counted_at]
            if isinstance(moment, datetime) and moment > young:
                raise ArchiveRefusedError(f"a row of {month:%Y-%m} is counted at {moment}: an open window may have it")
        writer.add(rows)
        written += len(rows)
        progress.rows(len(rows))
    writer.close()
    return written


def _compare_totals(contents: Contents, summary: Mapping[Cell, Figures], month: date) -> None:
    counted = {cell: figures for cell, figures in contents.cells.items() if any(figures)}
    if counted == summary:
        return
    wrong = sorted(cell for cell in counted.keys() | summary.keys() if counted.get(cell) != summary.get(cell))
    raise ArchiveRefusedError(
        f"the usage summary of {month:%Y-%m} has other totals than its rows, for {len(wrong):,} cells, the first "
        f"{' '.join(wrong[0])}: run `ledger verify`, then `ledger rebuild`"
    )


async def _remove(connection: "Connection", month: date, contents: Contents, progress: Progress) -> None:
    progress.begins(month, "rows out of the table")
    for accounts in _portions(contents.accounts):
        async with connection.transaction():
            removed = await archives.remove_rows(connection, accounts, month)
            for account, rows in removed.items():
                # Of one that a broken-off run has dealt with, there is none.
                if rows != contents.accounts[account]:
                    raise ArchiveRefusedError(
                        f"account {account} has {rows:,} rows in {month:%Y-%m}, and {contents.accounts[account]:,} in "
                        "the archive: they stay; run `ledger verify`"
                    )
        progress.rows(sum(contents.accounts[account] for account in accounts))
    left = await archives.count_left(connection, month)
    if left:
        raise ArchiveRefusedError(
            f"{left:,} rows of {month:%Y-%m} are not in the archive: they stay; run `ledger verify`"
        )


def _portions(accounts: Mapping[str, int]) -> Iterator[list[str]]:
    """Whole accounts, together at most PORTION_ROWS rows, or one account with more."""
    portion: list[str] = []
    rows = 0
    for account, number in accounts.items():
        if portion and rows + number > PORTION_ROWS:
            yield portion
            portion, rows = [], 0
        portion.append(account)
        rows += number
    if portion:
        yield portion
