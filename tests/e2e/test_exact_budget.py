"""$1.00, a hundred callers of $0.052 each: exactly nineteen are admitted, whatever else happens at that moment."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import nats
import pytest
from nats.aio.client import Client as Nats

from contracts.subjects import LIMITS_CHECK, subject_of
from deploy.local.errors import MissingServerError
from tests import builders
from tests.builders import ACCOUNT, Body, completed, failed, limit
from tests.e2e.budget import (
    CALLERS,
    FITS,
    PRICE,
    SPEND,
    Answers,
    Database,
    Door,
    HttpDoor,
    StartProcess,
    assert_log_is_right,
    checks,
    clients_of,
    door_of,
    spend,
    states,
)
from tests.e2e.budget_killed import rounds_with_kills
from tests.nats_flush import flushed
from tests.servers import WAIT_SECONDS, Client, Ledger, eventually
from tests.soak.stack import Stack, stack_of
from tests.tokens import TOKEN

over_both = pytest.mark.parametrize("transport", ["http", "nats"])


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Three ledgers on a PostgreSQL and a NATS of their own: a queue group hands to any ledger that is there."""
    try:
        with stack_of(tmp_path_factory.mktemp("three-ledgers"), 3, durable=False) as made:
            yield made
    except MissingServerError as error:
        pytest.skip(str(error))


@dataclass(frozen=True)
class Three:
    """Three ledgers, and an account of the test's own on a plan with SPEND."""

    clients: list[Client]
    nats: Nats
    nats_url: str
    database: "Database[asyncpg.Record]"
    account: str

    def door(self, transport: str) -> Door:
        return door_of(transport, self.clients, self.nats)

    def checks(self, count: int = CALLERS, **fields: object) -> list[Body]:
        return checks(count, account_id=self.account, **fields)

    async def spend(self, ledger: int = 0, limit_id: str = "spend") -> tuple[str, str, str]:
        return await spend(self.clients[ledger], self.account, limit_id)

    async def all_holds_have_ended(self) -> None:
        async def none_open() -> bool:
            return "held" not in await states(self.database, self.account)

        await eventually(none_open, "the last holds end")


@pytest.fixture
async def three(stack: Stack) -> AsyncIterator[Three]:
    async with AsyncExitStack() as opened:
        clients = await opened.enter_async_context(clients_of(stack.ledgers))
        connection = await nats.connect(stack.nats_url)
        opened.push_async_callback(connection.close)
        database = await asyncpg.connect(stack.database_url)
        opened.push_async_callback(database.close)
        account = f"acme-{builders.new_id()}"
        await clients[0].put_plan(SPEND)
        await clients[0].put_account(account)
        yield Three(clients, connection, stack.nats_url, database, account)


# --- the rush ---


@over_both
async def test_exactly_nineteen_of_a_hundred_through_one_ledger(
    ledger_process: StartProcess, database: "Database[asyncpg.Record]", nats_client: Nats, transport: str
) -> None:
    async with clients_of([ledger_process()]) as clients:
        await clients[0].set_up(SPEND)
        await nineteen_and_no_more(door_of(transport, clients, nats_client), clients, database, ACCOUNT)


@over_both
async def test_exactly_nineteen_of_a_hundred_through_three_ledgers(three: Three, transport: str) -> None:
    await nineteen_and_no_more(three.door(transport), three.clients, three.database, three.account)


async def nineteen_and_no_more(
    door: Door, clients: Sequence[Client], database: "Database[asyncpg.Record]", account_id: str
) -> None:
    answers, wave = Answers(), checks(account_id=account_id)
    decisions = await answers.rush(door, wave)
    assert len(answers.allowed) == FITS
    denials = {decision["denial"]["limit_id"] for decision in decisions if not decision["allowed"]}
    assert denials == {"spend"}
    for client in clients:
        assert await spend(client, account_id) == ("0.000000000", "0.988000000", "0.012000000")
    await answers.rush(door, wave)  # all again: Answers says if one is told otherwise
    # What is left is left to the nano-dollar.
    rest = []
    for price in ("0.012000001", "0.012", "0.000000001"):
        [check] = checks(1, account_id=account_id, estimated_cost=price)
        rest.append((await answers.ask(door, check))["allowed"])
    assert rest == [False, True, False]
    assert set((await states(database, account_id))["held"]) == set(answers.allowed)
    await assert_log_is_right(database, account_id, SPEND)


