"""A statement as a table for spreadsheets, and as a page to print: the same figures as in JSON."""

import csv
import io
from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from typing import Final

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
    return written.getvalue()


def statement_html(statement: Statement) -> str:
    """A page of its own that loads nothing."""
    closed = statement.closed
    state = "This period is open: its figures may still change."
    if closed is not None:
        state = (
            f"Closed on {_time(closed.closed_at)} by {closed.author}: {closed.reason}. Its figures no longer change."
        )
    numbers = ("calls", "units", "failures", "cost $")
    tables = [
        _table(
            "Summary",
            ("", *numbers),
            ([name.capitalize(), *_figures(getattr(statement, name))] for name in _SECTIONS),
            1,
        ),
        _table(
            "By operation, provider and model",
            ("operation", "provider", "model", *numbers),
            ([line.operation, line.provider, line.model, *_figures(line)] for line in statement.lines),
            3,
        ),
    ]
    if statement.entries:
        heads = ("what", "of", "belongs to", "author", "reason", *numbers)
        tables.append(_table("Late arrivals and corrections", heads, map(_entry_cells, statement.entries), 5))
    left = statement.entries_in_all - len(statement.entries)
    if left:
        tables.append(f"<p>and {left} more; they are in the usage log, and in the figures above.</p>")
    title = f"Statement of {statement.account_id} for {statement.period}"
    return _PAGE.format(title=escape(title), state=escape(state), tables="\n".join(tables))


def _entry_cells(one: StatementEntry) -> list[str]:
    of = str(one.reference or one.id)
    return [one.kind.value, of, _time(one.occurred_at), one.author or "", one.reason or "", *_figures(one)]


def _table(title: str, heads: Iterable[str], rows: Iterable[list[str]], texts: int) -> str:
    """``texts``: so many columns are texts, the others numbers."""

    def cells(tag: str, values: Iterable[str]) -> str:
        return "".join(
            f"<{tag}>{escape(value)}</{tag}>" if place < texts else f'<{tag} class="number">{escape(value)}</{tag}>'
            for place, value in enumerate(values)
        )

    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    head = f"<thead><tr>{cells('th', heads)}</tr></thead>"
    return f"<h2>{escape(title)}</h2>\n<table>{head}<tbody>\n{body}\n</tbody></table>"


def _figures(one: Figures) -> list[str]:
    return [str(one.calls), str(one.units), str(one.failures), format_nanos(one.cost)]


def _texts(*values: str) -> list[str]:
    return [f"'{value}" if value.startswith(_FORMULA) else value for value in values]


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
