"""What the ledger answered at a moment, it answers as of that moment for ever, to the byte: whatever came later."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime

import asyncpg
import httpx
import pytest

from ledger_service.store.moments import SETTLING
from tests import builders
from tests.builders import ACCOUNT, Body, adjustment, completed, failed, limit
from tests.servers import Ledger

STEPS_PER_WITNESS = 15
LAST_MONTH, THIS_MONTH = "2026-09", "2026-10"
PRICE = "/v1/prices/local/generate/render-1"
URLS = [
    f"/v1/accounts/{ACCOUNT}/usage",
    f"/v1/accounts/{ACCOUNT}/usage?period={LAST_MONTH}",
    f"/v1/accounts/{ACCOUNT}/usage?period={THIS_MONTH}",
    f"/v1/accounts/{ACCOUNT}/usage-log?limit=1000",
    f"/v1/accounts/{ACCOUNT}/usage-log?outcome=adjustment&operation=edit",
    f"/v1/accounts/{ACCOUNT}/statements/{LAST_MONTH}",
    f"/v1/accounts/{ACCOUNT}/statements/{THIS_MONTH}?format=csv",
    f"/v1/accounts/{ACCOUNT}",
    f"/v1/accounts/{ACCOUNT}/limits",
    f"/v1/accounts/{ACCOUNT}/credit-grants",
    f"/v1/accounts/{ACCOUNT}/alerts",
    f"/v1/accounts/{ACCOUNT}/holds?limit=1000",
    f"/v1/plans/{builders.PLAN}",
    PRICE,
    f"{PRICE}?changes=true",
    "/v1/prices",
    "/v1/resale-prices",
    f"/v1/accounts/{ACCOUNT}/resale-prices",
    "/v1/reports/estimates?from=2026-01-01T00:00:00Z&to=2027-12-31T00:00:00Z",
    "/v1/changes",
    f"/v1/changes?account_id={ACCOUNT}",
]

Answer = tuple[int, bytes]


class History:
    """A random history of one account, by all that can be done to it."""

    def __init__(self, ledger: Ledger, chance: random.Random) -> None:
        self.ledger, self.chance = ledger, chance
        self.held: list[Body] = []
        #: The decision that each operation is held by.
        self.placed: dict[str, Body] = {}
        self.leases: list[Body] = []
        self.finished: list[Body] = []
        self.adjustments: list[str] = []
        self.decided: list[str] = []

    async def begin(self) -> None:
        await self.put_plan()
        await self.ledger.put_account()
        await self.lease()

    def steps(self) -> list[Callable[[], Awaitable[None]]]:
        """In an order of chance: all of them, so that everything changes now and then."""
        often = [
            self.check,
            self.check,
            self.outcomes,
            self.outcomes,
            self.move,
            self.adjust,
            self.adjust,
            self.override,
            self.grant,
        ]
        seldom = [self.release, self.extend, self.lease, self.put_plan, self.put_account, self.price, self.resale]
        steps: list[Callable[[], Awaitable[None]]] = [*8 * often, *4 * seldom, *2 * [self.close]]
        self.chance.shuffle(steps)
        return steps

    async def check(self) -> None:
        asked = builders.check(
            operation=self.chance.choice(["generate", "edit"]), estimated_cost=f"0.0{self.chance.randint(1, 9)}"
        )
        self.decided.append(asked["operation_id"])
        decision = await self.ledger.check(asked)
        if decision["allowed"]:
            self.held.append(asked)
            self.placed[asked["operation_id"]] = decision

    async def move(self) -> None:
        for asked in self.chance.sample(self.held, min(2, len(self.held))):
            to = {"provider": self.chance.choice(["far", "other"]), "quantity": self.chance.randint(1, 3)}
            decision = await self.ledger.move(
                self.placed[asked["operation_id"]], **to, estimated_cost=f"0.{self.chance.randint(1, 99):02}"
            )
            if decision["allowed"]:
                self.placed[asked["operation_id"]] = decision

    async def lease(self) -> None:
        asked = builders.lease(calls=3, quantity=3, estimated_cost="0.3")
        answer = await self.ledger.http.post("/v1/leases", json=asked)
        if answer.status_code == 200 and answer.json().get("allowed", True):
            self.leases.append(asked)
            self.decided.append(asked["lease_id"])

    async def outcomes(self) -> None:
        made = []
        for _ in range(self.chance.randint(1, 4)):
            of = (
                self.held.pop(self.chance.randrange(len(self.held)))
                if self.held and self.chance.random() < 0.7
                else None
            )
            month = self.chance.choice([LAST_MONTH, THIS_MONTH])
            fields: Body = {} if of else {"time": f"{month}-{self.chance.randint(10, 28)}T10:00:00Z"}
            if of is None and self.leases and self.chance.random() < 0.5:
                fields = {"leaseid": self.chance.choice(self.leases)["lease_id"]}
            kind = self.chance.choice([completed, completed, failed])
            made.append(kind(of, cost=self.chance.choice(["0", "0.02", "0.05"]), **fields))
        self.finished += made
        await self.ledger.send(*made)

    async def adjust(self) -> None:
        if not self.finished:
            return
        of = self.chance.choice(self.finished)
        kinds: list[Body] = [
            adjustment("rerate", of, cost=f"0.{self.chance.randint(1, 99):02}"),
            adjustment("void", of),
            adjustment(cost="-0.5", calls=1, operation="edit", occurred_at=f"{LAST_MONTH}-12T00:00:00Z"),
        ]
        await self.ledger.http.post("/v1/adjustments", json=self.chance.choice(kinds))

    async def release(self) -> None:
        if self.held:
            await self.ledger.release(self.held.pop()["operation_id"])

    async def extend(self) -> None:
        if self.held:
            await self.ledger.extend(self.chance.choice(self.held)["operation_id"], ttl_seconds=900)

    async def put_plan(self) -> None:
        wanted = [
            limit(maximum=self.chance.randint(5, 60), thresholds=[50, 100]),
            limit("credit", window="lifetime", maximum=1, credit=True, mode="soft"),
            limit("spend", meter="cost", window="lifetime", maximum=f"{self.chance.randint(1, 5)}.5", mode="soft"),
            limit("day", window="day", maximum=40, selector={"operation": ["edit"]}),
            limit("far", meter="units", maximum=6, selector={"provider": ["far"]}),
        ]
        await self._put(f"/v1/plans/{builders.PLAN}", builders.lease_plan(*wanted[: self.chance.randint(2, 5)]))

    async def put_account(self) -> None:
        await self._put(
            f"/v1/accounts/{ACCOUNT}", builders.account(time_zone=self.chance.choice(["UTC", "Asia/Tokyo"]))
        )

    async def override(self) -> None:
        url = f"/v1/accounts/{ACCOUNT}/limits/images"
        if self.chance.random() < 0.3:
            await self.ledger.http.delete(url)
        else:
            await self._put(url, {"maximum": self.chance.randint(1, 99), "reason": "asked for"})

    async def grant(self) -> None:
        url = f"/v1/accounts/{ACCOUNT}/credit-grants/g{self.chance.randint(1, 2)}"
        if self.chance.random() < 0.3:
            await self.ledger.http.delete(url)
        else:
            body = {"limit_id": "credit", "amount": self.chance.randint(1, 50), "valid_from": "2026-01-01T00:00:00Z"}
            await self.ledger.http.put(url, json=body)

    async def price(self) -> None:
        unit_price = f"0.0{self.chance.randint(1, 9)}"
        body = {"unit": "image", "valid_from": "2026-01-01T00:00:00Z", "variants": [{"when": {}, "price": unit_price}]}
        await self._put(PRICE, body)

    async def resale(self) -> None:
        for path in ("/v1", f"/v1/accounts/{ACCOUNT}"):
            body = {"valid_from": "2026-01-01T00:00:00Z", "unit_price": f"0.0{self.chance.randint(1, 9)}"}
            await self._put(f"{path}/resale-prices/generate/render-1", body)

    async def close(self) -> None:
        month = self.chance.choice(["2026-08", LAST_MONTH])
        await self._put(f"/v1/accounts/{ACCOUNT}/periods/{month}:close", {"reason": "the books"})

    async def _put(self, url: str, body: Body) -> None:
        answer = await self.ledger.http.put(url, json=body)
        assert answer.status_code == 200, answer.text


async def answers(ledger: Ledger, urls: list[str], **query: str) -> dict[str, Answer]:
    found: dict[str, Answer] = {}
    for url in urls:
        answer = await ledger.http.get(httpx.URL(url).copy_merge_params(query))
        found[url] = (answer.status_code, answer.content)
    return found


#: One history in every run of the tests; these as well by `make faults`.
LONG_SEEDS = range(2, 6)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.faults) for seed in LONG_SEEDS)])
async def test_the_past_is_what_was_answered_then(
    ledger: Ledger, database: "asyncpg.Connection[asyncpg.Record]", seed: int
) -> None:
    chance = random.Random(seed)
    history = History(ledger, chance)
    witnesses: list[tuple[datetime, dict[str, Answer]]] = []
    await history.begin()
    for number, step in enumerate(history.steps()):
        await step()
        if number % STEPS_PER_WITNESS == 0:
            urls = [
                *URLS,
                *(f"/v1/decisions/{one}" for one in chance.sample(history.decided, min(8, len(history.decided)))),
            ]
            said = await answers(ledger, urls)
            moment: datetime = await database.fetchval("select clock_timestamp()")
            witnesses.append((moment.astimezone(UTC), said))
    await asyncio.sleep(SETTLING.total_seconds())
    for moment, said in witnesses:
        again = await answers(ledger, list(said), as_of=moment.isoformat())
        assert again == said
    _not_all_the_same(said for _, said in witnesses)


def _not_all_the_same(witnesses: Iterable[dict[str, Answer]]) -> None:
    """Else nothing was tried."""
    by_url: dict[str, set[Answer]] = {}
    for said in witnesses:
        for url, answer in said.items():
            by_url.setdefault(url, set()).add(answer)
    same = [url for url in URLS if len(by_url[url]) == 1]
    assert not same, f"never changed: {same}"