@over_both
async def test_the_narrowest_of_four_scopes_binds_and_all_four_hold_the_same(
    ledger: Ledger, database: "Database[asyncpg.Record]", nats_client: Nats, transport: str
) -> None:
    scopes = ("account", "project", "user", "api_key")
    who: dict[str, Any] = {"user_id": "ada", "project_id": "web", "api_key_id": "key-1"}
    door = door_of(transport, [ledger], nats_client)
    for narrowest in scopes:
        account_id = f"narrow-{narrowest}"
        limits = [
            limit(scope, meter="cost", scope=scope, maximum="1.00" if scope == narrowest else "1.04")
            for scope in scopes
        ]
        await ledger.put_plan(*limits)
        await ledger.put_account(account_id)
        answers = Answers()
        decisions = await answers.rush(door, checks(account_id=account_id, **who))
        assert len(answers.allowed) == FITS
        denied = [decision for decision in decisions if not decision["allowed"]]
        assert {decision["denial"]["limit_id"] for decision in denied} == {narrowest}
        for state in denied[-1]["limits"]:
            assert (state["settled"], state["held"]) == ("0.000000000", "0.988000000")
        # Somebody else, whom the narrowest does not concern, has what the other limits leave: one more.
        if narrowest != "account":
            other = {**who, f"{narrowest}_id": "somebody-else"}
            await answers.rush(door, checks(10, account_id=account_id, **other))
            assert len(answers.allowed) == FITS + 1
        await assert_log_is_right(database, account_id, *limits)


# --- callers that go away ---


async def hang_up(client: Client, check: Body, after_seconds: float) -> None:
    """Sends a check over a connection of its own and closes it without waiting for the answer."""
    place = urlsplit(str(client.http.base_url))
    _, writer = await asyncio.open_connection(place.hostname, place.port)
    body = builders.to_bytes(check)
    writer.write(
        f"POST /v1/limit-checks HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
    )
    writer.write(body)
    await writer.drain()
    await asyncio.sleep(after_seconds)
    writer.transport.abort()


async def abandon(nats_url: str, some: list[Body], after_seconds: float) -> None:
    """Asks over a connection of its own, which is gone before the answers come."""
    connection = await nats.connect(nats_url)
    inbox = connection.new_inbox()
    await connection.subscribe(inbox)
    for check in some:
        await connection.publish(LIMITS_CHECK, builders.to_bytes(check), reply=inbox)
    await flushed(connection)
    await asyncio.sleep(after_seconds)
    await connection.close()


@over_both
async def test_callers_that_go_away_and_ask_again_later_are_told_what_was_decided(three: Three, transport: str) -> None:
    chance = random.Random(5)
    wave, answers = three.checks(), Answers()
    stay, leave = wave[::2], wave[1::2]
    if transport == "http":
        leaving = [hang_up(chance.choice(three.clients), check, chance.uniform(0, 0.02)) for check in leave]
    else:
        leaving = [abandon(three.nats_url, leave[start::5], chance.uniform(0, 0.02)) for start in range(5)]
    await asyncio.gather(answers.rush(three.door(transport), stay), *leaving)
    # Wherever they come back: the same way or the other.
    await asyncio.gather(*(answers.rush(three.door(way), wave) for way in ("http", "nats")))
    assert len(answers.allowed) == FITS
    found = await states(three.database, three.account)
    assert set(found["held"]) == set(answers.allowed)
    assert len(found["held"]) + len(found["denied"]) == CALLERS
    await assert_log_is_right(three.database, three.account, SPEND)


async def test_what_a_caller_that_never_comes_back_holds_ends_with_its_ttl(
    ledger: Ledger, database: "Database[asyncpg.Record]", nats_url: str
) -> None:
    await ledger.set_up(SPEND)
    await abandon(nats_url, checks(FITS, ttl_seconds=1), 0)

    async def all_open() -> bool:
        return len((await states(database, ACCOUNT)).get("held", [])) == FITS

    async def all_ended() -> bool:
        return len((await states(database, ACCOUNT)).get("expired", [])) == FITS

    await eventually(all_open, "the abandoned checks are decided")
    assert not (await ledger.check(builders.check(estimated_cost=PRICE)))["allowed"]
    await eventually(all_ended, "their holds end")
    assert await spend(ledger, ACCOUNT) == ("0.000000000", "0.000000000", "1.000000000")
    await assert_log_is_right(database, ACCOUNT, SPEND)


# --- settlements ---


