"""Exports: the columns of the usage log as it leaves the ledger, and the formats that it leaves in."""

from enum import StrEnum
from typing import Final, NamedTuple

#: Answers' headers: goes on with this download, with the next part, what it shows, and how much that may be.
EXPORT_CURSOR: Final = "Export-Cursor"
NEXT_CURSOR: Final = "Next-Cursor"
EXPORT_AS_OF: Final = "Ledger-As-Of"
ROWS_ESTIMATE: Final = "Export-Rows-Estimate"


class ExportFormat(StrEnum):
    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


MEDIA_TYPES: Final = {
    ExportFormat.CSV: "text/csv; charset=utf-8",
    ExportFormat.JSONL: "application/x-ndjson",
    ExportFormat.PARQUET: "application/vnd.apache.parquet",
}


class ColumnType(StrEnum):
    """As in Parquet. In CSV and JSON Lines: MONEY is a decimal string, MOMENT is RFC 3339 in UTC."""

    TEXT = "text"
    INTEGER = "int64"
    SMALL = "int32"
    #: decimal(38, 9) dollars
    MONEY = "money"
    #: decimal(38, 9)
    DECIMAL = "decimal"
    #: microseconds, UTC
    MOMENT = "moment"
    DATE = "date"
    #: JSON as text; in JSON Lines an object
    JSON = "json"


class Column(NamedTuple):
    name: str
    type: ColumnType
    #: Few different values for many rows.
    repeats: bool = False


_T, _I = ColumnType.TEXT, ColumnType.INTEGER

#: One row a finished operation, and one an adjustment. ``calls``, ``units``, ``failures`` and ``cost`` are what the row
#: counts: they add up to the usage summary of ``period``, the first day of the month (UTC) in which it is booked.
USAGE_LOG_COLUMNS: Final = (
    Column("account_id", _T, repeats=True), Column("operation_id", _T), Column("event_id", _T),
    Column("outcome", _T, repeats=True), Column("user_id", _T, repeats=True), Column("project_id", _T, repeats=True),
    Column("api_key_id", _T, repeats=True), Column("operation", _T, repeats=True), Column("provider", _T, repeats=True),
    Column("requested_provider", _T, repeats=True), Column("model", _T, repeats=True), Column("quantity", _I),
    Column("cost", ColumnType.MONEY), Column("calls", _I), Column("units", _I), Column("failures", _I),
    Column("period", ColumnType.DATE), Column("requested_at", ColumnType.MOMENT),
    Column("occurred_at", ColumnType.MOMENT), Column("counted_at", ColumnType.MOMENT),
    Column("recorded_at", ColumnType.MOMENT), Column("duration_ms", _I), Column("status_code", ColumnType.SMALL),
    Column("retry_count", ColumnType.SMALL), Column("request_bytes", _I), Column("response_bytes", _I),
    Column("endpoint", _T, repeats=True), Column("error_code", _T, repeats=True),
    Column("error_message", _T, repeats=True), Column("metadata", ColumnType.JSON), Column("corrects", _T),
    Column("adjustment_kind", _T, repeats=True), Column("adjustment_author", _T, repeats=True),
    Column("adjustment_reason", _T, repeats=True),
)  # fmt: skip
