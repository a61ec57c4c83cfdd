"""From the version before to this one and back, under load: nothing is lost, and nothing doubled.

`make test` has one service of each kind go there and back. `make upgrades-test` has two, goes there, back and there
again, and begins at older schemas, too.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest

from contracts.subjects import subject_of
from tests import builders
from tests.builders import limit, plan
from tests.containers.load import Load
from tests.e2e.driver import AccountClient, StackProcess
from tests.servers import TLS, eventually
from tests.tokens import AUTHORIZED
from tests.upgrades.fleet import Fleet, Service, fleet_in
from tests.upgrades.load import Direct, asked_again, differences, quiet
from tests.upgrades.versions import Version, find, future, newest_release, present, released

IMAGE_ACCOUNTS: Final = ("atelier", "bureau")
DIRECT_ACCOUNTS: Final = ("cabinet", "depot", "office")
#: What calls of each may come to: the last is denied by every version.
MAXIMA: Final = {"roomy": 10**6, "tight": 60, "shut": 0}
PLANS: Final = {DIRECT_ACCOUNTS[1]: "tight", DIRECT_ACCOUNTS[2]: "shut"}
REQUEST_SECONDS: Final = 30.0
POISON: Final = b"no event at all"
#: Events that lie in the stream when its ledger is killed.
UNCONSUMED: Final = 40


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return released(newest_release(), tmp_path_factory.mktemp("released"))


class Ordeal:
    """A fleet and its customers, who go on whatever is done to it."""

    def __init__(self, fleet: Fleet, images: Load, direct: Direct, clients: int) -> None:
        self.fleet, self.images, self.direct = fleet, images, direct
        self.open_holds: set[str] = set()
        self._enough = asyncio.Event()
        self._works = [
            asyncio.create_task(images.run(clients, self._enough)),
            asyncio.create_task(direct.run(clients, self._enough)),
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
        assert (consumer.num_pending or 0) + (consumer.num_ack_pending or 0) >= UNCONSUMED


@asynccontextmanager
async def customers(fleet: Fleet, clients: int = 2) -> AsyncIterator[Ordeal]:
    async with (
        httpx.AsyncClient(headers=AUTHORIZED, timeout=REQUEST_SECONDS, verify=TLS, trust_env=False) as http,
        fleet.producer() as producer,
    ):
        for name, maximum in MAXIMA.items():
            limits = [
                limit(maximum=maximum, window="lifetime"),
                limit("spend", meter="cost", window="lifetime", maximum="1000"),
            ]
            answer = await http.put(f"{fleet.ledgers[0].url}/v1/plans/{name}", json=plan(*limits, name=name))
            assert answer.status_code == 200, answer.text
        for account_id in (*IMAGE_ACCOUNTS, *DIRECT_ACCOUNTS):
            body = builders.account(PLANS.get(account_id, "roomy"))
            answer = await http.put(f"{fleet.ledgers[0].url}/v1/accounts/{account_id}", json=body)
            assert answer.status_code == 200, answer.text
        ordeal = Ordeal(
            fleet,
            Load(http, tuple(one.url for one in fleet.images), IMAGE_ACCOUNTS),
            Direct(fleet, http, producer, DIRECT_ACCOUNTS),
            clients,
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
    assert await asked_again(ordeal.images, ordeal.direct) == []
    assert await ordeal.letters() == ["malformed_json"]
    done = await asyncio.to_thread(fleet.run, by, "verify", "--seals")
    assert done.returncode == 0, done.stdout + done.stderr
    assert int((await fleet.fetch("select count(*) from seals"))[0][0]) > 1


#: Of a version to come: what most migrations do, and what leaves the code of today at work.
EXPANDS: Final = """-- works with: {schema}
create table of_tomorrow (account_id text primary key);
alter table usage_log add column of_tomorrow text;
alter table accounts add column of_tomorrow text not null default 'x';
create index decisions_of_tomorrow on decisions (account_id, state);
"""


def of_tomorrow(before: Version, folder: Path) -> Version:
    sql = EXPANDS.format(schema=before.schema)
    return future(folder, "9998_expands.sql", sql, column_in=("usage_log", "accounts"))


async def test_from_the_release_before_to_this_version_and_back(before: Version, tmp_path: Path) -> None:
    """On a schema that is newer than both: whatever migrations this version has, and one more."""
    schema = of_tomorrow(before, tmp_path)
    with fleet_in(tmp_path) as fleet:
        [ledger], [image] = fleet.ledgers, fleet.images
        await fleet.migrate(before)
        await ledger.start_as(before)
        await image.start_as(before)
        async with customers(fleet, clients=1) as ordeal:
            await ordeal.hold()
            await ordeal.poison()
            await ordeal.some_work(8)
            await ordeal.cut_off()
            assert "9998_expands.sql" in await fleet.migrate(schema)
            await ledger.start_as(present())
            await image.start_as(present())
            await ordeal.hold()
            await ordeal.some_work(8)
            assert await asked_again(ordeal.images, ordeal.direct) == []
            # Back; the schema stays.
            await ledger.replace_by(before)
            await image.replace_by(before)
            await ordeal.some_work(8)
            await books_are_right(ordeal, schema)


# --- make upgrades-test ---


async def replace(services: Iterable[Service], version: Version, ordeal: Ordeal) -> None:
    """One after the other, while customers go on."""
    for service in services:
        await service.replace_by(version)
        await ordeal.some_work(8)


@pytest.mark.upgrades
async def test_two_of_each_there_back_and_there_again_one_after_the_other(before: Version, tmp_path: Path) -> None:
    """Versions are mixed at every step, on a schema that is newer than both; and services die in between."""
    schema, now = of_tomorrow(before, tmp_path), present()
    with fleet_in(tmp_path, ledgers=2, images=2) as fleet:
        await fleet.migrate(before)
        for service in fleet.services:
            await service.start_as(before)
        async with customers(fleet) as ordeal:
            await ordeal.hold()
            await ordeal.poison()
            await ordeal.some_work()
            await ordeal.cut_off()
            for service in fleet.services:
                await service.start_as(before)
            # Now while everything runs.
            assert "9998_expands.sql" in await fleet.migrate(schema)
            await ordeal.some_work()
            await ordeal.hold()
            await replace(fleet.ledgers, now, ordeal)
            await replace(fleet.images, now, ordeal)
            await ordeal.hold()
            await replace(fleet.images, before, ordeal)
            await replace(fleet.ledgers, before, ordeal)
            # What runs `ledger migrate` at each start, as containers do, does no harm with the version before.
            assert "up to date" in await fleet.migrate(before)
            await ordeal.cut_off()
            assert "of a newer version" in await fleet.migrate(now)
            for service in fleet.services:
                await service.start_as(now)
            await ordeal.some_work()
            await books_are_right(ordeal, schema)


@pytest.mark.upgrades
async def test_from_before_there_were_rollups(tmp_path: Path) -> None:
    """Ledgers that would not fill them are stopped first; image services go on, and say that the ledger is away."""
    early = released(find("0.0.9"), tmp_path)
    with fleet_in(tmp_path, ledgers=1, images=2) as fleet:
        [ledger] = fleet.ledgers
        await fleet.migrate(early)
        for service in fleet.services:
            await service.start_as(early)
        async with customers(fleet) as ordeal:
            await ordeal.hold()
            await ordeal.poison()
            await ordeal.some_work(30)
            await ordeal.cut_off()
            for image in fleet.images:
                image.launch_as(early)
            said = await fleet.migrate(present())
            assert "0013_usage_hourly.sql" in said
            rows = "select sum(calls)::int from usage_hourly"
            assert (await fleet.fetch(rows))[0][0] > 0, "the migration had nothing to fill the rollups with"
            await ledger.start_as(present())
            await ordeal.some_work()
            await replace(fleet.images, present(), ordeal)
            done = await asyncio.to_thread(fleet.run, early, "migrate")
            assert done.returncode == 1, "there is no way back"
            await books_are_right(ordeal, present())


#: What older ledgers would not keep up: a table of what is in the log.
ADDS_A_PROJECTION: Final = """
create table of_tomorrow (account_id text primary key, events bigint not null);
insert into of_tomorrow select account_id, count(*) from event_log group by account_id;
"""


@pytest.mark.upgrades
async def test_ledgers_of_the_release_before_cannot_write_beside_a_projection_that_they_do_not_know(
    before: Version, tmp_path: Path
) -> None:
    schema = future(tmp_path, "9998_adds_a_projection.sql", ADDS_A_PROJECTION)
    events = "select account_id, count(*) as events from event_log group by account_id order by account_id"
    with fleet_in(tmp_path, ledgers=2, images=1) as fleet:
        await fleet.migrate(before)
        for service in fleet.services:
            await service.start_as(before)
        async with customers(fleet) as ordeal:
            await ordeal.hold()
            await ordeal.poison()
            await ordeal.some_work()
            await fleet.migrate(schema)
            # They run, they are asked, and they write nothing.
            await asyncio.sleep(2)
            assert all(one.running for one in fleet.ledgers)
            projected = await fleet.fetch("select account_id, events from of_tomorrow order by account_id")
            assert [tuple(row) for row in projected] == [tuple(row) for row in await fleet.fetch(events)]
            # Nor does this version, until it is one that knows.
            fleet.ledgers[0].kill()
            fleet.ledgers[0].launch_as(present())
            await eventually(lambda: fleet.ledgers[0].exit_code() is not None, "it refuses to start")
            assert "start version 99.0.0 or newer" in fleet.ledgers[0].log_path.read_text()
            for one in fleet.ledgers:
                await one.replace_by(schema)
            await ordeal.some_work()
            await fleet.images[0].replace_by(schema)
            await ordeal.some_work()
            await books_are_right(ordeal, schema)


@pytest.mark.upgrades
def test_a_data_folder_of_the_release_before_is_taken_over_by_usage_stack_and_given_back(
    before: Version, tmp_path: Path
) -> None:
    """`make run` on the folder of an older clone, after a power cut, and again on the older one."""
    asked: list[str] = []
    for number, version in enumerate((before, present(), before, present())):
        stack = StackProcess(tmp_path / "data", version.environment)
        stack.start((sys.executable, "-m", "deploy.local.cli", "up", "--data", str(stack.data), *FREE_PORTS))
        try:
            asyncio.run(one_visit(stack, number, asked))
        finally:
            stack.kill_all()


FREE_PORTS: Final = ("--ledger-port", "0", "--image-port", "0")


async def one_visit(stack: StackProcess, number: int, asked: list[str]) -> None:
    """What was asked before is asked again, and is there once; then new operations, which a kill cuts short."""
    async with httpx.AsyncClient(headers=stack.headers, timeout=REQUEST_SECONDS, trust_env=False) as http:
        client = AccountClient(stack, http, "visitor")
        if number == 0:
            await client.put_on_plan(limit(maximum=10**6, window="lifetime"))
        await asyncio.gather(*(until_answered(client, user) for user in asked))
        await stack.quiet()
        found = await stack.fetch("select user_id, count(*) as charged from usage_log group by user_id")
        assert {row["user_id"]: row["charged"] for row in found} == dict.fromkeys(asked, 1)
        users = [f"visit-{number}-{one}" for one in range(8)]
        asked += users
        for user in users[:4]:
            await until_answered(client, user)
        hasty = [asyncio.create_task(until_answered(client, user)) for user in users[4:]]
        await asyncio.sleep(0.05)
        stack.kill_all()
        for task in hasty:
            task.cancel()
        await asyncio.gather(*hasty, return_exceptions=True)


async def until_answered(client: AccountClient, user: str) -> None:
    """With what became of it, done or failed: the same key is sent until then."""
    headers = {"X-User-Id": user, "Idempotency-Key": user}
    async with asyncio.timeout(60):
        while (await client.generate(headers=headers)).status_code not in (200, 502):  # noqa: ASYNC110 - each look is a request
            await asyncio.sleep(0.2)
