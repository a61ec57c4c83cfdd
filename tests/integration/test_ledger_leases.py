"""Leases: held like any other reservation, drawn from by outcomes, given back by their token alone."""

import asyncio
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import nats
import orjson
import pytest
import pytest_asyncio
from nats.aio.client import Client as Nats

from contracts.leases import Lease
from contracts.subjects import LEASES_PLACE, LEASES_RETURN
from tests import builders
from tests.builders import Body, check, completed, failed, lease_plan, limit, new_id, usual
from tests.conftest import StartLedger
from tests.oracle import moment
from tests.property.projections import assert_projections_agree, replayed
from tests.servers import Client, Ledger, eventually

#: One ledger for most of them: each test has an account and a plan of its own.
pytestmark = pytest.mark.asyncio(loop_scope="module")
#: Of those that need a ledger to themselves: another loop, as the shared one stands still meanwhile.
alone = pytest.mark.asyncio(loop_scope="function")

IMAGES = limit("images", maximum=10)
UNITS = limit("units", meter="units", maximum=50)
SPEND = limit("spend", meter="cost", maximum="1")


@pytest.fixture
def ledger(lent_ledger: Ledger) -> Ledger:
    return lent_ledger


@pytest_asyncio.fixture(loop_scope="module")
async def nats_client(nats_server_url: str) -> AsyncIterator[Nats]:
    """To the server as it is: a new stream would be one that the ledger does not know yet."""
    client = await nats.connect(nats_server_url)
    yield client
    await client.close()


async def set_up(ledger: Client, *limits: Body, **rule: Any) -> None:
    body = lease_plan(*(limits or (IMAGES, UNITS)), **rule)
    assert (await ledger.http.put(f"/v1/plans/{usual.plan_id}", json=body)).status_code == 200
    await ledger.put_account()


