"""Months of the usage log that lie in files: which, what is in them, and taking rows out and putting them back."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from contracts.problems import PERIOD_ARCHIVED, ProblemError
from ledger_service.store.queries import load
from ledger_service.store.tables import Table, read_tables

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)
TABLE: Final = "usage_log"
_ROWS_PER_FETCH: Final = 5_000
#: The same condition as in archives.sql.
_OF_MONTH: Final = (
    "booked_period is null and occurred_at >= $1::date::timestamp at time zone 'UTC' "
    "and occurred_at < ($1::date + interval '1 month') at time zone 'UTC' or booked_period = $1"
)
#: What is read as text, which says all of it.
_AS_TEXT: Final = frozenset({"uuid", "json"})


class State(StrEnum):
    #: The file is whole; its rows are being taken out of the table.
    REMOVING = "removing"
    ARCHIVED = "archived"
    #: Its rows are on their way back.
    RESTORING = "restoring"
    #: The file is gone: a rebuild puts them back from the log.
    RECOVERING = "recovering"


class Figures(NamedTuple):
    """What rows come to."""

    calls: int = 0
    units: int = 0
    cost_nanos: int = 0
    failures: int = 0

    def plus(self, other: "Figures") -> "Figures":
        return Figures(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


#: account, operation, provider, model
Cell = tuple[str, str, str, str]


@dataclass(frozen=True)
class Archive:
    """A month that is in a file. ``month`` is its first day, ``digest`` the SHA-256 of the file."""

    month: date
    state: State
    file: str
    digest: bytes
    bytes: int
    rows: int
    figures: Figures
    written_at: datetime
    archived_at: datetime | None


async def usage_log_begins(connection: "Connection") -> datetime | None:
    """From this moment on the usage log has everything; before it, only what came late. None = always."""
    begins: datetime | None = await connection.fetchval(SQL["begins"])
    return begins


async def refuse_archived(connection: "Connection", since: datetime | None, what: str) -> datetime | None:
    """Raises ProblemError (period_archived) where rows of the usage log since then (None = all) are in archives.
    Answers as ``usage_log_begins``."""
    begins = await usage_log_begins(connection)
    if begins is not None and (since is None or since < begins):
        message = f"{what} needs rows of the usage log from before {begins:%Y-%m}, which are in archives"
        raise ProblemError(PERIOD_ARCHIVED, f"{message}: begin later, or have `ledger unarchive` bring them back")
    return begins


async def list_archives(connection: "Connection") -> list[Archive]:
    """In the order of their months."""
    return [
        Archive(
            month=row["month"],
            state=State(row["state"]),
            file=row["file"],
            digest=row["digest"],
            bytes=row["bytes"],
            rows=row["rows"],
            figures=Figures(row["calls"], row["units"], row["cost_nanos"], row["failures"]),
            written_at=row["written_at"],
            archived_at=row["archived_at"],
        )
        for row in await connection.fetch(SQL["list"])
    ]


async def lock_archives(connection: "Connection") -> bool:
    """Whether nobody else archives or rebuilds; from here on nobody does until the connection ends."""
    return bool(await connection.fetchval(SQL["lock"]))


async def months_before(connection: "Connection", before: date) -> list[tuple[date, bool]]:
    """Months before this one that are in no archive, from the first with usage on; and whether each is closed."""
    return [(row["month"], row["is_closed"]) for row in await connection.fetch(SQL["months"], before)]


async def read_cells(connection: "Connection", month: date) -> Mapping[Cell, Figures]:
    """What the usage summary has of a month, without what is all zero."""
    rows = await connection.fetch(SQL["cells"], month)
    return {(row[0], row[1], row[2], row[3]): Figures(*row[4:]) for row in rows}


async def usage_table(connection: "Connection") -> Table:
    """The usage log's columns, as they are now."""
    return (await read_tables(connection, [TABLE]))[TABLE]


async def rows_of_month(connection: "Connection", table: Table, month: date) -> AsyncIterator[list[tuple[object, ...]]]:
    """All rows booked in the month, in the order of their key, in portions; within a transaction."""
    await connection.execute(SQL["settings"])
    rows = await connection.cursor(table.select(_OF_MONTH, _AS_TEXT), month)
    while portion := await rows.fetch(_ROWS_PER_FETCH):
        yield [tuple(row) for row in portion]


async def begin_archive(connection: "Connection", archive: Archive) -> None:
    """From here on the month counts as archived."""
    await connection.execute(
        SQL["begin"], archive.month, archive.file, archive.digest, archive.bytes, archive.rows, *archive.figures
    )


async def turn_archive(connection: "Connection", month: date, state: State) -> None:
    await connection.execute(SQL["turn"], month, state.value)


async def forget_archive(connection: "Connection", month: date) -> None:
    """The table has all of the month again."""
    await connection.execute(SQL["forget"], month)


async def remove_rows(connection: "Connection", accounts: Sequence[str], month: date) -> dict[str, int]:
    """Takes what these accounts have booked in the month out of the table; how many rows each had."""
    rows = await connection.fetch(SQL["remove"], accounts, month)
    return {row["account_id"]: row["rows"] for row in rows}


async def restore_rows(connection: "Connection", columns: Sequence[str], rows: Sequence[tuple[object, ...]]) -> None:
    """Puts rows back, within a transaction; those that are there already stay as they are."""
    await connection.execute(SQL["restored_table"])
    await connection.copy_records_to_table("restored", records=rows, columns=columns)
    await connection.execute(SQL["restore"])


async def count_left(connection: "Connection", month: date) -> int:
    """Rows booked in the month that are in the table."""
    return int(await connection.fetchval(SQL["left"], month))
