"""A statement as PDF, with the figures and words of the page to print."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from itertools import zip_longest
from typing import Final

from fpdf import FPDF
from fpdf.enums import MethodReturnValue
from fpdf.fonts import FontFace, TTFFont

from contracts.statements import Statement
from ledger_service.statement_views import left_out_of, state_of, tables_of, title_of

#: Of a period that is open.
_NO_DATE: Final = datetime(2000, 1, 1, tzinfo=UTC)
_EVERY_READER_HAS: Final = "Helvetica"
#: For what is beyond Latin-1: Latin, Greek, Cyrillic, Armenian, Hebrew, Arabic and more; see fonts/LICENSE.
_EMBEDDED: Final = "DejaVu"
#: Above the heading of a table.
_APART_MM: Final = 6.0
#: What a heading takes with the first rows of its table.
_TABLE_BEGINS_MM: Final = 24.0
#: Of a column of texts, which are broken there.
_TEXT_MM_MIN: Final = 20.0
_LINE_MM: Final = 4.0
#: Of a row: it has to fit on one page, which has room for forty.
_LINES_MAX: Final = 30
#: What has no more is no higher than that, however narrow its column is.
_CHARACTERS_LOW_MAX: Final = 150
#: Headings are bold.
_BOLDER: Final = 1.05
_FILE: Final = files("ledger_service").joinpath("fonts", "DejaVuSans.ttf")


def statement_pdf(statement: Statement) -> bytes:
    """The statement on paper. Characters that the embedded font does not have are shown by their number: ``[U+8CE0]``.

    Takes seconds where a thousand entries are listed: not for the event loop.
    """
    pdf = FPDF(orientation="landscape", format="A4")
    # What the file says of itself does not change either.
    pdf.set_creation_date(statement.closed.closed_at if statement.closed else _NO_DATE)
    pdf.set_title(title_of(statement))
    pen = _Pen(pdf, _is_latin(statement))
    pdf.add_page()
    pen.paragraph(title_of(statement), size=14)
    pen.paragraph(state_of(statement))
    for one in tables_of(statement):
        pen.heading(one.title)
        aligned = ["LEFT" if place < one.texts else "RIGHT" for place in range(len(one.heads))]
        widths = pen.widths([one.heads, *one.rows], one.texts)
        with pdf.table(
            text_align=aligned, col_widths=widths, line_height=_LINE_MM, headings_style=pen.headings
        ) as table:
            for row in (one.heads, *one.rows):
                for part in pen.parts(row, widths):
                    table.row(part)
    if left := left_out_of(statement):
        pdf.ln(_APART_MM / 2)
        pen.paragraph(left)
    return bytes(pdf.output())


def _is_latin(statement: Statement) -> bool:
    """Whether all of it can be shown without a font of our own: then the file is small."""
    cells = [cell for one in tables_of(statement) for row in one.rows for cell in row]
    try:
        "".join([title_of(statement), state_of(statement), *cells]).encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


class _Pen:
    """Writes in one font, and only what that has."""

    def __init__(self, pdf: FPDF, is_latin: bool) -> None:
        self._pdf = pdf
        self._family = _EVERY_READER_HAS if is_latin else _EMBEDDED
        self.headings = FontFace(emphasis="BOLD" if is_latin else "")
        self.shown: Callable[[str], str] = str
        if not is_latin:
            pdf.add_font(_EMBEDDED, fname=str(_FILE))
            font = pdf.fonts[_EMBEDDED.lower()]
            assert isinstance(font, TTFFont)
            self.shown = partial(_within, frozenset(font.cmap))
        self._pdf.set_font(self._family, size=8)

    def widths(self, rows: Sequence[Sequence[str]], texts: int) -> list[float]:
        """Of the columns, together the page's: what they need on one line. Where that is too much, the widest of the
        first ``texts`` give way, so that no number stands on two lines; where it is less, those get the rest."""
        margin = 2 * self._pdf.c_margin + 1
        needed = [
            max(self._width(line) for cell in column for line in cell.split("\n")) * _BOLDER + margin
            for column in zip(*rows, strict=True)
        ]
        over = sum(needed) - self._pdf.epw
        while over > 0 and max(needed[:texts]) > _TEXT_MM_MIN:
            widest = needed.index(max(needed[:texts]))
            narrower = max(needed[widest] - over, *sorted({*needed[:texts], _TEXT_MM_MIN})[-2:-1], _TEXT_MM_MIN)
            over -= needed[widest] - narrower
            needed[widest] = narrower
        return [width - min(over, 0) / texts * (place < texts) for place, width in enumerate(needed)]

    def _width(self, text: str) -> float:
        return self._pdf.get_string_width(self.shown(text))

    def parts(self, row: Sequence[str], widths: Sequence[float]) -> Iterator[Sequence[str]]:
        """The row as it is shown; in several, of which the first has the beginnings, where it is higher than a page."""
        columns = [self._low(self.shown(cell), width) for cell, width in zip(row, widths, strict=True)]
        return zip_longest(*columns, fillvalue="")

    def _low(self, text: str, width: float) -> list[str]:
        if len(text) <= _CHARACTERS_LOW_MAX and text.count("\n") < _LINES_MAX:
            return [text]
        # A little narrower, so that each of the lines stays one.
        lines = self._pdf.multi_cell(width - 1, None, text, align="LEFT", dry_run=True, output=MethodReturnValue.LINES)
        assert isinstance(lines, list)
        return ["\n".join(lines[place : place + _LINES_MAX]) for place in range(0, len(lines), _LINES_MAX)]

    def heading(self, text: str) -> None:
        """Of a table: apart from what is above, and on the page on which the table begins."""
        self._pdf.ln(_APART_MM)
        if self._pdf.will_page_break(_TABLE_BEGINS_MM):
            self._pdf.add_page()
        self.paragraph(text, size=10)

    def paragraph(self, text: str, size: int = 8) -> None:
        self._pdf.set_font(self._family, size=size)
        self._pdf.multi_cell(0, None, self.shown(text), new_x="LMARGIN", new_y="NEXT")
        self._pdf.ln(2)
        self._pdf.set_font(self._family, size=8)


def _within(known: frozenset[int], text: str) -> str:
    return "".join(one if ord(one) in known or one == "\n" else f"[U+{ord(one):04X}]" for one in text)
