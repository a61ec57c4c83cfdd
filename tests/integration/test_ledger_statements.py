"""Statements: the same figures in every format, and of a closed period for ever."""

import csv
import io
import itertools
import re
import zlib
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from contracts.money import format_nanos, parse_nanos
from contracts.statements import ENTRIES_MAX, Statement
from ledger_service.statement_views import tables_of
from tests.builders import Body, adjustment, completed, failed
from tests.servers import Ledger

SEPTEMBER = {"occurred_at": "2026-09-02T00:00:00Z"}
EVIL = "=cmd|'/c calc'!A1 <script>alert(1)</script>"


async def statement(ledger: Ledger, period: str) -> Body:
    answer = await ledger.http.get(f"/v1/accounts/acme/statements/{period}")
    assert answer.status_code == 200, answer.text
    found: Body = answer.json()
    return found


def amounts(figures: Body) -> tuple[int, int, int, int]:
    return figures["calls"], figures["units"], figures["failures"], parse_nanos(figures["cost"])


def plus(*some: Body) -> tuple[int, ...]:
    return tuple(sum(column) for column in zip(*map(amounts, some), strict=True))


async def books(ledger: Ledger) -> list[Body]:
    events = [
        completed(time="2026-08-15T12:00:00Z", cost="1"),
        completed(time="2026-09-15T12:00:00Z", cost="0.04", quantity=3, model="a/b"),
        failed(time="2026-09-30T23:59:59.999999Z", cost="0.01"),
    ]
    await ledger.send(*events)
    for one in (adjustment("rerate", events[1], cost="0.05"), adjustment("void", events[0], reason=EVIL)):
        if one["kind"] == "void":
            closed = await ledger.http.put("/v1/periods/2026-08:close", json={"reason": "the <books>"})
            assert closed.status_code == 200, closed.text
        answer = await ledger.http.post("/v1/adjustments", json=one)
        assert answer.status_code == 200, answer.text
    await ledger.send(completed(time="2026-08-31T23:59:59Z", cost="0.5"))
    return events


async def test_figures_add_up_and_say_where_they_come_from(ledger: Ledger) -> None:
    events = await books(ledger)
    august, september = await statement(ledger, "2026-08"), await statement(ledger, "2026-09")
    assert (august["closed"]["period"], september["closed"]) == ("2026-08", None)
    assert amounts(august["total"]) == (1, 1, 0, 10**9)
    assert amounts(september["opening"]) == amounts(august["closing"]) == (1, 1, 0, 10**9)
    assert amounts(september["usage"]) == (1, 3, 1, 50_000_000)
    assert amounts(september["late"]) == (1, 1, 0, 500_000_000)
    assert amounts(september["corrections"]) == (-1, -1, 0, -990_000_000)
    assert plus(*(september[name] for name in ("usage", "late", "corrections"))) == amounts(september["total"])
    assert plus(*september["lines"]) == amounts(september["total"])
    assert plus(september["opening"], september["total"]) == amounts(september["closing"])
    assert amounts((await ledger.usage(period="2026-09"))["totals"]) == amounts(september["total"])
    assert [(one["kind"], one["reference"], one["author"]) for one in september["entries"]] == [
        ("rerate", events[1]["data"]["operation_id"], "tests"),
        ("void", events[0]["data"]["operation_id"], "tests"),
        ("late", None, None),
    ]
    assert september["entries"][1]["occurred_at"] == "2026-08-15T12:00:00Z"
    assert september["entries_in_all"] == 3


async def test_of_a_closed_period_every_format_stays_as_it_was(ledger: Ledger) -> None:
    await books(ledger)
    assert (await ledger.http.put("/v1/periods/2026-09:close", json={"reason": "x"})).status_code == 200

    async def all_formats() -> list[bytes]:
        answers = [
            await ledger.http.get(f"/v1/accounts/acme/statements/2026-09?format={name}")
            for name in ("json", "csv", "html", "pdf")
        ]
        assert {answer.status_code for answer in answers} == {200}
        return [answer.content for answer in answers]

    before = await all_formats()
    late = completed(time="2026-09-15T12:00:00Z")
    await ledger.send(late, completed(time="2026-10-15T12:00:00Z"))
    answer = await ledger.http.post("/v1/adjustments", json=adjustment("void", late))
    assert answer.json()["booked_period"] == "2026-10"
    assert await all_formats() == before


