"""Holds that are moved to another provider: what is held then, what is answered, and what is as it was."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from ledger_service.moves import MOVES_MAX
from ledger_service.store.moments import SETTLING
from ledger_service.store.pool import Pool
from ledger_service.workers.expiry import expire_portion
from tests import builders
from tests.builders import Body, completed, failed, limit, moved_to, usual
from tests.rebuilds import assert_agrees_with_the_log
from tests.servers import Ledger

pytestmark = pytest.mark.asyncio(loop_scope="module")

Database = asyncpg.Connection
FIRST, OTHER = {"provider": ["local"]}, {"provider": ["other"]}


@pytest.fixture
def ledger(lent_ledger: Ledger) -> Ledger:
    return lent_ledger


@pytest.fixture(autouse=True)
async def agrees_with_the_log(own_names: Any, shared_database_url: str) -> Any:
    """Whatever a test does, its account is what the log says."""
    yield
    await assert_agrees_with_the_log(shared_database_url, own_names.account_id, but=("expires_at",))


async def held(ledger: Ledger, *limit_ids: str) -> list[int | str]:
    states = {one["limit_id"]: one for one in (await ledger.usage())["limits"]}
    return [states[limit_id]["held"] for limit_id in limit_ids]


async def placed(ledger: Ledger, **fields: Any) -> Body:
    """The decision on a check that is allowed."""
    decision = await ledger.check(builders.check(**fields))
    assert decision["allowed"], decision
    return decision


async def everything_of_the_account(database: "Database[asyncpg.Record]") -> list[str]:
    tables = ("decisions", "counters", "event_log", "limit_alerts", "usage_log")
    union = " union all ".join(
        f"select '{table}' || to_json(t)::text as row from {table} t where account_id = $1" for table in tables
    )
    return sorted(row["row"] for row in await database.fetch(union, usual.account_id))


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


# --- what is held


async def test_an_allowed_move_gives_the_old_share_back_and_holds_the_new_one(ledger: Ledger) -> None:
    await ledger.set_up(
        limit("first", selector=FIRST), limit("other", selector=OTHER), limit("all", meter="units", maximum=100),
        limit("spend", meter="cost", maximum="1"),
    )  # fmt: skip
    decision = await placed(ledger, quantity=3, estimated_cost="0.3")
    moved = await ledger.move(decision, quantity=5, estimated_cost="0.7", ttl_seconds=60)
    assert (moved["allowed"], moved["estimated_cost"]) == (True, "0.700000000")
    assert {one["limit_id"]: one["held"] for one in moved["limits"]} == {"other": 1, "all": 5, "spend": "0.700000000"}
    assert await held(ledger, "first", "other", "all", "spend") == [0, 1, 5, "0.700000000"]
    decided_at = datetime.fromisoformat(moved["decided_at"])
    assert decided_at > datetime.fromisoformat(decision["decided_at"])
    assert datetime.fromisoformat(moved["reservation"]["expires_at"]) == decided_at + timedelta(seconds=60)


async def test_what_the_operation_holds_already_does_not_count_against_its_move(ledger: Ledger) -> None:
    await ledger.set_up(limit("one", maximum=1), limit("spend", meter="cost", maximum="0.5"))
    decision = await placed(ledger, estimated_cost="0.4")
    moved = await ledger.move(decision, estimated_cost="0.5")
    assert [(one["held"], one["available"]) for one in moved["limits"]] == [(1, 0), ("0.500000000", "0.000000000")]
    assert not (await ledger.check(builders.check()))["allowed"]


@pytest.mark.parametrize(
    ("tight", "to"),
    [
        (limit("tight", maximum=0, selector=OTHER), {}),
        (limit("tight", meter="cost", maximum="0.5"), {"estimated_cost": "0.500000001"}),
        (limit("tight", meter="units", maximum=2), {"quantity": 3}),
        (limit("tight", meter="cost", maximum="0.5", selector=OTHER), {}),  # nobody knows its price
        (limit("tight", scope="user", window="minute", maximum=0, selector=OTHER, thresholds=[50]), {}),
    ],
)
async def test_a_denied_move_leaves_everything_as_it_was(
    ledger: Ledger, shared_database: "Database[asyncpg.Record]", tight: Body, to: Body
) -> None:
    await ledger.set_up(tight, limit("all", thresholds=[1]), limit("new", window="hour", selector=OTHER))
    decision = await placed(ledger, estimated_cost="0.3", quantity=2)
    await ledger.extend(decision["operation_id"], ttl_seconds=600)
    before = await everything_of_the_account(shared_database)
    moved = await ledger.move(decision, **to)
    assert (moved["allowed"], moved["denial"]["limit_id"], moved["reservation"]) == (False, "tight", None)
    assert await everything_of_the_account(shared_database) == before
    assert told(await ledger.ask_move(decision, quantity=0)) == (422, "invalid_request")
    assert await everything_of_the_account(shared_database) == before


async def test_a_dearer_provider_never_passes_a_limit_on_cost(ledger: Ledger) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1"))
    decisions = [await placed(ledger, estimated_cost="0.1") for _ in range(6)]
    moves = await asyncio.gather(*(ledger.move(one, estimated_cost="0.25") for one in decisions))
    assert [one["allowed"] for one in moves].count(True) == 2
    assert await held(ledger, "spend") == ["0.900000000"]


async def test_what_was_billed_by_then_is_held_on_top(ledger: Ledger) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1"))
    decision = await placed(ledger, estimated_cost="0.5")
    denied = await ledger.move(decision, estimated_cost="0.8", billed="0.200000001")
    assert denied["denial"]["message"].endswith("1.000000001 asked")
    moved = await ledger.move(decision, estimated_cost="0.8", billed="0.2")
    assert (moved["allowed"], moved["estimated_cost"]) == (True, "1.000000000")
    assert told(await ledger.ask_move(moved, estimated_cost="999999", billed="2")) == (422, "invalid_request")


async def test_the_catalogue_says_what_a_move_without_an_estimate_is_held_at(ledger: Ledger) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1"))
    provider = f"priced-{usual.account_id}"
    variants = [{"when": {"size": "large"}, "price": "0.3"}, {"when": {"size": "small"}, "price": "0.1"}]
    price = {"unit": "image", "valid_from": "2026-01-01T00:00:00Z", "variants": variants}
    answer = await ledger.http.put(f"/v1/prices/{provider}/generate/render-2", json=price)
    assert answer.status_code == 200, answer.text
    decision = await placed(ledger, estimated_cost="0.5")
    to = {"provider": provider, "quantity": 2, "attributes": {"size": "small"}}
    moved = await ledger.move(decision, **to, billed="0.05")
    assert (moved["estimated_cost"], moved["price"]["unit_price"]) == ("0.250000000", "0.100000000")


async def test_a_counter_that_is_made_by_a_move_has_the_new_share_and_not_the_old_one(ledger: Ledger) -> None:
    await ledger.set_up()
    decision = await placed(ledger, quantity=2)
    await placed(ledger)
    await ledger.put_plan(limit("both"), limit("units", meter="units"), limit("first", selector=FIRST))
    moved = await ledger.move(decision, quantity=7)
    assert [one["held"] for one in moved["limits"]] == [2, 8]
    assert await held(ledger, "both", "units", "first") == [2, 8, 1]


async def test_credit_is_held_once(ledger: Ledger) -> None:
    await ledger.set_up(limit("credit", window="lifetime", maximum=0, credit=True, meter="units"))
    grant = {"limit_id": "credit", "amount": 5, "valid_from": "2026-01-01T00:00:00Z"}
    await ledger.http.put(f"/v1/accounts/{usual.account_id}/credit-grants/gift", json=grant)
    decision = await placed(ledger, quantity=3)
    assert (await ledger.move(decision, quantity=6))["denial"]["limit_id"] == "credit"
    await ledger.http.put(f"/v1/accounts/{usual.account_id}/credit-grants/more", json={**grant, "amount": 1})
    moved = await ledger.move(decision, quantity=6)
    assert [(one["held"], one["available"]) for one in moved["limits"]] == [(6, 0)]


async def test_a_move_raises_the_alerts_of_what_it_reaches(ledger: Ledger) -> None:
    await ledger.set_up(limit("other", maximum=2, selector=OTHER, thresholds=[50, 100]), limit("all", thresholds=[4]))
    decisions = [await placed(ledger) for _ in range(2)]
    for decision in decisions:
        await ledger.move(decision)
    answer = await ledger.http.get(f"/v1/accounts/{usual.account_id}/alerts")
    raised = [(one["limit_id"], one["threshold_percent"]) for one in answer.json()["alerts"]]
    assert sorted(raised) == [("all", 4), ("other", 50), ("other", 100)]


async def test_a_hold_may_be_moved_again_and_back(ledger: Ledger) -> None:
    await ledger.set_up(*(limit(name, maximum=1, selector={"provider": [name]}) for name in ("local", "b", "c")))
    decision = await placed(ledger)
    for provider in ("b", "c", "local", "local", "c"):
        decision = await ledger.move(decision, provider=provider)
        assert decision["allowed"]
        assert await held(ledger, "local", "b", "c") == [int(provider == name) for name in ("local", "b", "c")]


async def test_moves_of_one_hold_have_an_end(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    decision = await placed(ledger)
    for _ in range(MOVES_MAX):
        decision = await ledger.move(decision)
    assert told(await ledger.ask_move(decision)) == (409, "reservation_closed")
    assert await held(ledger, "images") == [1]


# --- asking again


async def test_the_same_move_again_gets_the_same_bytes(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    decision = await placed(ledger)
    to = {"estimated_cost": "0.1", "billed": "0.01"}
    answers = await asyncio.gather(*(ledger.ask_move(decision, **to) for _ in range(10)))
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].json()["allowed"]
    assert await held(ledger, "images") == [1]
    for other in ({"estimated_cost": "0.2"}, {"model": "b"}, {"billed": "0.02"}, {"ttl_seconds": 9}, {"billed": "0"}):
        assert told(await ledger.ask_move(decision, **{**to, **other})) == (409, "conflict")


async def test_a_move_that_was_long_on_its_way_moves_nothing_any_more(ledger: Ledger) -> None:
    await ledger.set_up(limit("b", selector={"provider": ["b"]}), limit("c", selector={"provider": ["c"]}))
    decision = await placed(ledger)
    moved = await ledger.move(decision, provider="b")
    await ledger.move(moved, provider="c")
    for provider in ("b", "c"):
        assert told(await ledger.ask_move(decision, provider=provider)) == (409, "conflict")
    assert await held(ledger, "b", "c") == [0, 1]


async def test_the_check_that_was_moved_is_not_repeated(ledger: Ledger) -> None:
    """Its answer would let the caller go ahead with a provider for which nothing is held."""
    await ledger.set_up(limit())
    asked = builders.check()
    decision = await ledger.check(asked)
    moved = await ledger.move(decision)
    assert told(await ledger.http.post("/v1/limit-checks", json=asked)) == (409, "conflict")
    # What is held is answered to whoever checks that.
    assert await ledger.check({**asked, **moved_to()}) == moved
    assert await held(ledger, "images") == [1]


async def test_who_acts_and_what_is_done_stays(ledger: Ledger) -> None:
    await ledger.set_up(limit("eve", scope="user", maximum=1), limit("key", scope="api_key", maximum=1))
    decision = await placed(ledger, user_id="eve", project_id="p", api_key_id="k", operation="edit")
    moved = await ledger.move(decision)
    check = (await ledger.decision(moved["operation_id"]))["check"]
    assert [check[name] for name in ("user_id", "project_id", "api_key_id", "operation")] == ["eve", "p", "k", "edit"]
    for field in ("user_id", "operation", "dry_run"):
        assert told(await ledger.ask_move(moved, **{field: "x"})) == (422, "invalid_request")


# --- what is no open hold


async def test_only_an_open_hold_is_moved(
    ledger: Ledger, shared_database: "Database[asyncpg.Record]", shared_database_url: str
) -> None:
    await ledger.set_up(limit(maximum=3))
    asked = [builders.check() for _ in range(4)]
    settled, released, expired, denied = [await ledger.check(one) for one in asked]
    await ledger.send(completed(asked[0]))
    await ledger.release(released["operation_id"])
    await _expire(shared_database, shared_database_url, expired)
    before = await everything_of_the_account(shared_database)
    for closed in (settled, released, expired):
        assert told(await ledger.ask_move(closed)) == (409, "reservation_closed")
    for nothing in (denied, {**denied, "operation_id": builders.new_id()}):
        assert told(await ledger.ask_move(nothing)) == (404, "not_found")
    assert await everything_of_the_account(shared_database) == before


async def test_a_repeat_of_a_move_whose_hold_is_over_is_refused(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    decision = await placed(ledger)
    await ledger.move(decision)
    await ledger.release(decision["operation_id"])
    assert told(await ledger.ask_move(decision)) == (409, "reservation_closed")


async def test_a_hold_of_another_account_and_a_lease_are_not_found(ledger: Ledger) -> None:
    await ledger.http.put(f"/v1/plans/{usual.plan_id}", json=builders.lease_plan(limit()))
    await ledger.put_account()
    decision = await placed(ledger)
    assert told(await ledger.ask_move(decision, account_id="somebody-else")) == (404, "not_found")
    assert (await ledger.move(decision, account_id=usual.account_id))["allowed"]
    asked = builders.lease()
    assert (await ledger.http.post("/v1/leases", json=asked)).json()["allowed"]
    lease = await ledger.decision(asked["lease_id"])
    assert told(await ledger.ask_move(lease)) == (404, "not_found")


# --- how it ends


async def _expire(database: "Database[asyncpg.Record]", url: str, decision: Body) -> None:
    await database.execute(
        "update decisions set expires_at = now() - interval '1 second' where operation_id = $1",
        decision["operation_id"],
    )
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
        await expire_portion(pool)


@pytest.mark.parametrize("end", ["completed", "failed", "release", "expire"])
async def test_what_ends_after_a_move_gives_back_what_is_held(
    ledger: Ledger, shared_database: "Database[asyncpg.Record]", shared_database_url: str, end: str
) -> None:
    limits = (limit("first", selector=FIRST), limit("other", selector=OTHER), limit("spend", meter="cost", maximum="9"))
    await ledger.set_up(*limits, limit("units", meter="units"))
    asked = builders.check(quantity=2, estimated_cost="0.1")
    moved = await ledger.move(await ledger.check(asked), quantity=5, estimated_cost="0.7")
    did = {"actual_provider": "other", "provider": "other", "model": "render-2", "quantity": 4, "cost": "0.6"}
    match end:
        case "completed":
            await ledger.send(completed(asked, **did))
        case "failed":
            await ledger.send(failed(asked, **{**did, "cost": "0"}))
        case "release":
            await ledger.release(asked["operation_id"])
        case "expire":
            await _expire(shared_database, shared_database_url, moved)
    states = {one["limit_id"]: (one["settled"], one["held"]) for one in (await ledger.usage())["limits"]}
    done = end == "completed"
    assert states == {
        "first": (0, 0),
        "other": (int(done), 0),
        "spend": ("0.600000000" if done else "0.000000000", "0.000000000"),
        "units": (4 * done, 0),
    }
    if done:
        [row] = (await ledger.usage_log())["items"]
        assert datetime.fromisoformat(row["counted_at"]) == datetime.fromisoformat(moved["decided_at"])
        assert (row["requested_provider"], row["provider"]) == ("other", "other")


async def test_an_outcome_of_the_first_provider_settles_what_is_held(ledger: Ledger) -> None:
    """Whatever the caller says that it did after the move."""
    await ledger.set_up(limit("first", selector=FIRST), limit("other", selector=OTHER))
    asked = builders.check()
    await ledger.move(await ledger.check(asked))
    await ledger.send(completed(asked))
    assert await held(ledger, "first", "other") == [0, 0]
    assert (await ledger.limit("first"))["settled"] == 1


async def test_a_hold_is_extended_after_its_move_as_before(
    ledger: Ledger, shared_database_url: str, own_names: Any
) -> None:
    await ledger.set_up(limit())
    decision = await placed(ledger, ttl_seconds=60)
    assert (await ledger.extend(decision["operation_id"], ttl_seconds=9000)).status_code == 200
    moved = await ledger.move(decision, ttl_seconds=120)
    # The end of before the move is none of what is held now.
    await assert_agrees_with_the_log(shared_database_url, own_names.account_id)
    answer = await ledger.extend(decision["operation_id"], ttl_seconds=600)
    later = datetime.fromisoformat(answer.json()["expires_at"])
    assert later > datetime.fromisoformat(moved["reservation"]["expires_at"])
    await assert_agrees_with_the_log(shared_database_url, own_names.account_id)


# --- what is told of it


async def test_a_decision_tells_what_its_hold_was_moved_from(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    decision = await placed(ledger, quantity=2, estimated_cost="0.1")
    assert (await ledger.decision(decision["operation_id"]))["moved_from"] == []
    first = await ledger.decision(decision["operation_id"])
    second = await ledger.move(decision, provider="b", estimated_cost="0.2")
    moved = await ledger.move(second, provider="c")
    found = await ledger.decision(moved["operation_id"])
    assert (found["check"]["provider"], found["decided_at"]) == ("c", moved["decided_at"])
    assert [(one["provider"], one["quantity"], one["estimated_cost"]) for one in found["moved_from"]] == [
        ("local", 2, "0.100000000"), ("b", 1, "0.200000000"),
    ]  # fmt: skip
    assert found["moved_from"][0]["event_id"] == first["event_id"]
    moments = [datetime.fromisoformat(one["decided_at"]) for one in found["moved_from"]]
    assert moments == [datetime.fromisoformat(one["decided_at"]) for one in (decision, second)]


async def test_an_entry_of_the_usage_log_has_the_events_of_all_its_holds(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    asked = builders.check()
    await ledger.move(await ledger.check(asked))
    await ledger.send(completed(asked))
    answer = await ledger.http.get(f"/v1/usage-log/{asked['operation_id']}")
    assert [one["type"] for one in answer.json()["events"]] == [
        "ledger.reservation.placed.v1", "ledger.reservation.moved.v1", "usage.operation.completed.v1",
    ]  # fmt: skip


async def test_open_holds_of_an_explanation_are_what_was_held_then(ledger: Ledger) -> None:
    await ledger.set_up(
        limit("units", meter="units", maximum=100), limit("other", maximum=0, selector={"model": ["x"]})
    )
    decision = await placed(ledger, quantity=2)
    before = await placed(ledger)
    moved = await ledger.move(decision, quantity=5)
    after = await placed(ledger)
    await ledger.send(completed(builders.check(operation_id=before["operation_id"])))
    expected = {before["operation_id"]: [2], moved["operation_id"]: [1], after["operation_id"]: [1, 5]}
    for operation_id, amounts in expected.items():
        holds = (await ledger.decision(operation_id))["binding_limit"]["open_holds"]
        assert (holds["is_complete"], [one["amount"] for one in holds["items"]]) == (True, amounts)


async def test_of_a_moment_before_a_move_what_was_held_then_is_told(ledger: Ledger) -> None:
    await ledger.set_up(limit("first", selector=FIRST), limit("other", selector=OTHER), limit("units", meter="units"))
    urls = [f"/v1/accounts/{usual.account_id}/usage", f"/v1/accounts/{usual.account_id}/holds"]
    decision = await placed(ledger, quantity=2, estimated_cost="0.1")
    urls.append(f"/v1/decisions/{decision['operation_id']}")
    said: list[tuple[datetime, list[bytes]]] = []

    async def witness() -> None:
        answers = [(await ledger.http.get(url)).content for url in urls]
        said.append((datetime.now(UTC), answers))

    await witness()
    await ledger.extend(decision["operation_id"], ttl_seconds=900)
    await witness()
    moved = await ledger.move(decision, quantity=3)
    await witness()
    await ledger.extend(decision["operation_id"], ttl_seconds=1000)
    await ledger.move(moved, provider="third", quantity=4)
    await witness()
    await ledger.release(decision["operation_id"])
    await witness()
    await asyncio.sleep(SETTLING.total_seconds() + 0.05)
    for moment, answers in said:
        for url, answer in zip(urls, answers, strict=True):
            again = await ledger.http.get(url, params={"as_of": moment.isoformat()})
            assert again.content == answer, (url, said.index((moment, answers)))
    assert len({tuple(answers) for _, answers in said}) == len(said)


async def test_a_move_that_died_before_its_commit_has_not_happened(
    ledger: Ledger, shared_database: "Database[asyncpg.Record]", shared_database_url: str
) -> None:
    await ledger.set_up(limit("other", selector=OTHER))
    decision = await placed(ledger)
    before = await everything_of_the_account(shared_database)
    blocker = await asyncpg.connect(shared_database_url)
    async with blocker.transaction():
        # Its last statement has to wait, and it dies there.
        await blocker.execute("lock table limit_alerts, counters in access exclusive mode")
        moving = asyncio.create_task(ledger.ask_move(decision))
        await asyncio.sleep(0.3)
        await blocker.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where wait_event_type = 'Lock' and datname = current_database() and pid <> pg_backend_pid()"
        )
        answer = await moving
    await blocker.close()
    assert told(answer) == (503, "store_unavailable")
    assert await everything_of_the_account(shared_database) == before
    assert (await ledger.move(decision))["allowed"]


async def test_expiry_and_a_move_at_once_leave_one_of_them(
    ledger: Ledger, shared_database: "Database[asyncpg.Record]", shared_database_url: str
) -> None:
    await ledger.set_up(limit("first", selector=FIRST), limit("other", selector=OTHER))
    async with asyncpg.create_pool(shared_database_url, min_size=1, max_size=1) as pool:
        for _ in range(10):
            await _move_and_expire(ledger, pool, shared_database)


async def _move_and_expire(ledger: Ledger, pool: Pool, database: "Database[asyncpg.Record]") -> None:
    decision = await placed(ledger)
    await database.execute(
        "update decisions set expires_at = now() - interval '1 second' where operation_id = $1",
        decision["operation_id"],
    )
    answer, _ = await asyncio.gather(ledger.ask_move(decision), expire_portion(pool))
    assert answer.status_code in (200, 409)
    assert await held(ledger, "first", "other") == [0, int(answer.status_code == 200)]
    await ledger.release(decision["operation_id"])
    assert await held(ledger, "first", "other") == [0, 0]
