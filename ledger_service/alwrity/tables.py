"""ALwrity's tables as they lie in a snapshot: whatever columns there are, and notices of what there is not."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ledger_service.alwrity.files import FileRefusedError, open_snapshot
from ledger_service.domain.alwrity import standing, terms, usage
from ledger_service.domain.alwrity.values import Row

#: Of each table the columns that are read.
COLUMNS: Final = {usage.TABLE: usage.COLUMNS, **standing.COLUMNS, **terms.COLUMNS}
#: Without them, none of a table's rows says anything.
NEEDED: Final = {usage.TABLE: usage.NEEDED, **standing.NEEDED, **terms.NEEDED}
#: Rows that are read at once.
_PAGE_ROWS: Final = 5000


@dataclass(frozen=True)
class Source:
    """A file: where it is, its snapshot, the columns that it has of each table, and what it lacks."""

    path: Path
    snapshot: Path
    columns: dict[str, list[str]]
    notices: list[str] = field(default_factory=list)

    def count(self, table: str) -> int:
        if table not in self.columns:
            return 0
        with closing(open_snapshot(self.snapshot)) as connection:
            [number] = connection.execute(f"select count(*) from {table}").fetchone()  # noqa: S608  a name of ours
        return int(number)

    def wrapped_users(self) -> set[str]:
        """Whose log rows were wrapped, some of them."""
        if "endpoint" not in self.columns.get(usage.TABLE, ()):
            return set()
        with closing(open_snapshot(self.snapshot)) as connection:
            found = connection.execute(
                f"select distinct cast(user_id as text) from {usage.TABLE} where upper(endpoint) = '[AGGREGATED]'"  # noqa: S608
            )
            return {str(row[0]) for row in found}

    def rows(self, table: str, order_by: Sequence[str] = ()) -> Iterator[Row]:
        """All rows, with the columns that there are. Tables that there are not have no rows."""
        names = self.columns.get(table, [])
        if not names:
            return
        chosen = ", ".join("cast(user_id as text)" if name == "user_id" else f'"{name}"' for name in names)
        order = f" order by {', '.join(order_by)}" if order_by else ""
        try:
            with closing(open_snapshot(self.snapshot)) as connection:
                # The names are those of COLUMNS: nothing of the file's gets into the statement.
                cursor = connection.execute(f"select {chosen} from {table}{order}")  # noqa: S608
                while page := cursor.fetchmany(_PAGE_ROWS):
                    for row in page:
                        yield dict(zip(names, row, strict=True))
        except sqlite3.Error as error:
            raise FileRefusedError(self.path, "broken", f"{table} cannot be read to its end: {error}") from None


def open_source(path: Path, snapshot: Path) -> Source | None:
    """None where the database has none of ALwrity's tables. Raises FileRefusedError where one lacks what it needs."""
    found: dict[str, list[str]] = {}
    notices = []
    with closing(open_snapshot(snapshot)) as connection:
        for table, wanted in COLUMNS.items():
            there = {str(row[1]) for row in connection.execute(f"pragma table_info({table})")}
            if not there:
                notices.append(f"has no table {table}")
                continue
            lacking = [name for name in NEEDED[table] if name not in there]
            if lacking:
                raise FileRefusedError(path, "columns", f"{table} has no column {', '.join(lacking)}")
            found[table] = [name for name in wanted if name in there]
            if missing := [name for name in wanted if name not in there]:
                notices.append(f"{table} has no column {', '.join(missing)}")
    return Source(path, snapshot, found, notices) if found else None