async def test_settlements_that_come_many_times_settle_once_and_admit_nobody(three: Three) -> None:
    wave, answers = three.checks(), Answers()
    await answers.rush(three.door("http"), wave)
    admitted = [check for check in wave if check["operation_id"] in set(answers.allowed)]
    events = [completed(check) for check in admitted]
    jetstream = three.nats.jetstream(timeout=10)
    received: list[Body] = []

    async def post(client: Client, some: list[Body]) -> None:
        received.append(await client.send(*some))

    async def publish(event: Body) -> None:
        await jetstream.publish(subject_of(event["type"]), builders.to_bytes(event))

    # Each event five times: to two ledgers at once, twice in one batch, and twice by JetStream; in the middle of it
    # another rush, then second outcomes of the same operations under ids of their own, which must not count.
    await asyncio.gather(
        post(three.clients[0], events + events),
        post(three.clients[1], events[::-1]),
        *(publish(event) for event in events + events[::-1]),
        answers.rush(three.door("nats"), three.checks(50)),
    )
    second = [failed(check, cost="0.9") for check in admitted]
    await asyncio.gather(post(three.clients[2], second), answers.rush(three.door("http"), three.checks(50)))
    assert sum(one["accepted"] for one in received) <= FITS  # JetStream may have been first
    assert [item["problem"]["code"] for item in received[-1]["rejected"]] == ["operation_conflict"] * FITS
    assert len(answers.allowed) == FITS
    assert await three.spend(1) == ("0.988000000", "0.000000000", "0.012000000")
    totals = (await three.clients[2].usage(three.account))["totals"]
    assert totals == {"calls": FITS, "units": FITS, "cost": "0.988000000", "failures": 0}
    assert set((await states(three.database, three.account))["settled"]) == set(answers.allowed)
    await assert_log_is_right(three.database, three.account, SPEND)


