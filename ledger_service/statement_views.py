"""A statement as a table for spreadsheets and a page to print: the same figures as in JSON. The PDF: statement_pdfs."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final, NamedTuple

from contracts.money import format_nanos
from contracts.statements import Figures, Statement, StatementEntry

_COLUMNS: Final = (
    "section", "operation", "provider", "model", "calls", "units", "failures", "cost", "id", "reference", "author",
    "reason", "occurred_at", "recorded_at",
)  # fmt: skip
_SECTIONS: Final = ("opening", "usage", "late", "corrections", "total", "closing")
#: What a spreadsheet takes for a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

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
    for rest in statement.rest:
        about = _texts(rest.operation, rest.provider, rest.model)
        told = f"{rest.entries} entries beyond those above, summed up"
        rows.writerow([f"more {rest.kind.value}", *about, *_figures(rest), "", "", "", told, "", ""])
    return written.getvalue()


def statement_html(statement: Statement) -> str:
    """A page of its own that loads nothing."""
    told = [f"<p>{escape(left)}</p>"] if (left := left_out_of(statement)) else []
    return _PAGE.format(
        title=escape(title_of(statement)),
        state=escape(state_of(statement)),
        tables="\n".join([*map(_html_table, tables_of(statement)), *told]),
    )


class StatementTable(NamedTuple):
    """``texts``: so many columns are texts, the others numbers."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int


def tables_of(statement: Statement) -> list[StatementTable]:
    numbers = ("calls", "units", "failures", "cost $")
    sections = [[name.capitalize(), *_figures(getattr(statement, name))] for name in _SECTIONS]
    lines = [[line.operation, line.provider, line.model, *_figures(line)] for line in statement.lines]
    tables = [
        StatementTable("Summary", ("", *numbers), sections, 1),
        StatementTable("By operation, provider and model", ("operation", "provider", "model", *numbers), lines, 3),
    ]
    if statement.entries:
        heads = ("what", "of", "belongs to", "author", "reason", *numbers)
        tables.append(
            StatementTable("Late arrivals and corrections", heads, [*map(_entry_cells, statement.entries)], 5)
        )
    if statement.rest:
        heads = ("what", "operation", "provider", "model", "entries", *numbers)
        more = [
            [one.kind.value, one.operation, one.provider, one.model, str(one.entries), *_figures(one)]
            for one in statement.rest
        ]
        tables.append(StatementTable("Those beyond these, summed up", heads, more, 4))
    return tables


def title_of(statement: Statement) -> str:
    return f"Statement of {statement.account_id} for {statement.period}"


def state_of(statement: Statement) -> str:
    closed = statement.closed
    if closed is None:
        return "This period is open: its figures may still change."
    return f"Closed on {_time(closed.closed_at)} by {closed.author}: {closed.reason}. Its figures no longer change."


def left_out_of(statement: Statement) -> str:
    left = sum(one.entries for one in statement.rest)
    return f"and {left} more; they are in the usage log, and in the figures above." if left else ""


def _entry_cells(one: StatementEntry) -> list[str]:
    of = str(one.reference or one.id)
    return [one.kind.value, of, _time(one.occurred_at), one.author or "", one.reason or "", *_figures(one)]


def _html_table(one: StatementTable) -> str:
    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}>{escape(value)}</{tag}>" if place < one.texts else f'<{tag} class="number">{escape(value)}</{tag}>'
            for place, value in enumerate(values)
        )

    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in one.rows)
    head = f"<thead><tr>{cells('th', one.heads)}</tr></thead>"
    return f"<h2>{escape(one.title)}</h2>\n<table>{head}<tbody>\n{body}\n</tbody></table>"


def _figures(one: Figures) -> list[str]:
    return [str(one.calls), str(one.units), str(one.failures), format_nanos(one.cost)]


def _texts(*values: str) -> list[str]:
    return [f"'{value}" if value.startswith(_FORMULA) else value for value in values]


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
