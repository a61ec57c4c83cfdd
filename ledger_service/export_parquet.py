"""Rows as CSV → Parquet, in C++ that leaves the interpreter to others meanwhile."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet

from contracts.exports import Column, ColumnType
from contracts.money import DECIMALS_MAX

_DECIMAL: Final = pa.decimal128(38, DECIMALS_MAX)
ARROW_TYPES: Final = {
    ColumnType.TEXT: pa.string(),
    ColumnType.INTEGER: pa.int64(),
    ColumnType.SMALL: pa.int32(),
    ColumnType.MONEY: _DECIMAL,
    ColumnType.DECIMAL: _DECIMAL,
    ColumnType.MOMENT: pa.timestamp("us", "UTC"),
    ColumnType.DATE: pa.date32(),
    ColumnType.JSON: pa.string(),
}
#: Of CSV that is read at once: small, as its columns are in memory beside it.
_BLOCK_BYTES: Final = 1024 * 1024
#: Of a row group, at least. Of each the writer remembers 20 to 30 KiB until the file's end.
_GROUP_ROWS: Final = 9_000


class ParquetEncoder:
    """Pages become row groups of some thousand rows, however few a page has. Columns of MONEY come as whole
    nano-dollars."""

    def __init__(self, columns: Sequence[Column], about: Mapping[str, str]) -> None:
        self._schema = pa.schema([(column.name, ARROW_TYPES[column.type]) for column in columns], metadata=dict(about))
        self._money = [place for place, column in enumerate(columns) if column.type is ColumnType.MONEY]
        read = {column.name: ARROW_TYPES[column.type] for column in columns}
        read |= {columns[place].name: pa.int64() for place in self._money}
        self._reading = {
            "read_options": arrow_csv.ReadOptions(
                use_threads=False, block_size=_BLOCK_BYTES, column_names=[column.name for column in columns]
            ),
            "parse_options": arrow_csv.ParseOptions(newlines_in_values=True),
            "convert_options": arrow_csv.ConvertOptions(
                column_types=read, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False,
                check_utf8=False,
            ),
        }  # fmt: skip
        self._group: list[pa.Table] = []
        self._group_rows = 0
        self._written = _Written()
        self._writer = parquet.ParquetWriter(
            self._written,
            self._schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[column.name for column in columns if column.repeats],
        )

    def begin(self) -> bytes:
        return self._written.take()

    def page(self, data: bytes) -> bytes:
        if data:
            table = arrow_csv.read_csv(pa.BufferReader(data), **self._reading)
            for place in self._money:
                table = table.set_column(place, self._schema[place].name, _dollars(table.column(place)))
            self._group.append(table.replace_schema_metadata(self._schema.metadata))
            self._group_rows += table.num_rows
            if self._group_rows >= _GROUP_ROWS:
                self._write_group()
        return self._written.take()

    def end(self) -> bytes:
        if self._group:
            self._write_group()
        self._writer.close()
        return self._written.take()

    def _write_group(self) -> None:
        self._writer.write_table(pa.concat_tables(self._group))
        self._group, self._group_rows = [], 0


def _dollars(nanos: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same integers, said to have nine decimals."""
    whole = nanos.cast(pa.decimal128(38, 0))
    chunks = [pa.Array.from_buffers(_DECIMAL, len(one), one.buffers(), offset=one.offset) for one in whole.chunks]
    return pa.chunked_array(chunks, _DECIMAL)


class _Written:
    """A file to Arrow, of which we take what was written so far."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: Any) -> int:  # Any: Arrow hands over bytes or a buffer of its own
        self._parts.append(bytes(data))
        self._size += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken
