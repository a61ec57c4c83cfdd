"""Parquet files are made of pages of any size: all of their rows, in few row groups."""

import io

import pyarrow.parquet as parquet
import pytest

from contracts.exports import Column, ColumnType, ExportFormat
from ledger_service import export_parquet
from ledger_service.export_formats import make_encoder
from ledger_service.exporting import FOCUS, PAGE_ROWS, USAGE_LOG

COLUMNS = (Column("name", ColumnType.TEXT), Column("cost", ColumnType.MONEY))


def written(*pages: list[int]) -> parquet.ParquetFile:
    """A file of pages, each of rows that are numbers."""
    encoder = make_encoder(ExportFormat.PARQUET, COLUMNS, {"export": "test"})
    parts = [encoder.begin()]
    parts += [encoder.page("".join(f"n{number},{number}\n" for number in page).encode()) for page in pages]
    return parquet.ParquetFile(io.BytesIO(b"".join([*parts, encoder.end()])))


@pytest.mark.parametrize("rows_a_page", [1, 7, 10, 25])
def test_pages_become_row_groups_with_every_row_once_in_order(
    rows_a_page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_parquet, "_GROUP_ROWS", 10)
    rows = list(range(43))
    file = written(*([*rows[at : at + rows_a_page]] for at in range(0, len(rows), rows_a_page)))
    table = file.read()
    assert table["name"].to_pylist() == [f"n{number}" for number in rows]
    assert [int(cost.scaleb(9)) for cost in table["cost"].to_pylist()] == rows
    groups = [file.metadata.row_group(place).num_rows for place in range(file.num_row_groups)]
    assert all(size >= 10 for size in groups[:-1]), groups
    assert file.schema_arrow.metadata[b"export"] == b"test"


def test_pages_without_rows_make_no_row_group() -> None:
    file = written([], [1], [], [2], [])
    assert (file.num_row_groups, file.metadata.num_rows) == (1, 2)
    assert written([]).metadata.num_rows == 0


def test_a_page_of_wider_rows_has_fewer() -> None:
    assert USAGE_LOG.page_rows(PAGE_ROWS) == PAGE_ROWS
    assert FOCUS.page_rows(PAGE_ROWS) * len(FOCUS.columns) <= PAGE_ROWS * len(USAGE_LOG.columns) / 2
    assert FOCUS.page_rows(1) == 1
