"""A statement as a table for spreadsheets, a page to print, and a PDF: the same figures as in JSON."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final, NamedTuple

from fpdf import FPDF

from contracts.money import format_nanos
from contracts.statements import Figures, Statement, StatementEntry

_COLUMNS: Final = (
    "section", "operation", "provider", "model", "calls", "units", "failures", "cost", "id", "reference", "author",
    "reason", "occurred_at", "recorded_at",
)  # fmt: skip
_SECTIONS: Final = ("opening", "usage", "late", "corrections", "total", "closing")
#: What a spreadsheet takes for a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

#: Of the PDF of a period that is open.
_NO_DATE: Final = datetime(2000, 1, 1, tzinfo=UTC)

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 10pt/1.4 sans-serif; margin: 2cm; color: #111; }}
h1 {{ font-size: 16pt; }} h2 {{ font-size: 12pt; margin-top: 1.5em; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ border-bottom: 1px solid #ccc; padding: 3px 6px; text-align: left; vertical-align: top; }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
tr {{ break-inside: avoid; }} thead {{ display: table-header-group; }}
@page {{ size: A4; margin: 1.5cm; }} @media print {{ body {{ margin: 0; }} }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{state}</p>
{tables}
</body>
</html>
"""


def statement_csv(statement: Statement) -> str:
    """One table: the figures by section, then the lines, then late arrivals and corrections one by one."""
    written = io.StringIO(newline="")
    rows = csv.writer(written)
    rows.writerow(_COLUMNS)
    for name in _SECTIONS:
        rows.writerow([name, "", "", "", *_figures(getattr(statement, name)), *[""] * 6])
    for line in statement.lines:
        rows.writerow(["line", *_texts(line.operation, line.provider, line.model), *_figures(line), *[""] * 6])
    for one in statement.entries:
        rows.writerow(
            [
                one.kind.value, *_texts(one.operation, one.provider, one.model), *_figures(one), str(one.id),
                str(one.reference or ""), *_texts(one.author or "", one.reason or ""), _time(one.occurred_at),
                _time(one.recorded_at),
            ]
        )  # fmt: skip
    return written.getvalue()


def statement_html(statement: Statement) -> str:
    """A page of its own that loads nothing."""
    told = [f"<p>{escape(left)}</p>"] if (left := _left_out(statement)) else []
    return _PAGE.format(
        title=escape(_title(statement)),
        state=escape(_state(statement)),
        tables="\n".join([*map(_html_table, _tables(statement)), *told]),
    )


def statement_pdf(statement: Statement) -> bytes:
    """The same on paper. What the fonts that every reader has cannot show, beyond Latin-1, becomes a question mark.

    Takes seconds where a thousand entries are listed: not for the event loop.
    """
    pdf = FPDF(orientation="landscape", format="A4")
    # What the file says of itself does not change either.
    pdf.set_creation_date(statement.closed.closed_at if statement.closed else _NO_DATE)
    pdf.set_title(_title(statement))
    pdf.set_font("Helvetica", size=8)
    pdf.add_page()
    _paragraph(pdf, _title(statement), size=14)
    _paragraph(pdf, _state(statement))
    for one in _tables(statement):
        _paragraph(pdf, one.title, size=10)
        aligned = ["LEFT" if place < one.texts else "RIGHT" for place in range(len(one.heads))]
        widths = [3 if place < one.texts else 1.5 for place in range(len(one.heads))]
        with pdf.table(text_align=aligned, col_widths=widths, line_height=4) as table:
            for row in (one.heads, *one.rows):
                table.row([_latin(cell) for cell in row])
    if left := _left_out(statement):
        _paragraph(pdf, left)
    return bytes(pdf.output())


class _Table(NamedTuple):
    """``texts``: so many columns are texts, the others numbers."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int


def _tables(statement: Statement) -> list[_Table]:
    numbers = ("calls", "units", "failures", "cost $")
    sections = [[name.capitalize(), *_figures(getattr(statement, name))] for name in _SECTIONS]
    lines = [[line.operation, line.provider, line.model, *_figures(line)] for line in statement.lines]
    tables = [
        _Table("Summary", ("", *numbers), sections, 1),
        _Table("By operation, provider and model", ("operation", "provider", "model", *numbers), lines, 3),
    ]
    if statement.entries:
        heads = ("what", "of", "belongs to", "author", "reason", *numbers)
        tables.append(_Table("Late arrivals and corrections", heads, [*map(_entry_cells, statement.entries)], 5))
    return tables


def _title(statement: Statement) -> str:
    return f"Statement of {statement.account_id} for {statement.period}"


def _state(statement: Statement) -> str:
    closed = statement.closed
    if closed is None:
        return "This period is open: its figures may still change."
    return f"Closed on {_time(closed.closed_at)} by {closed.author}: {closed.reason}. Its figures no longer change."


def _left_out(statement: Statement) -> str:
    left = statement.entries_in_all - len(statement.entries)
    return f"and {left} more; they are in the usage log, and in the figures above." if left else ""


def _entry_cells(one: StatementEntry) -> list[str]:
    of = str(one.reference or one.id)
    return [one.kind.value, of, _time(one.occurred_at), one.author or "", one.reason or "", *_figures(one)]


def _html_table(one: _Table) -> str:
    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}>{escape(value)}</{tag}>" if place < one.texts else f'<{tag} class="number">{escape(value)}</{tag}>'
            for place, value in enumerate(values)
        )

    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in one.rows)
    head = f"<thead><tr>{cells('th', one.heads)}</tr></thead>"
    return f"<h2>{escape(one.title)}</h2>\n<table>{head}<tbody>\n{body}\n</tbody></table>"


def _paragraph(pdf: FPDF, text: str, size: int = 8) -> None:
    pdf.set_font("Helvetica", size=size)
    pdf.multi_cell(0, None, _latin(text), new_x="LMARGIN", new_y="NEXT")
    pdf.ln(2)
    pdf.set_font("Helvetica", size=8)


def _latin(text: str) -> str:
    return text.encode("latin-1", "replace").decode("latin-1")


def _figures(one: Figures) -> list[str]:
    return [str(one.calls), str(one.units), str(one.failures), format_nanos(one.cost)]


def _texts(*values: str) -> list[str]:
    return [f"'{value}" if value.startswith(_FORMULA) else value for value in values]


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