async def place(ledger: Client, body: Body) -> Body:
    answer = await ledger.http.post("/v1/leases", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def give_back(ledger: Client, lease_id: str, token: str) -> httpx.Response:
    return await ledger.http.post(f"/v1/leases/{lease_id}:return", json={"token": token})


async def amounts(ledger: Client, limit_id: str = "images") -> tuple[object, object]:
    state = await ledger.limit(limit_id)
    return state["settled"], state["held"]


def under(lease: Body, **fields: Any) -> Body:
    """A completed operation that was admitted under the lease."""
    return {**completed(check(), **fields), "leaseid": lease["lease_id"]}


def refused(answer: httpx.Response) -> tuple[int, str, list[str]]:
    body = answer.json()
    return answer.status_code, body["code"], [error["field"] for error in body["errors"]]


async def agrees(database: "asyncpg.Connection[asyncpg.Record]", account_id: str | None = None) -> None:
    """Everything is as the oracle works it out from the log."""
    account_ids = {account_id or usual.account_id}
    await assert_projections_agree(database, await replayed(database, account_ids), account_ids)


async def test_a_lease_holds_all_that_it_is_for(
    ledger: Ledger, shared_database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await set_up(ledger, IMAGES, UNITS, SPEND)
    asked = builders.lease(calls=4, quantity=8, estimated_cost="0.32", ttl_seconds=60)
    lease = await place(ledger, asked)
    assert Lease.model_validate_json(orjson.dumps(lease)).allowed
    assert (lease["calls"], lease["quantity"], lease["estimated_cost"]) == (4, 8, "0.320000000")
    assert await amounts(ledger, "images") == (0, 4)
    assert await amounts(ledger, "units") == (0, 8)
    assert await amounts(ledger, "spend") == ("0.000000000", "0.320000000")
    decided = moment((await ledger.decision(asked["lease_id"]))["decided_at"])
    assert moment(lease["expires_at"]) - decided == timedelta(seconds=60)
    assert moment(lease["reclaimed_at"]) - moment(lease["expires_at"]) == timedelta(days=1)
    await agrees(shared_database)


async def test_the_plan_says_for_how_long_and_what_costs_nothing_named_is_held_at_the_worst_case(
    ledger: Ledger,
) -> None:
    await set_up(ledger, SPEND, ttl_seconds=120)
    price = {"unit": "image", "variants": [{"price": "0.01"}, {"price": "0.02", "when": {"size": "large"}}]}
    price |= {"source": "a list", "valid_from": "2026-01-01T00:00:00Z"}
    put = await ledger.http.put("/v1/prices/local/generate/priced-1", json=price)
    if put.status_code != 200:
        pytest.fail(put.text)
    lease = await place(ledger, builders.lease(calls=3, quantity=6, model="priced-1"))
    assert lease["estimated_cost"] == "0.120000000"
    assert timedelta(seconds=110) < moment(lease["expires_at"]) - datetime.now(UTC) <= timedelta(seconds=120)


async def test_a_lease_is_all_or_nothing(ledger: Ledger) -> None:
    await set_up(ledger)
    assert (await ledger.check(check()))["allowed"]
    lease = await place(ledger, builders.lease(calls=10, quantity=10, estimated_cost="0.1"))
    assert (lease["allowed"], lease["token"], lease["expires_at"], lease["reclaimed_at"]) == (False, None, None, None)
    assert (lease["denial"]["code"], lease["denial"]["limit_id"]) == ("limit_exceeded", "images")
    assert await amounts(ledger) == (0, 1)
    assert (await place(ledger, builders.lease(calls=9, quantity=9, estimated_cost="0.1")))["allowed"]
    assert not (await ledger.check(check()))["allowed"]


async def test_a_plan_without_the_fail_mode_leases_nothing(ledger: Ledger) -> None:
    await ledger.set_up(IMAGES)
    lease = await place(ledger, builders.lease())
    assert (lease["allowed"], lease["token"], lease["denial"]["code"]) == (False, None, "lease_not_allowed")
    assert "lease" not in await ledger.check(check())
    assert await amounts(ledger) == (0, 1)


async def test_the_fail_mode_is_that_of_the_caller(ledger: Ledger) -> None:
    await set_up(ledger, IMAGES, scope="user", scope_ids=["ada"])
    assert (await ledger.check(check()))["lease"] == {"calls": 10, "ttl_seconds": 600}
    assert "lease" not in await ledger.check(check(user_id="bob"))
    assert (await place(ledger, builders.lease()))["allowed"]
    assert (await place(ledger, builders.lease(user_id="bob")))["denial"]["code"] == "lease_not_allowed"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"calls": 11}, "calls"),
        ({"ttl_seconds": 601}, "ttl_seconds"),
        ({"calls": 0}, "calls"),
        ({"calls": -1}, "calls"),
        ({"quantity": 0}, "quantity"),
        ({"quantity": 10**8}, "quantity"),
        ({"estimated_cost": "-1"}, "estimated_cost"),
        ({"ttl_seconds": 10**6}, "ttl_seconds"),
        ({"lease_id": "7"}, "lease_id"),
        ({"attributes": {}}, "attributes"),
    ],
)
async def test_what_goes_beyond_the_rule_is_refused_and_nothing_is_held(
    ledger: Ledger, changes: Body, field: str
) -> None:
    await set_up(ledger)
    answer = await ledger.http.post("/v1/leases", json=builders.lease(**changes))
    assert refused(answer) == (422, "invalid_request", [field])
    assert await amounts(ledger) == (0, 0)


async def test_a_lease_dearer_than_an_operation_may_be_is_not_held_at_less(ledger: Ledger) -> None:
    spend = limit("spend", meter="cost", maximum="10000000")
    plan = {**lease_plan(spend, calls=1000), "unpriced_unit_ceiling": "1001"}
    assert (await ledger.http.put(f"/v1/plans/{usual.plan_id}", json=plan)).status_code == 200
    await ledger.put_account()
    answer = await ledger.http.post("/v1/leases", json=builders.lease(model="new-1", calls=1000, quantity=1000))
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "quantity")
    assert (await ledger.limit("spend"))["held"] == "0.000000000"
    assert (await place(ledger, builders.lease(model="new-1", calls=999, quantity=999)))["allowed"]
    assert (await ledger.limit("spend"))["held"] == "999999.000000000"