async def test_more_than_the_estimate_is_recorded_in_full_and_later_checks_see_it(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    await ledger.set_up(SPEND)
    some = checks(10, estimated_cost="0.1")
    await Answers().rush(HttpDoor([ledger]), some)
    await ledger.send(completed(some[0], cost="0.25"))
    assert await spend(ledger, ACCOUNT) == ("0.250000000", "0.900000000", "-0.150000000")
    [usage] = (await ledger.usage())["limits"]
    assert usage["available"] == "-0.150000000"
    tiny = await ledger.check(builders.check(estimated_cost="0.000000001"))
    assert tiny["denial"]["limit_id"] == "spend"
    assert tiny["limits"][0]["available"] == "-0.150000000"
    await ledger.send(failed(some[1]), completed(some[2], cost="1000"))
    assert await spend(ledger, ACCOUNT) == ("1000.250000000", "0.700000000", "-999.950000000")
    assert (await ledger.usage())["totals"]["cost"] == "1000.250000000"
    assert not (await ledger.check(builders.check(estimated_cost="0.000000001")))["allowed"]
    await assert_log_is_right(database, ACCOUNT, SPEND, strict=False)


async def test_an_overage_is_paid_off_by_holds_that_are_given_back(ledger: Ledger) -> None:
    await ledger.set_up(SPEND)
    some = checks(10, estimated_cost="0.1")
    await Answers().rush(HttpDoor([ledger]), some)
    await ledger.send(completed(some[0], cost="0.25"))
    available = Decimal("-0.15")
    for check in some[1:4]:
        assert not (await ledger.check(builders.check(estimated_cost="0.1")))["allowed"]
        await ledger.release(check["operation_id"])
        available += Decimal("0.1")
        assert Decimal((await spend(ledger, ACCOUNT))[2]) == available
    assert (await ledger.check(builders.check(estimated_cost="0.15")))["allowed"]
    assert not (await ledger.check(builders.check(estimated_cost="0.000000001")))["allowed"]


async def test_less_than_the_estimate_leaves_the_difference_at_once_and_through_any_ledger(three: Three) -> None:
    answers, wave = Answers(), three.checks(FITS)

    async def fits(door: Door, price: str) -> bool:
        [check] = three.checks(1, estimated_cost=price)
        return bool((await answers.ask(door, check))["allowed"])

    await answers.rush(three.door("http"), wave)
    second = HttpDoor([three.clients[1]])
    await three.clients[0].send(completed(wave[0], cost="0.002"))
    # 0.012 was left, and 0.05 came back.
    assert not await fits(second, "0.062000001")
    assert await fits(second, "0.062")
    assert not await fits(three.door("nats"), "0.000000001")
    await three.clients[2].send(failed(wave[1]))
    assert await fits(three.door("nats"), PRICE)
    assert await three.spend(1) == ("0.002000000", "0.998000000", "0.000000000")
    await assert_log_is_right(three.database, three.account, SPEND)


# --- reservations that end at that moment ---


@over_both
async def test_while_holds_expire_their_room_goes_to_others_and_never_twice(three: Three, transport: str) -> None:
    door, answers = three.door(transport), Answers()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await answers.rush(door, three.checks(ttl_seconds=1))
    # On a busy machine the first holds end during the rush, and others have their room.
    assert len(answers.allowed) == FITS or (len(answers.allowed) > FITS and loop.time() > began + 1)
    began = loop.time()

    async def keep_asking() -> None:
        while loop.time() < began + 1.5 or (len(answers.allowed) < 2 * FITS and loop.time() < began + WAIT_SECONDS):
            await answers.rush(door, three.checks(1, ttl_seconds=1))
            await asyncio.sleep(0.005)

    await asyncio.gather(*(keep_asking() for _ in range(20)))
    assert len(answers.allowed) >= 2 * FITS, "the room that became free was not given to anybody"
    await three.all_holds_have_ended()
    assert await three.spend() == ("0.000000000", "0.000000000", "1.000000000")
    # Decides the matter: in commit order no admission was past the limit, and no denial while there was room.
    await assert_log_is_right(three.database, three.account, SPEND)


async def test_outcomes_at_the_moment_of_expiry_count_once_and_give_back_once(three: Three) -> None:
    door, answers, wave = three.door("nats"), Answers(), three.checks(ttl_seconds=1)
    loop, chance = asyncio.get_running_loop(), random.Random(3)
    began = loop.time()
    await answers.rush(door, wave)
    admitted = [check for check in wave if check["operation_id"] in set(answers.allowed)]

    async def end(check: Body) -> None:
        await asyncio.sleep(max(0.0, began + chance.uniform(0.98, 1.25) - loop.time()))
        how, client = chance.randrange(3), chance.choice(three.clients)
        if how == 0:
            await client.release(check["operation_id"])
        else:
            await client.send(completed(check, cost="0.05") if how == 1 else failed(check, cost="0.01"))

    async def keep_asking() -> None:
        while loop.time() < began + 1.5:
            await answers.rush(door, three.checks(1, ttl_seconds=1))
            await asyncio.sleep(0.005)

    await asyncio.gather(*(end(check) for check in admitted), *(keep_asking() for _ in range(10)))
    await three.all_holds_have_ended()
    # Not strict: an outcome that came after its hold counts, though others have its room.
    await assert_log_is_right(three.database, three.account, SPEND, strict=False)


# --- limits that change while holds are open ---


async def test_a_raised_and_a_lowered_limit_admit_exactly_what_then_fits(three: Three) -> None:
    answers, wave = Answers(), three.checks()
    first, second, third = three.clients
    await answers.rush(three.door("http"), wave)
    await second.put_plan({**SPEND, "maximum": "2.00"})
    await answers.rush(three.door("nats"), three.checks())
    assert len(answers.allowed) == 38  # for 1.976
    await third.put_plan({**SPEND, "maximum": "0.50"})
    await answers.rush(three.door("http"), three.checks())
    assert len(answers.allowed) == 38
    assert await three.spend() == ("0.000000000", "1.976000000", "-1.476000000")
    # The holds of before settle as they would have; another plan finds them.
    await first.send(*(completed(check) for check in wave if check["operation_id"] in set(answers.allowed)))
    await first.put_plan(limit("money", meter="cost", maximum="2.5"), plan_id="other")
    await first.put_account(three.account, plan_id="other")
    assert await three.spend(1, "money") == ("0.988000000", "0.988000000", "0.524000000")
    await answers.rush(three.door("http"), three.checks())
    assert len(answers.allowed) == 38 + 10  # for another 0.52


async def test_an_upgrade_in_the_middle_of_the_rush_admits_what_the_larger_plan_allows(three: Three) -> None:
    await three.clients[0].put_plan({**SPEND, "maximum": "2.00"}, plan_id="larger")
    answers = Answers()

    async def upgrade() -> None:
        await asyncio.sleep(0.01)
        await three.clients[1].put_account(three.account, plan_id="larger")

    await asyncio.gather(
        answers.rush(three.door("http"), three.checks(60)),
        upgrade(),
        answers.rush(three.door("nats"), three.checks(60)),
    )
    assert FITS <= len(answers.allowed) <= 38
    await answers.rush(three.door("http"), three.checks())
    assert len(answers.allowed) == 38
    assert await three.spend(2) == ("0.000000000", "1.976000000", "0.024000000")


# --- a ledger that is killed; the long form is in tests/faults ---


async def test_kill_9_of_a_ledger_in_the_middle_of_the_rush_admits_nineteen_all_the_same(
    stack: Stack, three: Three
) -> None:
    await rounds_with_kills(stack.ledgers, three.database, stack.nats_url, rounds=3, seed=1)
