"""Providers' CSV files: what is read of them, and what is said of those that cannot be read."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts.money import parse_nanos
from ledger_service.domain.reconciliation import Line
from ledger_service.invoice_files import ERRORS_MAX, InvoiceError, InvoiceFile, open_files, read_lines
from ledger_service.invoice_mappings import InvoiceMapping, MappingError, parse_mapping, read_mapping, shipped

HEADER = "job,when,what,units,price"
ROW = "j1,2026-11-01T10:00:00Z,flux,1,0.03"
AT = 1_793_527_200_000_000  # 2026-11-01T10:00:00Z


def mapping(**changes: Any) -> InvoiceMapping:
    fields = {
        "provider": "wavespeed",
        "source": "https://example.org",
        "read_on": "2026-11-23",
        "columns": {"job_id": "job", "time": "when", "model": "what", "quantity": "units", "amount": "price"},
        "currency": "USD",
        **changes,
    }
    return parse_mapping(yaml.safe_dump({name: value for name, value in fields.items() if value is not None}), "m.yaml")


def written(folder: Path, *rows: str, name: str = "nov.csv", header: str = HEADER, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes("\n".join([header, *rows, ""]).encode(encoding))
    return path


def lines(path: Path, how: InvoiceMapping | None = None) -> list[Line]:
    return list(read_lines(open_files([path]), how or mapping(), lambda _: None))


def problems(path: Path, how: InvoiceMapping | None = None) -> list[tuple[str, str]]:
    with pytest.raises(InvoiceError) as caught:
        lines(path, how)
    return [(one.field, one.rule) for one in caught.value.errors]


def test_a_row_is_a_line(tmp_path: Path) -> None:
    assert lines(written(tmp_path, ROW)) == [Line(0, 2, "j1", AT, "flux", "1", parse_nanos("0.03"))]


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({"charges": "negative"}, "j1,2026-11-01T10:00:00Z,flux,1,-0.03"),
        ({"time_zone": "Europe/Berlin"}, "j1,2026-11-01 11:00:00,flux,1,0.03"),
        ({}, "j1,2026-11-01 10:00:00 UTC,flux,1,3e-2"),
        ({}, "j1,2026-11-01T12:00:00+02:00,flux,1,0.0300000000000000"),
        ({"time_format": "unix_seconds"}, "j1,1793527200,flux,1,0.03"),
        ({"time_format": "unix_milliseconds"}, "j1,1793527200000,flux,1,0.03"),
        ({"time_format": "%d/%m/%Y %H:%M", "time_zone": "UTC"}, "j1,01/11/2026 10:00,flux,1,0.03"),
        ({"decimal_separator": ",", "delimiter": ";"}, "j1;2026-11-01T10:00:00Z;flux;1;0,03"),
        ({"models": [{"named": "FLUX*", "model": "flux"}]}, "j1,2026-11-01T10:00:00Z,FLUX.1 [dev],1,0.03"),
        ({"round_to_nanos": True}, "j1,2026-11-01T10:00:00Z,flux,1,0.02999999999999999"),
    ],
)
def test_the_same_line_in_other_ways_of_writing(tmp_path: Path, changes: dict[str, Any], row: str) -> None:
    header = HEADER.replace(",", changes.get("delimiter", ","))
    assert lines(written(tmp_path, row, header=header), mapping(**changes)) == [
        Line(0, 2, "j1", AT, "flux", "1", parse_nanos("0.03"))
    ]


@pytest.mark.parametrize(
    ("separators", "amount", "nanos"),
    [((".", ","), "1,234.5", "1234.5"), ((",", "."), "-1.234.567,89", "-1234567.89"), ((",", "'"), "12'000", "12000")],
)
def test_thousands_where_the_mapping_says_so(
    tmp_path: Path, separators: tuple[str, str], amount: str, nanos: str
) -> None:
    how = mapping(decimal_separator=separators[0], thousands_separator=separators[1])
    [line] = lines(written(tmp_path, f'j1,2026-11-01T10:00:00Z,flux,1,"{amount}"'), how)
    assert line.amount == parse_nanos(nanos)


def test_bytes_of_order_marks_other_encodings_and_quoted_line_breaks(tmp_path: Path) -> None:
    [line] = lines(written(tmp_path, ROW, encoding="utf-8-sig"))
    assert line.job_id == "j1"
    [line] = lines(written(tmp_path, ROW.replace("flux", "é"), encoding="utf-16"), mapping(encoding="utf-16"))
    assert line.model == "é"
    [line] = lines(written(tmp_path, ROW.replace("flux", "é"), encoding="latin-1"), mapping(encoding="latin-1"))
    assert line.model == "é"
    first, second = lines(written(tmp_path, ROW.replace("flux", '"a\nb"'), ROW))
    assert (first.model, first.number, second.number) == ("a\nb", 2, 4)


def test_what_is_before_the_header_and_rows_that_are_no_charges(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER, "", ROW, "x,2026-11-01T10:00:00Z,paid in,1,100", header="November\n2026")
    files = open_files([path])
    how = mapping(lines_before_header=2, skip=[{"column": "what", "values": ["paid in"]}])
    [line] = read_lines(files, how, lambda _: None)
    assert (line.number, files[0].rows, files[0].skipped) == (5, 1, 1)


@pytest.mark.parametrize(
    ("row", "place", "rule"),
    [
        ("j1,2026-11-01T10:00:00Z,flux,1,", "price", "empty"),
        ('j1,2026-11-01T10:00:00Z,flux,1,"1,000.00"', "price", "thousands"),
        ('j1,2026-11-01T10:00:00Z,flux,1,"0,03"', "price", "thousands"),
        ("j1,2026-11-01T10:00:00Z,flux,1,0.0000000001", "price", "money_decimals"),
        ("j1,2026-11-01T10:00:00Z,flux,1,$0.03", "price", "amount"),
        ("j1,2026-11-01T10:00:00Z,flux,1,NaN", "price", "amount"),
        ("j1,2026-11-01T10:00:00Z,flux,1,٣", "price", "amount"),
        ("j1,2026-11-01T10:00:00Z,flux,1,1e12", "price", "amount"),
        ("j1,2026-11-01T10:00:00,flux,1,0.03", "when", "time_zone"),
        ("j1,2026-11-31T10:00:00Z,flux,1,0.03", "when", "time"),
        ("j1,1793527200,flux,1,0.03", "when", "time"),
        ("j1,0001-01-01T10:00:00Z,flux,1,0.03", "when", "time"),
        ("j1,2026-11-01T10:00:00Z,,1,0.03", "what", "empty"),
        ("j1,2026-11-01T10:00:00Z,flux,many,0.03", "units", "quantity"),
        (f"{'j' * 501},2026-11-01T10:00:00Z,flux,1,0.03", "job", "too_long"),
    ],
)
def test_a_bad_value_is_named_with_its_place(tmp_path: Path, row: str, place: str, rule: str) -> None:
    assert problems(written(tmp_path, ROW, row)) == [(f"nov.csv:3:{place}", rule)]


def test_another_currency_is_refused(tmp_path: Path) -> None:
    columns = {"time": "when", "model": "what", "amount": "price", "currency": "units"}
    rows = ("j,2026-11-01T10:00:00Z,flux,usd,1", "j,2026-11-01T10:00:00Z,flux,EUR,1")
    assert problems(written(tmp_path, *rows), mapping(columns=columns, currency=None)) == [
        ("nov.csv:3:units", "currency")
    ]


def test_bad_files(tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_bytes(b"")
    assert problems(empty) == [("empty.csv", "empty")]
    assert problems(tmp_path / "none.csv") == [("none.csv", "file")]
    assert problems(written(tmp_path)) == [("nov.csv", "no_rows")]
    assert problems(written(tmp_path, "a,b", header="id,amount")) == [
        ("nov.csv:1:when", "missing"), ("nov.csv:1:price", "missing"), ("nov.csv:1:what", "missing"),
        ("nov.csv:1:job", "missing"), ("nov.csv:1:units", "missing"),
    ]  # fmt: skip
    assert problems(written(tmp_path, ROW, header=f"{HEADER},price")) == [("nov.csv:1:price", "twice")]
    assert problems(written(tmp_path, ROW, "j1,short")) == [("nov.csv:3", "columns")]
    assert problems(written(tmp_path, ROW, 'j1,"never closed')) == [("nov.csv:3", "csv")]
    assert problems(written(tmp_path, ROW, ROW.replace("flux", "é"), encoding="latin-1")) == [("nov.csv:3", "encoding")]
    assert problems(written(tmp_path, ROW, encoding="utf-16")) == [("nov.csv:1", "encoding")]
    assert problems(written(tmp_path, ROW), mapping(encoding="utf-16")) == [("nov.csv:1", "encoding")], "no mark"


@pytest.mark.parametrize(
    ("content", "guess"),
    [
        (f"{HEADER}\n{ROW}\n".replace(",", ";"), "set apart by ';'? The mapping says ','"),
        (f"{HEADER}\n{ROW}\n".replace(",", "\t"), r"set apart by '\t'? The mapping says ','"),
        (f"sep=,\r\n{HEADER}\r\n{ROW}\r\n", "lines_before_header: 1"),
        (f"Invoice of November\n\n{HEADER}\n{ROW}\n", "further down (lines_before_header)"),
        (f"{HEADER.upper()}\n{ROW}\n", "Capitals count"),
        ("PK\x03\x04\x14\x00\x06\x00", "save the workbook as CSV"),
        ("<!doctype html><html>Sign in</html>\n", "another provider's file"),
        ('"job";"when";"what";"units";"price"\n', "delimiter is ','"),
    ],
)
def test_a_header_that_is_none_is_told_why_by_what_people_do_most(tmp_path: Path, content: str, guess: str) -> None:
    path = tmp_path / "nov.csv"
    path.write_bytes(content.encode())
    with pytest.raises(InvoiceError) as caught:
        lines(path)
    assert all(one.field.startswith("nov.csv:1") and guess in one.message for one in caught.value.errors)


@pytest.mark.parametrize(
    ("amount", "changes"),
    [
        ("1.234,50", {"decimal_separator": ","}),
        ("1,234.50", {}),
        ("1\u00a0234,50", {"decimal_separator": ",", "thousands_separator": " "}),
        ("(1.00)", {}), ("1.00-", {}), ("\u22121.00", {}), ("+1.00", {}), ("1.00 EUR", {}), ("€1.00", {}), ("-", {}),
    ],
)  # fmt: skip
def test_an_amount_that_the_mapping_does_not_announce_is_never_guessed(
    tmp_path: Path, amount: str, changes: dict[str, Any]
) -> None:
    row = f"j1;2026-11-01T10:00:00Z;flux;1;{amount}"
    path = written(tmp_path, row, header=HEADER.replace(",", ";"))
    [(place, _)] = problems(path, mapping(delimiter=";", **changes))
    assert place == "nov.csv:2:price"


def test_what_excel_puts_after_the_rows_is_named_or_skipped_by_the_mapping(tmp_path: Path) -> None:
    path = written(tmp_path, ROW, ",,,,", "Total,,,,0.03")
    assert problems(path) == [("nov.csv:3:price", "empty"), ("nov.csv:4:when", "time")]
    assert len(lines(path, mapping(skip=[{"column": "when", "values": [""]}]))) == 1


def test_the_same_file_twice_is_refused_under_any_name(tmp_path: Path) -> None:
    paths = [written(tmp_path, ROW), written(tmp_path, ROW, name="copy.csv")]
    with pytest.raises(InvoiceError) as caught:
        open_files(paths)
    assert [(one.field, one.rule) for one in caught.value.errors] == [("copy.csv", "same_file")]


def test_many_bad_lines_are_named_but_not_all(tmp_path: Path) -> None:
    path = written(tmp_path, *["j1,2026-11-01T10:00:00Z,flux,1,x"] * 1000)
    assert len(problems(path)) == ERRORS_MAX


def test_files_are_read_as_they_come_and_not_all_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, *[ROW] * 50_000)
    seen: list[int] = []
    read = read_lines([InvoiceFile(path, "")], mapping(), seen.append)
    next(read)
    assert not seen or seen[-1] < path.stat().st_size // 2
    assert sum(1 for _ in read) == 49_999
    assert seen == sorted(seen)
    assert seen[-1] == path.stat().st_size


# --- mappings


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_mappings_are_reviewed_and_fit(name: str) -> None:
    how = read_mapping(name)
    assert how.provider == name
    assert how.source.startswith("https://")


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        ({"columns": {"time": "when", "model": "what"}}, "columns.amount", "missing"),
        ({"columns": {"time": "when", "amount": "price"}}, "columns", "model"),
        ({"currency": None}, "currency", "currency"),
        ({"currency": "EUR"}, "currency", "currency"),
        ({"time_zone": "Middle/Earth"}, "time_zone", "time_zone"),
        ({"encoding": "klingon"}, "encoding", "encoding"),
        ({"thousands_separator": "."}, "columns", "separators"),
        ({"colums": {}}, "colums", "extra_forbidden"),
        ({"rows": "hour"}, "rows", "literal_error"),
    ],
)
def test_a_bad_mapping_is_named_with_line_and_field(changes: dict[str, Any], field: str, rule: str) -> None:
    with pytest.raises(MappingError) as caught:
        mapping(**changes)
    [error] = caught.value.errors
    assert (error.field, error.rule) == (field, rule)
    assert error.message.startswith("line ")
