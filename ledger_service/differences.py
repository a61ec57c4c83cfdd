"""Differences on disk, for there may be as many as rows: read again account by account."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ledger_service.verification import Difference

_SCHEMA: Final = """
create table differences (
    account_id text not null, projection text not null, live text, wanted text, columns text not null
)
"""
_OF_ACCOUNT: Final = "select projection, account_id, live, wanted, columns from differences where account_id = ?"


class DifferenceStore:
    """What was found. The file has no name and goes with the process."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")  # SQLite's own temporary file, once it does not fit into its cache
        self._database.execute(_SCHEMA)
        self._database.execute("create index of_account on differences (account_id)")

    def add(self, found: Difference) -> None:
        row = found.account_id, found.projection, found.live, found.wanted, " ".join(found.columns)
        self._database.execute("insert into differences values (?, ?, ?, ?, ?)", row)

    def accounts(self) -> Iterator[tuple[str, int]]:
        """Accounts in their order, and how many differences each has; the empty name is what is about no account."""
        yield from self._database.execute("select account_id, count(*) from differences group by 1 order by 1")

    def of(self, account_id: str) -> list[Difference]:
        rows = self._database.execute(_OF_ACCOUNT, (account_id,))
        return [
            Difference(projection, account_id, live, wanted, tuple(columns.split()))
            for projection, account_id, live, wanted, columns in rows
        ]

    def close(self) -> None:
        self._database.close()


@contextmanager
def difference_store() -> Iterator[DifferenceStore]:
    store = DifferenceStore()
    try:
        yield store
    finally:
        store.close()
