"""A month of the usage log as a Parquet file: written, compared with the table, read back.

Each column has the type that it has in the table: texts, whole numbers, times in UTC, dates. Ids and JSON are texts;
cost is in nano-dollars, whole. Rows are in the order of account, time and operation.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

import pyarrow
import pyarrow.parquet

from ledger_service.store.archives import Cell, Figures

_ROWS_PER_GROUP: Final = 100_000
_TYPES: Final = {
    "text": pyarrow.string(),
    "uuid": pyarrow.string(),
    "json": pyarrow.string(),
    "bigint": pyarrow.int64(),
    "integer": pyarrow.int32(),
    "boolean": pyarrow.bool_(),
    "date": pyarrow.date32(),
    "timestamp with time zone": pyarrow.timestamp("us", tz="UTC"),
}
_COUNTED: Final = (
    "account_id", "operation", "provider", "model", "outcome", "quantity", "cost_nanos", "adjusted_calls",
    "adjusted_failures",
)  # fmt: skip

Row = tuple[object, ...]


class ArchiveFileError(Exception):
    """The file is not what it should be; nothing was changed."""


@dataclass
class Contents:
    """What is in a file: by account how many rows, and by cell what they come to."""

    accounts: dict[str, int] = field(default_factory=dict)
    cells: dict[Cell, Figures] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(self.accounts.values())

    @property
    def figures(self) -> Figures:
        total = Figures()
        for one in self.cells.values():
            total = total.plus(one)
        return total


def schema_of(columns: Mapping[str, str]) -> pyarrow.Schema:
    """Of a table's columns, name → type. Raises ArchiveFileError where there is one that no file could hold."""
    for name, kind in columns.items():
        if kind not in _TYPES:
            raise ArchiveFileError(f"no archive can hold the column {name} of type {kind} yet")
    return pyarrow.schema([pyarrow.field(name.strip('"'), _TYPES[kind]) for name, kind in columns.items()])


def batch_of(schema: pyarrow.Schema, rows: Sequence[Row]) -> pyarrow.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pyarrow.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)]
    return pyarrow.RecordBatch.from_arrays(arrays, schema=schema)


class Writer:
    """A file that has its name once it is whole and on disk."""

    def __init__(self, path: Path, schema: pyarrow.Schema) -> None:
        self.path = path
        self.part = path.with_name(f"{path.name}.part")
        self._schema = schema
        self._waiting: list[pyarrow.RecordBatch] = []
        self._rows = 0
        self._writer = pyarrow.parquet.ParquetWriter(self.part, schema, compression="zstd")

    def add(self, rows: Sequence[Row]) -> None:
        self._waiting.append(batch_of(self._schema, rows))
        self._rows += len(rows)
        if self._rows >= _ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """All is on disk, under a name that says that it is not checked yet."""
        self._flush()
        self._writer.close()
        with self.part.open("rb") as file:
            os.fsync(file.fileno())

    def keep(self) -> None:
        """It was checked: it gets its name, over one that a crash left."""
        self.part.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def drop(self) -> None:
        with suppress(Exception):
            self._writer.close()
        self.part.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pyarrow.Table.from_batches(self._waiting, self._schema))
            self._waiting, self._rows = [], 0


class Comparison:
    """Whether a file has exactly the rows that are given to it, in their order."""

    def __init__(self, path: Path, schema: pyarrow.Schema) -> None:
        self._file = pyarrow.parquet.ParquetFile(path)
        self._schema = schema
        self._batches = self._file.iter_batches()
        self._ahead = pyarrow.Table.from_batches([], schema)

    def add(self, rows: Sequence[Row]) -> None:
        """The next rows. Raises ArchiveFileError where the file has others."""
        while self._ahead.num_rows < len(rows) and (batch := next(self._batches, None)) is not None:
            self._ahead = pyarrow.concat_tables([self._ahead, pyarrow.Table.from_batches([batch], self._schema)])
        wanted = pyarrow.Table.from_batches([batch_of(self._schema, rows)])
        if not self._ahead.slice(0, len(rows)).equals(wanted):
            raise ArchiveFileError("what was read back from the file is not what was written to it")
        self._ahead = self._ahead.slice(len(rows))

    def end(self) -> None:
        """Raises ArchiveFileError where the file has more."""
        if self._ahead.num_rows or next(self._batches, None) is not None:
            raise ArchiveFileError("the file has more rows than were written to it")
        self._file.close()


def digest_of(path: Path) -> tuple[bytes, int]:
    """Its SHA-256 and its size in bytes. Raises OSError."""
    digest, size = sha256(), 0
    with path.open("rb") as file:
        while portion := file.read(1 << 20):
            digest.update(portion)
            size += len(portion)
    return digest.digest(), size


def check_digest(path: Path, digest: bytes) -> None:
    """Raises ArchiveFileError where the file is not there, or is not the one that was written."""
    try:
        found, _ = digest_of(path)
    except OSError as error:
        raise ArchiveFileError(f"{path} cannot be read: {error.strerror or error}") from None
    if found != digest:
        raise ArchiveFileError(f"{path} is not the file that was written: its SHA-256 is {found.hex()}")


def read_contents(path: Path) -> Contents:
    """What is in a file, in constant memory but for accounts and cells."""
    contents = Contents()
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(columns=list(_COUNTED)):
        columns = [batch.column(name).to_pylist() for name in _COUNTED]
        for account, operation, provider, model, outcome, quantity, cost, calls, failures in zip(*columns, strict=True):
            contents.accounts[account] = contents.accounts.get(account, 0) + 1
            cell = (account, operation, provider, model)
            # The rule of counted_calls(), counted_units() and counted_failures().
            counts = Figures(
                calls if calls is not None else int(outcome == "completed"),
                0 if outcome == "failed" else quantity,
                cost,
                failures if failures is not None else int(outcome == "failed"),
            )
            contents.cells[cell] = contents.cells.get(cell, Figures()).plus(counts)
    return contents


def read_rows(path: Path, columns: Sequence[str], at_most: int) -> Iterator[list[Row]]:
    """The rows in portions, each column as PostgreSQL takes it; columns that the file does not have are null."""
    file = pyarrow.parquet.ParquetFile(path)
    known = set(file.schema_arrow.names)
    for batch in file.iter_batches(batch_size=at_most):
        nothing: Iterable[object] = [None] * batch.num_rows
        yield list(
            zip(
                *(batch.column(name).to_pylist() if name in known else nothing for name in columns),
                strict=True,
            )
        )
