"""Every way to ask for the same figures over HTTP, each compared with sums over the list of what was sent."""

import csv
import io
import json
import re
import zlib
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet

from contracts.access.bearer import SESSION_COOKIE
from contracts.web.rendering import count, money
from tests.builders import Body
from tests.months.book import Entry, Sums, add_up, by, first_of, following
from tests.months.history import MICROSECOND, ZONES, History
from tests.tokens import TOKEN

SIGNED_IN: Final = {"Cookie": f"{SESSION_COOKIE}={TOKEN}", "Sec-Fetch-Site": "same-origin"}
FIGURES: Final = ("calls", "units", "failures", "cost")
SECTIONS: Final = ("usage", "late", "corrections")
DIMENSIONS: Final = ("account", "operation", "provider", "model", "outcome", "user")
INTERVALS: Final = ("hour", "day", "week", "month", "none")
_STREAM: Final = re.compile(rb"stream\n(.*?)\nendstream", re.DOTALL)
_SHOWN: Final = re.compile(rb"\(((?:[^()\\]|\\.)*)\) Tj", re.DOTALL)


def figures(one: Body) -> Sums:
    return Sums(int(one["calls"]), int(one["units"]), int(one["failures"]), Decimal(one["cost"]))


def without_nothing(groups: dict[object, Sums]) -> dict[object, Sums]:
    return {group: sums for group, sums in groups.items() if sums != Sums()}


class Known(NamedTuple):
    entries: list[Entry]
    zones: dict[str, str]


