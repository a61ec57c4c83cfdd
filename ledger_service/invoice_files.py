"""A provider's CSV files → lines. Streamed; all of them or nothing, and every problem names file, line and column."""

import codecs
import csv
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from contracts.problems import FieldError
from ledger_service.domain.reconciliation import Line
from ledger_service.invoice_mappings import CURRENCY, InvoiceMapping
from ledger_service.invoice_values import ValueRuleError, amount_reader, read_quantity, time_reader

#: Broken rules that are named before a file is given up.
ERRORS_MAX: Final = 20
#: Where a mapping names no column for models.
ANY_MODEL: Final = "all models"
_TEXT_MAX: Final = 500
#: What other files than the mapping's set columns apart with.
_DELIMITERS: Final = (";", "\t", "|", ",")
#: How workbooks begin, which are archives.
_ARCHIVE: Final = "PK\x03\x04"
#: Rows between two reports of progress.
_ROWS_PER_STEP: Final = 5_000
_OTHER_ENCODINGS: Final = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class InvoiceError(Exception):
    """The files cannot be taken; ``errors`` name ``file:line:column``, the rule, and the value."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__(f"{len(errors)} problem{'s' if len(errors) > 1 else ''}")
        self.errors = errors


@dataclass
class InvoiceFile:
    """What was read of a file. ``skipped``: rows that the mapping leaves out. ``rounded``: amounts that were."""

    path: Path
    digest: str
    rows: int = 0
    skipped: int = 0
    rounded: int = 0

    @property
    def name(self) -> str:
        return self.path.name


#: What was read of all files so far, in bytes.
Progress = Callable[[int], None]


def open_files(paths: Sequence[Path]) -> list[InvoiceFile]:
    """Raises InvoiceError where one is no file, has nothing in it, or is the same as another; OSError."""
    found: dict[str, InvoiceFile] = {}
    for path in paths:
        if not path.is_file():
            raise InvoiceError([_error(path.name, 0, None, "file", "there is no such file")])
        if path.stat().st_size == 0:
            raise InvoiceError([_error(path.name, 0, None, "empty", "the file is empty")])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        earlier = found.setdefault(digest, InvoiceFile(path, digest))
        if earlier.path is not path:
            message = f"the same content as {earlier.name}: each line would count twice"
            raise InvoiceError([_error(path.name, 0, None, "same_file", message)])
    return list(found.values())


def read_lines(files: Sequence[InvoiceFile], mapping: InvoiceMapping, progress: Progress) -> Iterator[Line]:
    """The charges and credits of all files, in their order; counts on the files as it goes.

    Raises InvoiceError, at the latest at the end: nothing of what came before is to be used then. OSError.
    """
    errors: list[FieldError] = []
    before = 0
    for place, file in enumerate(files):
        reader = _Reader(file, place, mapping, errors)
        yield from reader.lines(lambda done, before=before: progress(before + done))  # type: ignore[misc]  # a default
        before += file.path.stat().st_size
    if not errors and not any(file.rows for file in files):
        errors.append(_error(files[0].name, 0, None, "no_rows", "no row is a charge"))
    if errors:
        raise InvoiceError(errors)


def _error(file: str, line: int, column: str | None, rule: str, message: str) -> FieldError:
    place = ":".join(str(part) for part in (file, line or None, column) if part is not None)
    return FieldError(field=place, rule=rule, message=message)


class _Reader:
    def __init__(self, file: InvoiceFile, place: int, mapping: InvoiceMapping, errors: list[FieldError]) -> None:
        self._file = file
        self._place = place
        self._mapping = mapping
        self._errors = errors
        self._amount, self._time = amount_reader(mapping), time_reader(mapping)
        self._models: dict[str, str] = {}

    def lines(self, progress: Progress) -> Iterator[Line]:
        with self._file.path.open("rb") as raw:
            start = raw.read(4)
            raw.seek(0)
            encoding = self._mapping.encoding
            for mark, other in _OTHER_ENCODINGS.items():
                if start.startswith(mark) and codecs.lookup(encoding).name == "utf-8":
                    self._fail(1, None, "encoding", f"begins as {other} does; the mapping says {encoding} (encoding)")
            # What marks the beginning of a file is no part of its first column.
            name = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
            with io.TextIOWrapper(raw, encoding=name, newline="") as text:
                try:
                    yield from self._rows(text, raw, progress)
                except UnicodeError:  # also where a file of UTF-16 does not say in which order its bytes are
                    line = self._undecodable(name)
                    self._fail(line, None, "encoding", f"is not {encoding}; the mapping can name another one")
                except csv.Error as error:
                    delimiter = f"the mapping's delimiter is {self._mapping.delimiter!r}"
                    self._fail(self._at, None, "csv", f"in the row that begins here: {error} ({delimiter})")

    def _rows(self, text: IO[str], raw: IO[bytes], progress: Progress) -> Iterator[Line]:
        skipped = self._mapping.lines_before_header
        self._at = 1
        for _ in range(skipped):
            if not text.readline():
                self._fail(0, None, "header", f"has fewer than {skipped} lines before its header")
        rows = csv.reader(text, delimiter=self._mapping.delimiter, strict=True)
        self._at += skipped
        header = [name.strip() for name in next(rows, [])]
        columns = self._columns(header)
        # The line in which a row begins: one with a quoted line break goes on in the next.
        self._at = skipped + rows.line_num + 1
        for count, row in enumerate(rows):
            line = self._line(row, header, columns) if row else None
            if line is not None:
                yield line
            self._at = skipped + rows.line_num + 1
            if count % _ROWS_PER_STEP == 0:
                progress(raw.tell())
        progress(raw.tell())

    def _columns(self, header: list[str]) -> Mapping[str, int]:
        named = {**self._mapping.columns.model_dump(exclude_none=True)}
        wanted = [*named.items(), *((f"skip[{n}]", one.column) for n, one in enumerate(self._mapping.skip))]
        found = {}
        for what, column in wanted:
            if header.count(column) != 1:
                rule, how = ("missing", "is not there") if column not in header else ("twice", "stands twice")
                there = ", ".join(header[:20]) or "nothing"
                message = f"the column for {what} {how}; the header has {there}. {self._guess(header, column)}"
                self._add(self._at, column, rule, message)
            else:
                found[what] = header.index(column)
        if len(found) != len(wanted):
            raise InvoiceError(self._errors)
        return found

    def _guess(self, header: list[str], column: str) -> str:
        """Why a header has no such column, or several."""
        first, delimiter = header[0] if header else "", self._mapping.delimiter
        if first.startswith(_ARCHIVE):
            return "That is no text: save the workbook as CSV"
        if first.lower().startswith("sep="):
            return "Excel's line sep= comes before the header: the mapping can skip it (lines_before_header: 1)"
        alone = header[1:] in ([], [""])
        other = next((one for one in _DELIMITERS if one != delimiter and one in first), None) if alone else None
        if other is not None:
            return f"Are its columns set apart by {other!r}? The mapping says {delimiter!r} (delimiter)"
        if column.casefold() in (name.casefold() for name in header) and column not in header:
            return "Capitals count"
        return "Is it another provider's file, or does its header stand further down (lines_before_header)?"

    def _line(self, row: list[str], header: list[str], columns: Mapping[str, int]) -> Line | None:
        if len(row) != len(header):
            self._add(self._at, None, "columns", f"has {len(row)} columns, the header {len(header)}")
            return None
        for number, skip in enumerate(self._mapping.skip):
            if row[columns[f"skip[{number}]"]].strip() in skip.values:
                self._file.skipped += 1
                return None
        self._file.rows += 1
        what = ""
        try:
            what = "currency"
            if what in columns and row[columns[what]].strip().upper() != CURRENCY:
                raise ValueRuleError("currency", row[columns[what]], "the ledger counts in USD, and converts nothing")
            what = "amount"
            amount, rounded = self._amount(row[columns[what]])
            what = "time"
            at = self._time(row[columns[what]])
            what = "model"
            model = self._model(row[columns[what]]) if what in columns else ANY_MODEL
            what = "job_id"
            job_id = row[columns[what]].strip() if what in columns else ""
            if len(job_id) > _TEXT_MAX:
                raise ValueRuleError("too_long", job_id, f"at most {_TEXT_MAX} characters")
            what = "quantity"
            quantity = read_quantity(row[columns[what]]) if what in columns else ""
        except ValueRuleError as error:
            self._add(self._at, header[columns[what]], error.rule, str(error))
            return None
        self._file.rounded += rounded
        return Line(self._place, self._at, job_id or None, at, model, quantity, amount)

    def _model(self, named: str) -> str:
        found = self._models.get(named)
        if found is None:
            text = named.strip()
            if not text:
                raise ValueRuleError("empty", named, "a row says its model, or the mapping skips it")
            if len(text) > _TEXT_MAX:
                raise ValueRuleError("too_long", named, f"at most {_TEXT_MAX} characters")
            found = self._models[named] = self._mapping.model_of(text)
        return found

    def _add(self, line: int, column: str | None, rule: str, message: str) -> None:
        self._errors.append(_error(self._file.name, line, column, rule, message))
        if len(self._errors) >= ERRORS_MAX:
            raise InvoiceError(self._errors)

    def _fail(self, line: int, column: str | None, rule: str, message: str) -> None:
        self._add(line, column, rule, message)
        raise InvoiceError(self._errors)

    def _undecodable(self, encoding: str) -> int:
        """The first line that cannot be read; what reads ahead does not say."""
        decoder, line = codecs.getincrementaldecoder(encoding)(), 1
        with self._file.path.open("rb") as raw:
            for line, content in enumerate(raw, 1):
                try:
                    decoder.decode(content)
                except UnicodeError:
                    return line
        return line
