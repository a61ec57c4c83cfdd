"""Months at random: accounts in odd zones, events at edges of months, corrections, closings, late arrivals."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from random import Random
from typing import Any, Final
from zoneinfo import ZoneInfo

from tests.builders import ABSENT, Body, adjustment, check, completed, failed, limit, new_id
from tests.months.book import ZERO, Book, Entry, Sums, first_of, following
from tests.servers import Ledger

#: Half hours and quarters, clocks that change (by half an hour, at midnight, in the south), and the edges of the world.
ZONES: Final = (
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Chatham", "Australia/Lord_Howe",
    "America/St_Johns", "Asia/Kathmandu", "Pacific/Kiritimati", "America/Havana", "Africa/Cairo", "Pacific/Pago_Pago",
)  # fmt: skip
MONTHS: Final = 4
MICROSECOND: Final = timedelta(microseconds=1)
#: The operation whose price was wrong, and of which nothing else is corrected.
REPRICED: Final = ("local", "generate", "render-1")


def starts(months: list[date], zone: ZoneInfo) -> list[datetime]:
    """When the days of these months begin in a zone, in UTC."""
    day, found = months[0], []
    while day < following(months[-1]):
        found.append(datetime.combine(day, time(), zone).astimezone(UTC))
        day += timedelta(days=1)
    return found


def changes(months: list[date], zone: ZoneInfo) -> list[datetime]:
    """When the clocks of a zone change in them."""
    hour, found = datetime.combine(months[0], time(), UTC), []
    while hour < datetime.combine(following(months[-1]), time(), UTC):
        later = hour + timedelta(minutes=30)
        if hour.astimezone(zone).utcoffset() != later.astimezone(zone).utcoffset():
            found.append(later)
        hour = later
    return found


class History:
    """Makes it, and writes it down in the book."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.ledger, self.book, self.random = ledger, Book(), Random(seed)
        # Among them a leap day and the end of a year.
        months = self.random.randrange(20)
        self.months = [date(2023 + (10 + months) // 12, (10 + months) % 12 + 1, 1)]
        while len(self.months) < MONTHS:
            self.months.append(following(self.months[-1]))
        self.zones = dict(zip(("acme", "apex", "zeta"), self.random.sample(ZONES, 3), strict=True))
        #: One account has a part of it in events alone, and was never registered.
        self.accounts = [*self.zones, "stray"]
        self.edges = sorted(
            {
                moment
                for name in {*self.zones.values(), "UTC"}
                for zone in [ZoneInfo(name)]
                for moment in (*(one for one in starts(self.months, zone) if one.astimezone(zone).day == 1),
                               *changes(self.months, zone))
            }
        )  # fmt: skip

    async def set_up(self) -> None:
        await self.ledger.put_plan(
            limit("spend", meter="cost", window="month", maximum="1000000"),
            limit("credit", window="lifetime", maximum=0, credit=True),
        )
        for account, zone in self.zones.items():
            await self.ledger.put_account(account, time_zone=zone, billing_anchor="2025-01-31")
            grant = {"limit_id": "credit", "amount": 1000, "valid_from": "2023-01-01T00:00:00Z", "priority": 1}
            await self.put(f"/v1/accounts/{account}/credit-grants/first", grant)
        await self._price("0.04")
        await self.put("/v1/resale-prices/generate/render-1", self._sold(0, "0.08"))
        await self.put("/v1/accounts/acme/resale-prices/generate/render-1", self._sold(1, "0.070000001"))

    def _sold(self, month: int, price: str) -> Body:
        return {"valid_from": f"{self.months[month]}T00:00:00Z", "unit_price": price, "reason": "list"}

    async def _price(self, price: str) -> None:
        body = {"unit": "image", "valid_from": "2023-01-01T00:00:00Z", "variants": [{"price": price}]}
        await self.put("/v1/prices/{}/{}/{}".format(*REPRICED), body)

    async def put(self, path: str, body: Body) -> Body:
        answer = await self.ledger.http.put(path, json=body)
        assert answer.status_code == 200, f"{path}: {answer.text}"
        found: Body = answer.json()
        return found

    # operations

    def moment(self) -> datetime:
        """Of any, or at an edge of one of their months and days."""
        pick = self.random
        if pick.random() < 0.5:
            near = (timedelta(), -MICROSECOND, MICROSECOND, timedelta(minutes=30), -timedelta(minutes=59, seconds=59))
            return pick.choice(self.edges) + pick.choice(near)
        begin = datetime.combine(self.months[0], time(), UTC)
        seconds = int((datetime.combine(following(self.months[-1]), time(), UTC) - begin).total_seconds())
        return begin + timedelta(seconds=pick.randrange(seconds), microseconds=pick.randrange(10**6))

    def cost(self) -> str:
        return f"{self.random.choice((0, 1, self.random.randrange(10**9), self.random.randrange(10**12)))}e-9"

    def event(self) -> Body:
        pick, at = self.random, self.moment()
        fields: Body = {
            "account_id": pick.choice(self.accounts), "user_id": pick.choice(("ada", "bob", "eve@x.org")),
            "quantity": pick.randint(1, 4), "time": self._written(at), "project_id": pick.choice(("p1", ABSENT)),
        }  # fmt: skip
        kind = pick.random()
        if kind < 0.3:
            price = Decimal("0.04") * fields["quantity"]
            return completed(cost=str(price), requested_at=fields["time"], **fields)
        fields |= {"provider": pick.choice(("far", "north")), "model": pick.choice(("sketch/2", "a/b:c"))}
        fields |= {"operation": pick.choice(("generate", "edit"))}
        if kind < 0.6:
            return completed(cost=self.cost(), **fields)
        if kind < 0.7:
            both = [Decimal(self.cost()) for _ in range(2)]
            calls = [
                {"provider": provider, "model": fields["model"], "job_ids": [new_id()], "cost": f"{cost:f}"}
                for provider, cost in zip(("far", "north"), both, strict=True)
            ]
            more = {"retry_count": 1, "metadata": {"provider_calls": calls}, "provider": "far"}
            return completed(cost=f"{sum(both):f}", **{**fields, **more, "actual_provider": "north"})
        if kind < 0.8:
            in_doubt = {"code": "outcome_unknown", "message": "lost"}
            return failed(cost=self.cost(), error=in_doubt, status_code=ABSENT, **fields)
        return failed(cost=pick.choice(("0", self.cost())), **fields)

    def _written(self, at: datetime) -> str:
        """In whatever zone its producer writes times."""
        return at.astimezone(ZoneInfo(self.random.choice(ZONES))).isoformat()

    async def happen(self, count: int) -> None:
        events = [self.event() for _ in range(count)]
        said = await self.ledger.send(*events)
        assert said["accepted"] == count, said["rejected"]
        for event in events:
            self.book.outcome(event)
        again = self.random.sample(events, 3)  # redelivered
        assert (await self.ledger.send(*again))["duplicates"] == 3

    async def checked(self) -> None:
        """One that was held for first, and happened when that is: now."""
        asked = check(account_id=self.random.choice(list(self.zones)), provider="far", model="x", estimated_cost="0.5")
        decided = await self.ledger.check(asked)
        assert decided["allowed"], decided
        event = completed(asked, cost=self.cost())
        assert (await self.ledger.send(event))["accepted"] == 1
        self.book.outcome(event)

    # corrections and closings

    async def correct(self) -> None:
        """One operation or correction of any month."""
        pick, book = self.random, self.book
        roots = [one for one in book.entries if one.provider != REPRICED[0] and one.kind in (None, "adjustment")]
        of = pick.choice(roots)
        root = next(one for one in book.entries if one.id == (of.corrects or of.id) and one.account == of.account)
        voided = book.is_voided(root) or book.is_voided(of)
        kinds = ["void", "adjustment", "rerate"] if of.outcome != "adjustment" else ["void"]
        kind = pick.choice(kinds)
        reference = {"operation_id" if of.outcome != "adjustment" else "adjustment_id": of.id}
        body = adjustment(kind, account_id=of.account, reference=reference)
        stands = sum((one.sums.cost for one in book.chain(root)), ZERO)
        adds = Sums()
        if kind == "rerate":
            body["cost"] = self.cost()
            adds = Sums(cost=Decimal(body["cost"]) - stands)
        elif kind == "adjustment":
            body |= {"cost": pick.choice(("-", "")) + self.cost(), "units": pick.randint(-3, 3)}
            adds = Sums(units=body["units"], cost=Decimal(body["cost"]))
        elif of is root:
            chain = book.chain(root)
            adds = -Sums(
                sum(one.sums.calls for one in chain), sum(one.sums.units for one in chain),
                sum(one.sums.failures for one in chain), stands,
            )  # fmt: skip
        else:
            adds = -of.sums
        answer = await self.ledger.http.post("/v1/adjustments", json=body)
        if voided:
            assert answer.status_code == 409, answer.text
            return
        if kind == "adjustment" and not (adds.units or adds.cost):
            assert answer.status_code == 422, answer.text
            return
        assert answer.status_code == 200, answer.text
        assert Decimal(answer.json()["cost"]) == adds.cost
        book.correct(body["adjustment_id"], kind, of, adds)

    async def gift(self) -> None:
        at = self.moment()
        body = adjustment(
            account_id=self.random.choice(self.accounts), cost=f"-{self.random.randrange(1, 10**10)}e-9",
            occurred_at=self._written(at), reason="a gift; =1+1", **self.random.choice(({}, {"provider": "far"})),
        )  # fmt: skip
        answer = await self.ledger.http.post("/v1/adjustments", json=body)
        assert answer.status_code in (200, 404), answer.text
        if answer.status_code == 200:
            self.book.free(body, at)

    async def close(self, month: date, account: str | None = None) -> Any:
        path = "/v1/periods" if account is None else f"/v1/accounts/{account}/periods"
        closing = await self.put(f"{path}/{month:%Y-%m}:close", {"reason": "the books"})
        self.book.close(account, month)
        return closing

    async def reprice(self) -> None:
        """Every operation of one model was billed at another price than it should have been."""
        await self._price("0.030000007")
        body = {
            "repricing_id": new_id(), "from": f"{self.months[0] - timedelta(days=40)}T00:00:00Z", "reason": "list",
            "to": f"{following(self.months[-1])}T23:00:00Z", "provider": REPRICED[0], "dry_run": False,
        }  # fmt: skip
        answer = await self.ledger.http.post("/v1/repricings", json=body)
        assert answer.status_code == 200, answer.text
        rated = {
            one["adjustment"]["reference"]["operation_id"]: one
            for one in await self.corrections(kind="rerate")
            if one["adjustment"].get("repricing_id") == body["repricing_id"]
        }
        for one in list(self.book.entries):
            if one.provider == REPRICED[0] and one.outcome == "completed":
                adds = Decimal("0.030000007") * one.sums.units - one.sums.cost
                self.book.correct(rated.pop(one.id)["operation_id"], "rerate", one, Sums(cost=adds))
        assert rated == {}

    async def corrections(self, **query: str) -> list[Body]:
        """As they are listed, page by page."""
        found: list[Body] = []
        cursor: str | None = None
        while True:
            page = {"limit": "23", **query, **({"cursor": cursor} if cursor else {})}
            answer = await self.ledger.http.get("/v1/adjustments", params=page)
            assert answer.status_code == 200, answer.text
            found += answer.json()["items"]
            cursor = answer.json()["next_cursor"]
            if cursor is None:
                return found

    async def begin(self) -> None:
        """Two months, each of which is closed at its end, for some or for all."""
        await self.set_up()
        await self.happen(30)
        for month in self.months[:2]:
            await self.happen(15)
            for _ in range(4):
                await self.correct()
            await self.gift()
            await self.checked()
            await self.close(month, None if self.random.random() < 0.6 else self.random.choice(self.accounts))

    async def end(self) -> None:
        """What comes later, much of it for months that are closed; an account moves to another zone."""
        await self.happen(20)
        moved = self.random.choice(list(self.zones))
        self.zones[moved] = self.random.choice(ZONES)
        await self.ledger.put_account(moved, time_zone=self.zones[moved], billing_anchor="2025-01-31")
        await self.reprice()
        for _ in range(6):
            await self.correct()
        await self.gift()
        await self.close(self.months[2])
        await self.happen(10)

    def of(self, account: str, entries: list[Entry] | None = None) -> list[Entry]:
        return [one for one in (self.book.entries if entries is None else entries) if one.account == account]

    def booked_months(self) -> list[date]:
        """All in which anything can be booked, and one on either side."""
        months = {one.booked for one in self.book.entries} | {*self.months}
        first = self.months[0] - timedelta(days=1)
        return sorted({*months, first.replace(day=1), first_of(datetime.now(UTC))})