async def test_the_same_request_gets_the_same_answer_and_another_is_a_conflict(ledger: Ledger) -> None:
    await set_up(ledger)
    asked = builders.lease(estimated_cost="0.3")
    answers = await asyncio.gather(*(ledger.http.post("/v1/leases", json=asked) for _ in range(5)))
    assert len({answer.content for answer in answers}) == 1
    assert await amounts(ledger) == (0, 3)
    assert refused(await ledger.http.post("/v1/leases", json={**asked, "calls": 2})) == (409, "conflict", [])
    as_check = check(operation_id=asked["lease_id"], quantity=3, estimated_cost="0.3")
    assert refused(await ledger.http.post("/v1/limit-checks", json=as_check)) == (409, "conflict", [])
    assert await amounts(ledger) == (0, 3)


@alone
async def test_all_processes_sign_with_one_key(
    start_ledger: StartLedger, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    first, second = await start_ledger(), await start_ledger()
    await set_up(first)
    asked = builders.lease(calls=1, quantity=1)
    leases = await asyncio.gather(*(place(one, asked) for one in (first, second) * 3))
    assert len({lease["token"] for lease in leases}) == 1
    assert await database.fetchval("select count(*) from signing_keys where purpose = 'leases'") == 1
    assert (await give_back(second, asked["lease_id"], leases[0]["token"])).status_code == 200


async def test_the_unused_rest_is_given_back_once(
    ledger: Ledger, shared_database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await set_up(ledger)
    lease = await place(ledger, builders.lease(calls=5, quantity=5, estimated_cost="0.5"))
    await ledger.send(under(lease, cost="0.04"))
    assert await amounts(ledger) == (1, 4)
    answer = await give_back(ledger, lease["lease_id"], lease["token"])
    lease_of = {"lease_id": lease["lease_id"], "account_id": usual.account_id}
    left = {"calls": 4, "quantity": 4, "estimated_cost": "0.460000000"}
    assert (answer.status_code, answer.json()) == (200, {**lease_of, **left})
    assert await amounts(ledger) == (1, 0)
    assert refused(await give_back(ledger, lease["lease_id"], lease["token"])) == (409, "lease_closed", [])
    assert await amounts(ledger) == (1, 0)
    await agrees(shared_database)


@alone
async def test_of_many_returns_at_once_one_is_taken(
    start_ledger: StartLedger, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    ledgers = [await start_ledger(), await start_ledger()]
    await set_up(ledgers[0])
    lease = await place(ledgers[0], builders.lease())
    answers = await asyncio.gather(*(give_back(one, lease["lease_id"], lease["token"]) for one in ledgers * 5))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 9
    assert await amounts(ledgers[0]) == (0, 0)
    await agrees(database)


def tampered(token: str, **changes: Any) -> str:
    payload, _, signature = token.partition(".")
    fields = json.loads(urlsafe_b64decode(payload + "=="))
    changed = urlsafe_b64encode(json.dumps({**fields, **changes}).encode()).decode().rstrip("=")
    return f"{changed}.{signature}"


async def test_only_the_token_of_the_lease_ends_it(ledger: Ledger) -> None:
    await set_up(ledger)
    other = f"{usual.account_id}-2"
    await ledger.put_account(other)
    lease = await place(ledger, builders.lease())
    others = [
        await place(ledger, builders.lease(calls=1, quantity=1)),
        await place(ledger, builders.lease(account_id=other)),
    ]
    payload, _, signature = lease["token"].partition(".")
    flipped = signature[:-2] + ("A" if signature[-2] != "A" else "B") + signature[-1]
    wrong = [
        "",
        ".",
        "ü.ü",
        payload,
        f"{payload}.",
        f"{payload}.{flipped}",
        f".{signature}",
        tampered(lease["token"], calls=1),
        tampered(others[1]["token"], lease_id=lease["lease_id"], account_id=usual.account_id),
        *(one["token"] for one in others),
    ]
    for token in wrong:
        assert refused(await give_back(ledger, lease["lease_id"], token)) == (403, "lease_invalid", []), token
    assert refused(await give_back(ledger, new_id(), lease["token"])) == (403, "lease_invalid", [])
    assert refused(await ledger.release(lease["lease_id"])) == (404, "not_found", [])
    assert refused(await ledger.extend(lease["lease_id"], ttl_seconds=1)) == (404, "not_found", [])
    assert await amounts(ledger) == (0, 4)
    assert (await give_back(ledger, lease["lease_id"], lease["token"])).status_code == 200


async def test_another_ledgers_token_is_forged(
    ledger: Ledger, shared_database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """The same payload, signed with another key."""
    from ledger_service.lease_tokens import sign, verify

    await set_up(ledger)
    lease = await place(ledger, builders.lease())
    key = await shared_database.fetchval("select secret from signing_keys where purpose = 'leases'")
    token = verify(lease["token"], key)
    assert token is not None
    assert sign(token, key) == lease["token"]
    forged = sign(token, b"\0" * 32)
    assert refused(await give_back(ledger, lease["lease_id"], forged)) == (403, "lease_invalid", [])


async def test_both_calls_over_nats(ledger: Ledger, nats_client: Nats) -> None:
    await set_up(ledger)
    asked = builders.lease()
    over_nats = await nats_client.request(LEASES_PLACE, json.dumps(asked).encode(), timeout=10)
    assert over_nats.data == (await ledger.http.post("/v1/leases", json=asked)).content
    body = json.dumps({"token": json.loads(over_nats.data)["token"]}).encode()
    first, second = [await nats_client.request(LEASES_RETURN, body, timeout=10) for _ in range(2)]
    assert json.loads(first.data)["calls"] == 3
    assert (second.headers or {})["Nats-Service-Error-Code"] == "409"
    assert await amounts(ledger) == (0, 0)


class TestOutcomes:
    async def test_each_takes_its_share_out_of_the_hold(
        self, ledger: Ledger, shared_database: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        await set_up(ledger, IMAGES, UNITS, SPEND)
        lease = await place(ledger, builders.lease(calls=4, quantity=8, estimated_cost="0.4"))
        dear, cheap = under(lease, cost="0.15", quantity=3), under(lease, cost="0.01")
        nothing = {**failed(check(), quantity=2), "leaseid": lease["lease_id"]}
        await ledger.send(dear, cheap, nothing)
        assert await amounts(ledger, "images") == (2, 1)
        assert await amounts(ledger, "units") == (4, 2)
        assert await amounts(ledger, "spend") == ("0.160000000", "0.240000000")
        await ledger.send(dear, nothing)
        assert await amounts(ledger, "images") == (2, 1)
        await agrees(shared_database)

    async def test_more_than_was_leased_counts_in_full_and_never_holds_less_than_nothing(
        self, ledger: Ledger, shared_database: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        await set_up(ledger, IMAGES, UNITS, SPEND)
        lease = await place(ledger, builders.lease(calls=2, quantity=2, estimated_cost="0.02"))
        await ledger.send(*(under(lease, cost="0.04") for _ in range(3)))
        assert await amounts(ledger, "images") == (3, 0)
        assert await amounts(ledger, "spend") == ("0.120000000", "0.000000000")
        await agrees(shared_database)
        assert (await give_back(ledger, lease["lease_id"], lease["token"])).json()["calls"] == 0
        assert await amounts(ledger, "images") == (3, 0)
        await agrees(shared_database)

    async def test_after_the_return_they_simply_count(
        self, ledger: Ledger, shared_database: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        await set_up(ledger)
        lease = await place(ledger, builders.lease())
        await ledger.send(under(lease))
        assert (await give_back(ledger, lease["lease_id"], lease["token"])).status_code == 200
        await ledger.send(under(lease), under(lease))
        assert await amounts(ledger) == (3, 0)
        await agrees(shared_database)

    @alone
    async def test_what_is_not_returned_is_reclaimed_after_the_grace_and_not_before(
        self, start_ledger: StartLedger, database: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        ledger = await start_ledger(lease_grace_seconds=2)
        await set_up(ledger)
        lease = await place(ledger, builders.lease(ttl_seconds=1))
        await ledger.send(under(lease))
        await asyncio.sleep(max(0.0, (moment(lease["expires_at"]) - datetime.now(UTC)).total_seconds()) + 0.3)
        assert await amounts(ledger) == (1, 2)

        async def reclaimed() -> bool:
            return await amounts(ledger) == (1, 0)

        await eventually(reclaimed, "the lease is reclaimed")
        assert datetime.now(UTC) >= moment(lease["reclaimed_at"])
        assert refused(await give_back(ledger, lease["lease_id"], lease["token"])) == (409, "lease_closed", [])
        await ledger.send(under(lease))
        assert await amounts(ledger) == (2, 0)
        await agrees(database)

    async def test_a_check_whose_answer_was_lost_is_held_as_well_and_settled_once(
        self, ledger: Ledger, shared_database: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        await set_up(ledger)
        lease = await place(ledger, builders.lease())
        asked = check()
        assert (await ledger.check(asked))["allowed"]
        assert await amounts(ledger) == (0, 4)
        await ledger.send({**completed(asked), "leaseid": lease["lease_id"]})
        assert await amounts(ledger) == (1, 2)
        await agrees(shared_database)

    @pytest.mark.parametrize(
        "other",
        [{"user_id": "bob"}, {"operation": "edit"}, {"model": "m"}, {"provider": "far"}, {"project_id": "p"}],
    )
    async def test_a_lease_for_something_else_gives_nothing(
        self, ledger: Ledger, shared_database: "asyncpg.Connection[asyncpg.Record]", other: Body
    ) -> None:
        await set_up(ledger)
        lease = await place(ledger, builders.lease())
        await ledger.send({**completed(check(**other)), "leaseid": lease["lease_id"]})
        assert await amounts(ledger) == (1, 3)
        await agrees(shared_database)

    async def test_neither_another_accounts_lease_nor_a_plain_hold_nor_a_denied_one_is_a_lease(
        self, ledger: Ledger, shared_database: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        await set_up(ledger)
        other = f"{usual.account_id}-2"
        await ledger.put_account(other)
        foreign = await place(ledger, builders.lease(account_id=other))
        hold = check()
        assert (await ledger.check(hold))["allowed"]
        denied = await place(ledger, builders.lease(calls=10, quantity=10))
        assert not denied["allowed"]
        named = [foreign["lease_id"], hold["operation_id"], denied["lease_id"], new_id()]
        await ledger.send(*({**completed(check()), "leaseid": lease_id} for lease_id in named))
        assert await amounts(ledger) == (4, 1)
        await agrees(shared_database)
        await agrees(shared_database, other)

    async def test_an_operation_that_calls_itself_as_a_lease_does_not_end_it(
        self, ledger: Ledger, shared_database: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        await set_up(ledger)
        lease = await place(ledger, builders.lease())
        await ledger.send(completed(check(operation_id=lease["lease_id"])))
        assert await amounts(ledger) == (1, 3)

    async def test_they_count_in_the_window_in_which_the_lease_was_placed(
        self, ledger: Ledger, shared_database: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        await set_up(ledger, IMAGES, limit("hourly", window="hour", maximum=5))
        lease = await place(ledger, builders.lease())
        # As if it had been placed two hours ago, and the answer to its operation's own check been lost just now.
        await shared_database.execute(
            "update decisions set decided_at = decided_at - interval '2 hours' where account_id = $1", usual.account_id
        )
        await shared_database.execute(
            "update counters set period_start = period_start - interval '2 hours', "
            "period_end = period_end - interval '2 hours' where account_id = $1 and counter_id like '%hour%'",
            usual.account_id,
        )
        asked = check()
        assert (await ledger.check(asked))["allowed"]
        await ledger.release(asked["operation_id"])
        await ledger.send({**completed(asked), "leaseid": lease["lease_id"]}, under(lease))
        assert await amounts(ledger, "hourly") == (0, 0)
        rows = await shared_database.fetch(
            "select settled, held from counters where account_id = $1 and counter_id like '%hour%' order by period_end",
            usual.account_id,
        )
        assert [tuple(row) for row in rows] == [(2, 1), (0, 0)]