class Texts(HTMLParser):
    """The cells of a page's tables, and every element that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self.in_cell = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.rows[-1][-1] += data


async def test_csv_and_html_say_the_same_and_run_nothing(ledger: Ledger) -> None:
    await books(ledger)
    said = await statement(ledger, "2026-09")
    answer = await ledger.http.get("/v1/accounts/acme/statements/2026-09?format=csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    for name in ("opening", "usage", "late", "corrections", "total", "closing"):
        shown = next(row for row in rows if row["section"] == name)
        assert (int(shown["calls"]), shown["cost"]) == (said[name]["calls"], said[name]["cost"])
    assert [row["id"] for row in rows if row["id"]] == [one["id"] for one in said["entries"]]
    assert [row["reason"] for row in rows if row["section"] == "void"] == [f"'{EVIL}"]
    assert [row["model"] for row in rows if row["section"] == "line"] == [one["model"] for one in said["lines"]]

    answer = await ledger.http.get("/v1/accounts/acme/statements/2026-09?format=html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = Texts()
    page.feed(answer.text)
    assert "script" not in page.tags
    cells = {row[0]: row[1:] for row in page.rows if len(row) == 5}
    for name in ("Opening", "Usage", "Late", "Corrections", "Total", "Closing"):
        figures = said[name.lower()]
        assert cells[name] == [
            str(figures["calls"]), str(figures["units"]), str(figures["failures"]), figures["cost"],
        ]  # fmt: skip
    assert any(EVIL in row for row in page.rows)


async def test_a_pdf_has_the_figures_whatever_the_reason_says(ledger: Ledger) -> None:
    from ledger_service.statement_pdfs import statement_pdf  # most of a second, for fonts

    await books(ledger)
    gift = adjustment(cost="-0.25", reason="Entschädigung " + "x" * 900)
    await ledger.http.post("/v1/adjustments", json=gift)
    said = Statement.model_validate((await ledger.http.get("/v1/accounts/acme/statements/2026-09")).json())
    answer = await ledger.http.get("/v1/accounts/acme/statements/2026-09?format=pdf")
    assert (answer.headers["content-type"], answer.content[:5]) == ("application/pdf", b"%PDF-")
    # Texts of a page are compressed; what is in them is as it was drawn.
    drawn = b"".join(
        zlib.decompress(part) for part in re.findall(rb"stream\n(x.*?)\nendstream", answer.content, re.DOTALL)
    )
    assert answer.content == statement_pdf(said)
    for figures in (said.opening, said.late, said.corrections, said.total, said.closing):
        assert f"({format_nanos(figures.cost)})".encode() in drawn
    for entry in said.entries:  # whole, on one line, however long the reason is
        assert f"({entry.reference or entry.id})".encode() in drawn
        assert f"({format_nanos(entry.cost)})".encode() in drawn
    texts = [(float(y), text) for y, text in re.findall(rb"BT \S+ (\S+) Td \((.*?)\) Tj ET", drawn)]
    headings = {one.title.encode() for one in tables_of(said)}
    before = {text: above - y for (above, _), (y, text) in itertools.pairwise(texts) if text in headings}
    assert set(before) == headings
    # In points: apart from the last line above, or the first of another page.
    assert all(gap > 20 or gap < 0 for gap in before.values()), before
    month = f"{datetime.now(UTC):%Y-%m}"
    own = await ledger.http.get(f"/v1/accounts/acme/statements/{month}?format=pdf")
    assert own.status_code == 200


async def test_a_pdf_shows_names_beyond_latin_1(ledger: Ledger) -> None:
    await books(ledger)
    for reason in ("Żółć, Жук & Σία", "賠償"):
        answer = await ledger.http.post("/v1/adjustments", json=adjustment(cost="-0.25", reason=reason, **SEPTEMBER))
        assert answer.status_code == 200, answer.text
    answer = await ledger.http.get("/v1/accounts/acme/statements/2026-09?format=pdf")
    shown = drawn_text(answer.content)
    assert "Żółć, Жук & Σία" in shown
    assert "[U+8CE0][U+511F]" in shown, "what the font does not have is shown by its number"
    assert answer.content == (await ledger.http.get("/v1/accounts/acme/statements/2026-09?format=pdf")).content


@pytest.mark.parametrize(
    ("reason", "text", "count"),
    [("賠償" * 400, "]", 800), ("line\n" * 200, "line", 200), ("Ж" * 1024, "Ж", 1024), ("\n" * 1000, "", 0)],
    ids=["numbers", "lines", "word", "nothing"],
)
async def test_a_reason_that_is_higher_than_a_page_goes_on_on_the_next(
    ledger: Ledger, reason: str, text: str, count: int
) -> None:
    await books(ledger)
    for wide in ("m", "M" * 128):
        gift = adjustment(cost="-0.25", reason=reason, model=wide, **SEPTEMBER)
        assert (await ledger.http.post("/v1/adjustments", json=gift)).status_code == 200
    named = await ledger.http.post("/v1/adjustments", json=adjustment(cost="-0.5", reason="Żółć", **SEPTEMBER))
    assert named.status_code == 200
    answer = await ledger.http.get("/v1/accounts/acme/statements/2026-09?format=pdf")
    assert answer.status_code == 200, answer.text
    if text:
        assert drawn_text(answer.content).replace(" ", "").count(text) == 2 * count, "all of it is shown"


def drawn_text(pdf: bytes) -> str:
    """What an embedded font draws, through the table from its glyphs to characters that is in the file for copying."""
    streams = [zlib.decompress(part) for part in re.findall(rb"stream\n(x.*?)\nendstream", pdf, re.DOTALL)]
    pairs = re.findall(rb"^<([0-9A-F]{4})> <([0-9A-F]+)>$", pdf, re.MULTILINE)
    characters = {int(glyph, 16): bytes.fromhex(text.decode()).decode("utf-16-be") for glyph, text in pairs}
    shown = ""
    for text in re.findall(rb"\(((?:\\.|[^\\)])*)\) Tj", b"".join(streams), re.DOTALL):
        glyphs = re.sub(rb"\\(.)", lambda found: found[1].replace(b"r", b"\r"), text, flags=re.DOTALL)
        shown += "".join(characters[int.from_bytes(glyphs[at : at + 2])] for at in range(0, len(glyphs), 2)) + " "
    return shown


async def test_more_entries_than_are_listed_are_summed_up_and_come_in_pages(ledger: Ledger) -> None:
    assert (await ledger.http.put("/v1/periods/2026-08:close", json={"reason": "x"})).status_code == 200
    sent = [
        completed(time="2026-08-15T12:00:00Z", cost=f"0.{number + 1:09d}", quantity=2, model=f"m{number % 3}")
        for number in range(2 * ENTRIES_MAX + 50)
    ]
    for start in range(0, len(sent), 1000):
        await ledger.send(*sent[start : start + 1000])
    await ledger.http.post("/v1/adjustments", json=adjustment("void", sent[0]))
    month = (await ledger.http.post("/v1/adjustments", json=adjustment("void", sent[1]))).json()["booked_period"]
    first = await statement(ledger, month)
    assert (len(first["entries"]), first["entries_in_all"]) == (ENTRIES_MAX, len(sent) + 2)
    assert plus(*first["entries"], *first["rest"]) == plus(first["late"], first["corrections"])
    assert {(one["kind"], one["model"], one["entries"]) for one in first["rest"]} >= {
        ("void", "m0", 1),
        ("void", "m1", 1),
    }
    for suffix in ("csv", "html", "pdf"):
        answer = await ledger.http.get(f"/v1/accounts/acme/statements/{month}?format={suffix}")
        assert answer.status_code == 200
        assert suffix != "html" or f"and {len(sent) + 2 - ENTRIES_MAX} more" in answer.text
        assert suffix != "csv" or answer.text.count("summed up") == len(first["rest"])
    listed, page = first["entries"], first
    while page["next_cursor"]:
        page = await statement(ledger, f"{month}?cursor={page['next_cursor']}")
        assert plus(*listed, *page["entries"], *page["rest"]) == plus(first["late"], first["corrections"])
        listed = [*listed, *page["entries"]]
    assert len({one["id"] for one in listed}) == len(listed) == len(sent) + 2
    answer = await ledger.http.get(f"/v1/accounts/acme/statements/{month}?cursor=1%27")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].endswith("cursor")


async def test_what_there_is_no_statement_of(ledger: Ledger) -> None:
    await ledger.send(completed())
    for path, status in (
        ("/v1/accounts/nobody/statements/2026-09", 404),
        ("/v1/accounts/acme/statements/2026-9", 422),
        ("/v1/accounts/acme/statements/2026-09?format=xls", 422),
    ):
        assert (await ledger.http.get(path)).status_code == status
    empty = await statement(ledger, "2001-01")
    assert (empty["lines"], amounts(empty["closing"])) == ([], (0, 0, 0, 0))