class Asking:
    """``known``: what had been recorded at ``as_of``, and the accounts' zones then; None: all of it, now."""

    def __init__(self, history: History, known: Known | None = None, as_of: str | None = None) -> None:
        self.history, self.http, self.random = history, history.ledger.http, history.random
        self.entries, self.zones = known or (history.book.entries, history.zones)
        self.as_of = {"as_of": as_of} if as_of else {}

    async def get(self, path: str, **query: Any) -> Any:
        answer = await self.http.get(path, params={**query, **self.as_of})
        assert answer.status_code == 200, f"{path} {query}: {answer.text}"
        return answer

    async def json(self, path: str, **query: Any) -> Body:
        found: Body = (await self.get(path, **query)).json()
        return found

    def of(self, account: str) -> list[Entry]:
        return self.history.of(account, self.entries)

    # summaries, statements, the log

    async def summaries(self) -> None:
        for account in self.history.accounts:
            for month in self.history.booked_months():
                booked = [one for one in self.of(account) if one.booked == month]
                said = await self.json(f"/v1/accounts/{account}/usage", period=f"{month:%Y-%m}")
                assert figures(said["totals"]) == add_up(booked), (account, month)
                for name in ("operation", "provider", "model"):
                    found = {group: figures(one) for group, one in said[f"by_{name}"].items()}
                    wanted = by(booked, lambda one, name=name: one.of(name))  # type: ignore[misc]  # a default
                    assert without_nothing(found) == without_nothing(wanted)

    async def statements(self, formats: tuple[str, ...] = ("csv", "html", "pdf", "page")) -> None:
        for account in self.history.accounts:
            for month in self.history.booked_months():
                said = await self.statement(account, month)
                if said["entries"] or self.random.random() < 0.3:
                    for name in formats:
                        await getattr(self, f"_{name}")(account, said)

    async def statement(self, account: str, month: date) -> Body:
        of = self.of(account)
        said = await self.json(f"/v1/accounts/{account}/statements/{month:%Y-%m}")
        booked = [one for one in of if one.booked == month]
        opening = add_up(one for one in of if one.booked < month)
        assert figures(said["opening"]) == opening
        for name in SECTIONS:
            assert figures(said[name]) == add_up(one for one in booked if one.section() == name), (account, month, name)
        assert figures(said["total"]) == add_up(booked)
        assert figures(said["closing"]) == add_up(one for one in of if one.booked <= month)
        lines: dict[object, Sums] = {
            (one["operation"], one["provider"], one["model"]): figures(one) for one in said["lines"]
        }
        assert without_nothing(lines) == without_nothing(
            by(booked, lambda one: (one.operation, one.provider, one.model))
        )
        apart = {one.id: one for one in booked if one.section() != "usage"}
        assert {one["id"] for one in said["entries"]} == set(apart)
        for one in said["entries"]:
            wanted = apart[one["id"]]
            assert figures(one) == wanted.sums
            assert (one["kind"], one["reference"]) == (wanted.kind or "late", wanted.reference)
            assert datetime.fromisoformat(one["occurred_at"]) == wanted.at
        if not self.as_of:
            assert (said["closed"] is not None) == self.history.book.is_closed(account, month)
        return said

    async def _csv(self, account: str, said: Body) -> None:
        path = f"/v1/accounts/{account}/statements/{said['period']}"
        rows = list(csv.DictReader(io.StringIO((await self.get(path, format="csv")).text)))
        sections = {row["section"]: figures(row) for row in rows if not row["id"] and row["section"] != "line"}
        assert sections == {name: figures(said[name]) for name in ("opening", *SECTIONS, "total", "closing")}
        lines = [figures(row) for row in rows if row["section"] == "line"]
        assert lines == [figures(one) for one in said["lines"]]
        assert [(row["id"], figures(row)) for row in rows if row["id"]] == [
            (one["id"], figures(one)) for one in said["entries"]
        ]

    async def _html(self, account: str, said: Body) -> None:
        text = (await self.get(f"/v1/accounts/{account}/statements/{said['period']}", format="html")).text
        self._shows(said, cells(text), str)

    async def _page(self, account: str, said: Body) -> None:
        """The page of the service, which rounds, and says so."""
        if self.as_of:
            return
        text = (await self.page("/statements", account_id=account, period=said["period"])).text
        assert "rounded" in text
        self._shows(said, cells(text), money)

    def _shows(self, said: Body, rows: list[list[str]], written: Any) -> None:
        shown = [row[-4:] for row in rows]
        for one in (*(said[name] for name in ("opening", *SECTIONS, "total", "closing")), *said["lines"]):
            wanted = [one[name] for name in FIGURES[:3]]
            as_text = [count(n) if written is money else str(n) for n in wanted]
            assert [*as_text, written(one["cost"])] in shown, one
        if said["entries"]:
            table = [row for row in rows if len(row) >= 9]
            assert len(table) == len(said["entries"]) + 1 or written is money

    async def _pdf(self, account: str, said: Body) -> None:
        content = (await self.get(f"/v1/accounts/{account}/statements/{said['period']}", format="pdf")).content
        texts = pdf_texts(content)
        for one in (*(said[name] for name in ("opening", *SECTIONS, "total", "closing")), *said["lines"]):
            wanted = [str(one[name]) for name in FIGURES]
            assert any(texts[at : at + 4] == wanted for at in range(len(texts))), one
        for one in said["entries"]:
            wanted = [str(one[name]) for name in FIGURES]
            assert any(texts[at : at + 4] == wanted for at in range(len(texts))), one

    async def pages_of_a_statement(self, account: str, month: date, at_most: int) -> None:
        """The ledger lists so many entries at most, and sums up the others."""
        booked = [one for one in self.of(account) if one.booked == month]
        left = {one.id for one in booked if one.section() != "usage"}
        query: dict[str, str] = {}
        while True:
            said = await self.json(f"/v1/accounts/{account}/statements/{month:%Y-%m}", **query)
            assert figures(said["total"]) == add_up(booked)
            assert said["entries_in_all"] == sum(1 for one in booked if one.section() != "usage")
            assert len(said["entries"]) <= at_most
            left -= {one["id"] for one in said["entries"]}
            rest = {
                (one["kind"], one["operation"], one["provider"], one["model"]): (one["entries"], figures(one))
                for one in said["rest"]
            }
            apart = [one for one in booked if one.id in left]
            summed = by(apart, lambda one: (one.kind or "late", one.operation, one.provider, one.model))
            assert {key: sums for key, (_, sums) in rest.items()} == summed
            assert sum(count for count, _ in rest.values()) == len(left)
            if not said["next_cursor"]:
                assert not left
                return
            query = {"cursor": said["next_cursor"]}

    async def usage_log(self) -> None:
        for account in self.history.accounts:
            of = {one.id: one for one in self.of(account)}
            items: list[Body] = []
            cursor: str | None = None
            while True:
                query = {"cursor": cursor} if cursor else {}
                page = await self.json(f"/v1/accounts/{account}/usage-log", limit=37, **query)
                items += page["items"]
                cursor = page["next_cursor"]
                if cursor is None:
                    break
            assert [one["operation_id"] for one in items] == [
                one.id for one in sorted(of.values(), key=lambda one: (one.at, one.id), reverse=True)
            ]
            for item in items:
                one = of[item["operation_id"]]
                assert (item["outcome"], Decimal(item["cost"])) == (one.outcome, one.sums.cost)
                booked = f"{one.booked:%Y-%m}" if one.booked != one.own_month else None
                assert item.get("booked_period") == booked

    async def limits(self) -> None:
        """What a limit on cost has counted in the account's own month, shown for the end of a month of UTC."""
        for account, zone_name in self.zones.items():
            zone = ZoneInfo(zone_name)
            for month in self.history.months:
                said = await self.json(f"/v1/accounts/{account}/usage", period=f"{month:%Y-%m}")
                [spend] = [one for one in said["limits"] if one["limit_id"] == "spend"]
                last = datetime.combine(following(month), time(), UTC) - MICROSECOND
                local = last.astimezone(zone).date().replace(day=1)
                assert spend["period"] == f"{local:%Y-%m}"
                counted = add_up(
                    one for one in self.of(account) if one.at.astimezone(zone).date().replace(day=1) == local
                )
                assert Decimal(spend["settled"]) == counted.cost, (account, month)

    async def late(self, known: list[Entry], then: str) -> None:
        """Of summaries, what a report as of then lacked."""
        for account in self.history.accounts:
            for month in self.history.booked_months():
                query = {"period": f"{month:%Y-%m}", "late_after": then}
                said = await self.json(f"/v1/accounts/{account}/usage", **query)
                later = self.of(account)[len(self.history.of(account, known)) :]
                assert figures(said["late"]) == add_up(one for one in later if one.booked == month), (account, month)

    async def corrections(self) -> None:
        """One by one: those that are listed, and what each operation comes to with its own."""
        listed = await self.history.corrections(**self.as_of)
        recorded = [one for one in self.entries if one.outcome == "adjustment"]
        assert Counter((one["operation_id"], Decimal(one["cost"])) for one in listed) == Counter(
            (one.id, one.sums.cost) for one in recorded
        )
        roots = [one for one in self.entries if one.corrects is None]
        for root in self.random.sample(roots, 12):
            said = await self.json(f"/v1/usage-log/{root.id}", account_id=root.account)
            chain = [one for one in self.entries if one.account == root.account and root.id in (one.id, one.corrects)]
            assert figures(said["comes_to"]) == add_up(chain)
            assert [one["operation_id"] for one in said["corrections"]] == [one.id for one in chain[1:]]

    # analytics

    def ends(self, zone: ZoneInfo) -> tuple[str, str, datetime, datetime]:
        """As they are written, and what they mean."""
        pick, months = self.random, self.history.months
        if pick.random() < 0.5:
            first = months[0] + timedelta(days=pick.randrange(-2, 70))
            last = first + timedelta(days=pick.choice((1, 2, 7, 31, 90)))
            midnights = [datetime.combine(day, time(), zone).astimezone(UTC) for day in (first, last)]
            return first.isoformat(), last.isoformat(), midnights[0], midnights[1]
        start, end = sorted(self.history.moment() for _ in range(2))
        if pick.random() < 0.7:
            start, end = (one.replace(minute=0, second=0, microsecond=0) for one in (start, end))
        end = max(end, start + timedelta(hours=1))
        return start.isoformat(), end.isoformat(), start, end

    async def usage(self, begins: datetime | None = None) -> str:
        """One question at random; the table that answered it. ``begins``: rows from before are in archives, and a
        question for them is refused, or answered from what has all of it."""
        pick = self.random
        of_all = pick.random() < 0.5
        account = None if of_all else pick.choice((None, *self.history.accounts))
        zone_name = pick.choice((*ZONES, self.zones.get(account or "", "UTC"), "UTC", "UTC"))
        start_text, end_text, start, end = self.ends(ZoneInfo(zone_name))
        query: dict[str, Any] = {"from": start_text, "to": end_text, "time_zone": zone_name}
        query["interval"] = interval = pick.choice(INTERVALS)
        dimensions = DIMENSIONS[1:5] if of_all else DIMENSIONS[: pick.choice((5, 5, 6))]
        groups = pick.sample(dimensions, pick.choice((0, 1, 1, 2)))
        if groups:
            query["group_by"] = ",".join(groups)
            if pick.random() < 0.4:
                query |= {"top": pick.randint(1, 3), "order_by": pick.choice(FIGURES)}
        if account:
            query["account_id"] = account
            if zone_name == self.zones.get(account, "UTC"):
                query["time_zone"] = "account"
        filters: dict[str, str | None] = {}
        if pick.random() < 0.3:
            name = pick.choice(("provider", "outcome", "operation"))
            filters[name] = pick.choice([one.of(name) for one in self.entries])
            query["filter"] = [f"{name}:{value}" for name, value in filters.items()]
        if pick.random() < 0.3:
            query["compare"] = "previous"
        if pick.random() < 0.3:
            query["groups"] = "true"
        answer = await self.http.get("/v1/usage", params={**query, **self.as_of})
        if begins is not None and answer.status_code != 200:
            assert answer.json()["code"] == "period_archived", answer.text
            before = timedelta(days=100) if "compare" in query else timedelta()
            assert start - before < begins, query
            return "refused"
        assert answer.status_code == 200, f"{query}: {answer.text}"
        report: Body = answer.json()
        told = (query, self.as_of)
        of = self.entries if account is None else self.of(account)
        chosen = [one for one in of if all(one.of(name) == value for name, value in filters.items())]

        def sums(start: datetime, end: datetime, group: Body | None = None) -> Sums:
            return add_up(
                one
                for one in chosen
                if start <= one.at < end and all(one.of(name) == value for name, value in (group or {}).items())
            )

        assert (moment(report["from"]), moment(report["to"])) == (start, end), told
        assert figures(report["totals"]) == sums(start, end), told
        zone, added = ZoneInfo(zone_name), defaultdict[str, list[Sums]](list)
        for row in report["rows"]:
            begin, until = moment(row["start"]), moment(row["end"])
            if row["kind"] == "group":
                assert figures(row) == sums(begin, until, row["group"]), (told, row)
            added[row["start"]].append(figures(row))
            self.is_one_period(interval, zone, begin, until, (start, end))
        for begin_text, some in added.items():
            [until] = {moment(row["end"]) for row in report["rows"] if row["start"] == begin_text}
            assert total_of(some) == sums(moment(begin_text), until), told
        assert total_of([one for some in added.values() for one in some]) == sums(start, end), told
        whole = report["groups"] if "groups" in query else report["rows"] if interval == "none" else []
        for row in whole:
            if row["kind"] == "group":
                assert figures(row) == sums(start, end, row["group"]), told
        if "compare" in query:
            before = report["previous"]
            assert moment(before["to"]) == start
            whole_before = sums(moment(before["from"]), start)
            assert figures(before["totals"]) == whole_before, told
            for row in whole:
                if row["kind"] == "group":
                    assert figures(row["previous"]) == sums(moment(before["from"]), start, row["group"]), told
            if any(row["kind"] == "others" for row in whole):
                assert total_of([figures(row["previous"]) for row in whole]) == whole_before, told
        if "groups" not in query:
            await self._same_as_files(query, report)
        return str(report["served_from"])

    def is_one_period(
        self, interval: str, zone: ZoneInfo, begin: datetime, until: datetime, ends: tuple[datetime, datetime]
    ) -> None:
        if interval in ("day", "month"):
            first, last = begin.astimezone(zone).date(), (until - MICROSECOND).astimezone(zone).date()
            assert first == last if interval == "day" else (first.year, first.month) == (last.year, last.month)
            if until != ends[1]:
                assert (until.astimezone(zone).date(), 1) > (last, 0)

    async def _same_as_files(self, query: dict[str, Any], report: Body) -> None:
        said = [figures(one) for one in (*report["rows"], report["totals"])]
        rows = csv.DictReader(io.StringIO((await self.get("/v1/usage", **query, format="csv")).text))
        assert [figures(row) for row in rows] == said
        arrow = pa.ipc.open_stream((await self.get("/v1/usage", **query, format="arrow")).content).read_all()
        assert [figures(row) for row in arrow.to_pylist()] == said

    # exports

    async def exports(self) -> None:
        wanted = sorted((one.account, one.at, one.id) for one in self.entries)
        for name in ("csv", "jsonl", "parquet"):
            content = (await self.get("/v1/exports/usage-log", format=name)).content
            rows = self._exported(name, content)
            assert [(row["account_id"], moment(row["occurred_at"]), row["operation_id"]) for row in rows] == wanted
            booked = defaultdict[object, list[Sums]](list)
            for row in rows:
                booked[row["account_id"], str(row["period"])].append(figures(row))
            assert {key: total_of(some) for key, some in booked.items()} == by(
                self.entries, lambda one: (one.account, str(one.booked))
            )
        table = pyarrow.parquet.read_table(
            io.BytesIO((await self.get("/v1/exports/focus", format="parquet")).content)
        ).to_pylist()
        billed: dict[object, Decimal] = defaultdict(Decimal)
        for row in table:
            billed[row["SubAccountId"], row["BillingPeriodStart"].date()] += Decimal(str(row["BilledCost"]))
        assert dict(billed) == {
            key: sums.cost for key, sums in by(self.entries, lambda one: (one.account, one.booked)).items()
        }

    @staticmethod
    def _exported(name: str, content: bytes) -> list[Body]:
        if name == "csv":
            return list(csv.DictReader(io.StringIO(content.decode())))
        if name == "jsonl":
            return [json.loads(line) for line in content.splitlines()]
        return list(pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist())

    # pages

    async def page(self, path: str, **query: Any) -> Any:
        answer = await self.http.get(path, params=query, headers=SIGNED_IN)
        assert answer.status_code == 200, f"{path} {query}: {answer.text}"
        return answer

    async def pages(self) -> None:
        account = self.random.choice(self.history.accounts)
        month, zone_name = self.random.choice(self.history.months), self.random.choice(ZONES)
        zone, last = ZoneInfo(zone_name), following(month) - timedelta(days=1)
        text = (
            await self.page("/usage", account_id=account, until=f"{last}", time_zone=zone_name, **{"from": f"{month}"})
        ).text
        happened = add_up(one for one in self.of(account) if one.at.astimezone(zone).date().replace(day=1) == month)
        assert cards(text) == [money(happened.cost), *map(count, happened[:2]), count(happened.failures)]
        assert "What came for a month that was closed is in a later" in text, "why a statement may say something else"
        now = datetime.now(UTC)
        text = (await self.page("/", account_id=account)).text
        so_far = add_up(one for one in self.of(account) if first_of(one.at) == first_of(now))
        assert cards(text) == [money(so_far.cost), *map(count, so_far[:2]), count(so_far.failures)]
        if account in self.history.zones:
            text = (await self.page(f"/accounts/{account}")).text
            assert self.history.zones[account] in text


def moment(text: Any) -> datetime:
    return text if isinstance(text, datetime) else datetime.fromisoformat(text)


def total_of(some: list[Sums]) -> Sums:
    return Sums(*(sum(column, type(column[0])()) for column in zip(*some, strict=True))) if some else Sums()


def cells(text: str) -> list[list[str]]:
    """The rows of all tables of a page."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", text, re.DOTALL)
    return [[re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)]
            for row in rows]  # fmt: skip


def cards(text: str) -> list[str]:
    return re.findall(r'<span class="figure">(.*?)</span>', text)[:4]


def pdf_texts(content: bytes) -> list[str]:
    """What a PDF shows, in its order; one of Latin letters alone."""
    pages = [zlib.decompress(one) for one in _STREAM.findall(content)]
    return [re.sub(rb"\\(.)", rb"\1", text).decode("latin-1") for page in pages for text in _SHOWN.findall(page)]
