"""Rows as PostgreSQL copied them → the bytes of a file. What encoders do takes a core: not for the event loop."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from contracts.exports import Column, ExportFormat


class Encoder(Protocol):
    """Makes one file: ``begin()``, a ``page()`` for each page of rows, ``end()``; what they answer is the file."""

    def begin(self) -> bytes: ...

    def page(self, data: bytes) -> bytes: ...

    def end(self) -> bytes: ...


class CsvEncoder:
    """RFC 4180 as `copy` writes it: a null is nothing, an empty text is ``""``."""

    def __init__(self, columns: Sequence[Column], header: bool = True) -> None:
        self._header = ",".join(column.name for column in columns) + "\n" if header else ""

    def begin(self) -> bytes:
        return self._header.encode()

    def page(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes:
        return b""


class LinesEncoder:
    """JSON Lines. Of what `copy` escapes, the JSON of a row has only the backslash."""

    def begin(self) -> bytes:
        return b""

    def page(self, data: bytes) -> bytes:
        return data.replace(b"\\\\", b"\\")

    def end(self) -> bytes:
        return b""


def make_encoder(
    wanted: ExportFormat, columns: Sequence[Column], about: Mapping[str, str], header: bool = True
) -> Encoder:
    """``about``: what a Parquet file says of itself. ``header``: of CSV."""
    match wanted:
        case ExportFormat.CSV:
            return CsvEncoder(columns, header)
        case ExportFormat.JSONL:
            return LinesEncoder()
        case ExportFormat.PARQUET:
            # Read when first needed: it takes 60 MiB, of which most ledgers' processes need nothing.
            from ledger_service.export_parquet import ParquetEncoder

            return ParquetEncoder(columns, about)
