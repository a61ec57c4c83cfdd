"""From the version before to this one and back, under load: nothing is lost, and nothing doubled.

`make test` has one service of each kind go there and back. `make upgrades-test` has two, goes there, back and there
again, and begins at older schemas, too.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest

from contracts.subjects import subject_of
from tests import builders
from tests.builders import limit, plan
from tests.containers.load import Load
from tests.servers import TLS, eventually
from tests.tokens import AUTHORIZED
from tests.upgrades.fleet import Fleet, fleet_in
from tests.upgrades.load import Direct, asked_again, differences, quiet
from tests.upgrades.versions import Version, newest_release, present, released

IMAGE_ACCOUNTS: Final = ("atelier", "bureau")
DIRECT_ACCOUNTS: Final = ("cabinet", "depot")
#: Some of them are reached, so that there are denials.
TIGHT: Final = 60
REQUEST_SECONDS: Final = 30.0
POISON: Final = b"no event at all"
#: Events that lie in the stream when its ledger is killed.
UNCONSUMED: Final = 40


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return released(newest_release(), tmp_path_factory.mktemp("released"))


class Ordeal:
    """A fleet and its customers, who go on whatever is done to it."""

    def __init__(self, fleet: Fleet, images: Load, direct: Direct) -> None:
        self.fleet, self.images, self.direct = fleet, images, direct
        self.open_holds: set[str] = set()
        self._enough = asyncio.Event()
        self._works = [
            asyncio.create_task(images.run(2, self._enough)),
            asyncio.create_task(direct.run(2, self._enough)),
        ]

    async def end(self) -> None:
        """When each request under way has its answer."""
        self._enough.set()
        async with asyncio.timeout(90):
            await asyncio.gather(*self._works)

    async def give_up(self) -> None:
        for work in self._works:
            work.cancel()
        await asyncio.gather(*self._works, return_exceptions=True)

    async def some_work(self, operations: int = 12) -> None:
        """So many more of each kind are answered."""
        told, decided = len(self.images.told) + operations, len(self.direct.decisions) + operations

        def done() -> bool:
            for work in self._works:
                if work.done():
                    work.result()
            return len(self.images.told) >= told and len(self.direct.decisions) >= decided

        await eventually(done, "customers are served", within_seconds=60)

    async def hold(self) -> None:
        """A hold that stays open, whoever serves meanwhile."""
        asked = builders.check(
            account_id=DIRECT_ACCOUNTS[0], user_id="patient", ttl_seconds=3600, estimated_cost="0.04"
        )
        assert (await self.direct.check(asked))["allowed"]
        self.open_holds.add(asked["operation_id"])

    async def poison(self) -> None:
        await self.direct.producer.jetstream().publish(subject_of("usage.operation.completed.v1"), POISON)

    async def letters(self) -> list[str]:
        """The codes of open ones, as the ledger shows them."""
        answer = await self.direct.http.get(f"{self.fleet.ledgers[0].url}/v1/dead-letters")
        assert answer.status_code == 200, answer.text
        return [item["code"] for item in answer.json()["items"]]

    async def _stopped_in_the_middle(self) -> bool:
        if not self.fleet.unconfirmed():
            return False
        for ledger in self.fleet.ledgers:
            ledger.send(signal.SIGSTOP)
        await asyncio.sleep(0.1)  # what was on its way has come
        if self.fleet.unconfirmed():
            return True
        for ledger in self.fleet.ledgers:
            ledger.send(signal.SIGCONT)
        return False

    async def cut_off(self) -> None:
        """All services die at once, with events in journals and in the stream that no ledger has."""
        await eventually(self._stopped_in_the_middle, "ledgers stop while events in journals are unconfirmed")
        for _ in range(UNCONSUMED):
            await self.direct.publish(builders.completed(account_id=DIRECT_ACCOUNTS[1], user_id=builders.new_id()))
        for service in (*self.fleet.images, *self.fleet.ledgers):
            service.kill()
        assert self.fleet.unconfirmed() > 0
        consumer = await self.fleet.consumer()
        assert consumer.num_pending + consumer.num_ack_pending >= UNCONSUMED


@asynccontextmanager
async def customers(fleet: Fleet) -> AsyncIterator[Ordeal]:
    async with (
        httpx.AsyncClient(headers=AUTHORIZED, timeout=REQUEST_SECONDS, verify=TLS, trust_env=False) as http,
        fleet.producer() as producer,
    ):
        for name, maximum in (("roomy", 10**6), ("tight", TIGHT)):
            limits = [
                limit(maximum=maximum, window="lifetime"),
                limit("spend", meter="cost", window="lifetime", maximum="1000"),
            ]
            answer = await http.put(f"{fleet.ledgers[0].url}/v1/plans/{name}", json=plan(*limits, name=name))
            assert answer.status_code == 200, answer.text
        for account_id in (*IMAGE_ACCOUNTS, *DIRECT_ACCOUNTS):
            name = "tight" if account_id == DIRECT_ACCOUNTS[1] else "roomy"
            body = builders.account(name)
            answer = await http.put(f"{fleet.ledgers[0].url}/v1/accounts/{account_id}", json=body)
            assert answer.status_code == 200, answer.text
        ordeal = Ordeal(
            fleet,
            Load(http, tuple(one.url for one in fleet.images), IMAGE_ACCOUNTS),
            Direct(fleet, http, producer, DIRECT_ACCOUNTS),
        )
        try:
            yield ordeal
        finally:
            await ordeal.give_up()


async def books_are_right(ordeal: Ordeal, by: Version) -> None:
    """Customers end; then all must be there, once."""
    fleet = ordeal.fleet
    await ordeal.end()
    await quiet(fleet)
    assert await differences(fleet, ordeal.images, ordeal.direct, ordeal.open_holds) == []
    assert await asked_again(ordeal.direct.http, ordeal.images, ordeal.direct, most=10) == []
    assert await ordeal.letters() == ["malformed_json"]
    done = await asyncio.to_thread(fleet.run, by, "verify", "--seals")
    assert done.returncode == 0, done.stdout + done.stderr
    assert int((await fleet.fetch("select count(*) from seals"))[0][0]) > 1


async def test_from_the_release_before_to_this_version_and_back(before: Version, tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        [ledger], [image] = fleet.ledgers, fleet.images
        await fleet.migrate(before)
        await ledger.start_as(before)
        await image.start_as(before)
        async with customers(fleet) as ordeal:
            await ordeal.hold()
            await ordeal.poison()
            await ordeal.some_work()
            await ordeal.cut_off()
            await fleet.migrate(present())
            await ledger.start_as(present())
            await image.start_as(present())
            await ordeal.hold()
            await ordeal.some_work()
            # Back, on the schema of this version.
            await ledger.replace_by(before)
            await image.replace_by(before)
            await ordeal.some_work()
            await books_are_right(ordeal, present())
