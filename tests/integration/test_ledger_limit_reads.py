"""Reads about limits: how they stand, which are nearest to being reached, what is held, what was denied and why."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from ledger_service.nearest_limits import Nearest
from ledger_service.store.pool import open_pool
from ledger_service.store.terms import TermsCache
from tests.builders import ACCOUNT, PLAN, Body, account, check, completed, limit
from tests.rebuilds import differences
from tests.servers import Ledger, as_service

STANDING = f"/v1/accounts/{ACCOUNT}/limits:standing"


async def get(ledger: Ledger, path: str, **query: Any) -> Body:
    response = await ledger.http.get(path, params=query)
    assert response.status_code == 200, response.text
    body: Body = response.json()
    return body


async def put(ledger: Ledger, path: str, body: Body) -> None:
    response = await ledger.http.put(path, json=body)
    assert response.is_success, response.text


async def use(ledger: Ledger, **fields: Any) -> Body:
    """One operation, admitted and finished."""
    asked = check(**fields)
    assert (await ledger.check(asked))["allowed"]
    await ledger.send(completed(asked))
    return asked


async def test_callers_stand_by_their_own_override_else_by_the_plan(ledger: Ledger) -> None:
    await ledger.set_up(limit("each", scope="user", maximum=10), limit("key", scope="api_key", maximum=4))
    await put(ledger, f"/v1/accounts/{ACCOUNT}/limits/each", {"maximum": 2, "scope": "user", "scope_id": "grace"})
    for user, times in (("ada", 3), ("grace", 2), ("linus", 1)):
        for _ in range(times):
            await use(ledger, user_id=user, api_key_id="web" if user == "ada" else None)
    found = await get(ledger, STANDING)
    assert found["limits"] == []
    stands = [(one["scope_id"], one["limit_id"], one["settled"], one["maximum"]) for one in found["callers"]]
    assert stands == [("grace", "each", 2, 2), ("web", "key", 3, 4), ("ada", "each", 3, 10), ("linus", "each", 1, 10)]
    assert [one["override"] is not None for one in found["callers"]] == [True, False, False, False]
    assert found["callers"][0]["forecast"]["outlook"] == "reached"
    # Counters tell the present alone.
    refused = await ledger.http.get(STANDING, params={"as_of": datetime.now(UTC).isoformat()})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "query.as_of")


async def test_the_pace_is_of_the_period_so_far_and_of_the_last_day(ledger: Ledger) -> None:
    now = datetime.now(UTC)
    await ledger.set_up(limit("month", maximum=1000), limit("ever", maximum=1000, window="lifetime"))
    await ledger.send(*(completed(time=now - timedelta(hours=hours)) for hours in (1, 2, 3, 30)))
    by_id = {one["limit_id"]: one for one in (await get(ledger, STANDING))["limits"]}
    ever = by_id["ever"]
    assert (ever["settled"], ever["period_end"], ever["forecast"]) == (4, None, None)
    # Three in a day and what is left of the hour in which it began.
    since = datetime.fromisoformat(ever["recent"]["since"])
    at = datetime.fromisoformat(ever["recent"]["at"])
    expected = now + (now - since) * 996 / 3
    assert abs(at - expected) < timedelta(days=1)
    assert timedelta(hours=24) <= now - since < timedelta(hours=25, seconds=5)
    assert by_id["month"]["forecast"]["since"] == by_id["month"]["period_start"]


async def test_the_nearest_are_those_that_standings_say(ledger: Ledger, database_url: str) -> None:
    """Whether an account has its plan alone, an override or credit: the same figures as its own page has."""
    await ledger.put_plan(limit(maximum=10), limit("credit", meter="cost", window="lifetime", maximum="0", credit=True))
    await ledger.put_plan(
        limit(maximum=10), limit("none", maximum=0, selector={"operation": ["edit"]}), plan_id="other"
    )
    accounts = {"plain": 9, "berlin": 4, "more": 6, "rich": 3, "idle": 0}
    for account_id, calls in accounts.items():
        fields = {"time_zone": "Europe/Berlin", "plan_id": "other"} if account_id != "rich" else {"plan_id": PLAN}
        await put(ledger, f"/v1/accounts/{account_id}", account(**fields))
        if account_id == "more":
            await put(ledger, "/v1/accounts/more/limits/images", {"maximum": 6})
        if account_id == "rich":
            gift = {"limit_id": "credit", "amount": "1", "valid_from": "2026-01-01T00:00:00Z"}
            await put(ledger, "/v1/accounts/rich/credit-grants/gift", gift)
        for _ in range(calls):
            await use(ledger, account_id=account_id, estimated_cost="0.20")
    nearest = (await get(ledger, "/v1/limits:nearest", limit=100))["items"]
    assert [(one["account_id"], one["limit_id"], one["share"]) for one in nearest] == [
        ("more", "images", 1.0),
        ("plain", "images", 0.9),
        ("rich", "credit", 0.6),
        ("berlin", "images", 0.4),
        ("rich", "images", 0.3),
    ]
    for one in nearest:
        limits = (await get(ledger, f"/v1/accounts/{one['account_id']}/limits:standing"))["limits"]
        [own] = [known for known in limits if known["limit_id"] == one["limit_id"]]
        assert {name: own[name] for name in one if name in own} == {name: one[name] for name in one if name in own}
    # Remembered for a while; whoever comes together looks once.
    await use(ledger, account_id="idle")
    assert (await get(ledger, "/v1/limits:nearest", limit=100))["items"] == nearest
    pool = await open_pool(as_service(database_url), 2)
    try:
        fresh = Nearest(pool, TermsCache(is_exact=True), None)
        looks = await asyncio.gather(*(fresh.read() for _ in range(5)))
        assert {id(look) for look in looks} == {id(looks[0])}
        assert "idle" in {one.account_id for one in looks[0].items}
    finally:
        await pool.close()


async def test_open_holds_are_listed_a_page_at_a_time(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    asked = [check() for _ in range(5)]
    for one in asked:
        await ledger.check(one)
    await ledger.send(completed(asked[1]))
    path, seen, cursor = f"/v1/accounts/{ACCOUNT}/holds", [], None
    while True:
        page = await get(ledger, path, limit=2, **({"cursor": cursor} if cursor else {}))
        seen += [one["operation_id"] for one in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [one["operation_id"] for one in asked if one is not asked[1]]
    wrong = await ledger.http.get(path, params={"cursor": "nonsense"})
    assert (wrong.status_code, "cursor" in wrong.json()["errors"][0]["field"]) == (422, True)


async def test_denials_are_found_by_why_and_counted(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=1), limit("big", meter="units", maximum=5))
    await use(ledger)
    asked = [check(user_id=user) for user in ("ada", "grace", "ada")] + [check(account_id="nobody")]
    for one in asked:
        assert not (await ledger.check(one))["allowed"]
    everything = (await get(ledger, "/v1/denials"))["items"]
    assert [one["operation_id"] for one in everything] == [one["operation_id"] for one in reversed(asked)]
    assert (everything[0]["code"], everything[0]["limit_id"]) == ("unknown_account", None)
    assert (everything[1]["code"], everything[1]["limit_id"]) == ("limit_exceeded", "images")
    assert everything[1]["message"].startswith("limit images allows 1 calls")

    async def ids(**query: Any) -> list[str]:
        return [one["operation_id"] for one in (await get(ledger, "/v1/denials", **query))["items"]]

    one, two, three, four = (body["operation_id"] for body in asked)
    assert await ids(account_id=ACCOUNT, user_id="ada") == [three, one]
    assert await ids(code=["unknown_account", "unknown_plan"]) == [four]
    assert await ids(limit_id="big") == await ids(operation="edit") == []
    assert await ids(to="2026-01-02T00:00:00Z") == []
    page = await get(ledger, "/v1/denials", limit=3)
    assert await ids(cursor=page["next_cursor"]) == [one]
    assert two in [item["operation_id"] for item in page["items"]]

    counts = await get(ledger, "/v1/denials:counts", interval="day")
    assert [(row["code"], row["limit_id"], row["denials"]) for row in counts["rows"]] == [
        ("limit_exceeded", "images", 3),
        ("unknown_account", None, 1),
    ]
    assert [(row["account_id"], row["denials"]) for row in counts["accounts"]] == [(ACCOUNT, 3), ("nobody", 1)]
    assert (await get(ledger, "/v1/denials:counts", account_id="nobody"))["rows"][0]["denials"] == 1
    for query, field in (
        ({"from": "2026-11-01T00:00:00Z", "to": "2026-10-01T00:00:00Z"}, "query.to"),
        ({"from": "2020-01-01T00:00:00Z"}, "query.from"),
        ({"interval": "minute"}, "query.interval"),
    ):
        wrong = await ledger.http.get("/v1/denials:counts", params=query)
        assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, field)
    wrong = await ledger.http.get("/v1/denials", params={"cursor": "nonsense"})
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "query.cursor")


async def test_a_reason_is_kept_by_rebuilding_and_known_of_the_past(ledger: Ledger, database_url: str) -> None:
    await ledger.set_up(limit(maximum=0))
    before = check()
    await ledger.check(before)
    [found] = (await get(ledger, "/v1/denials"))["items"]
    await asyncio.sleep(0.01)
    moment = (await get(ledger, "/v1/limits:nearest"))["read_at"]
    await ledger.check(check())
    past = await get(ledger, "/v1/denials", as_of=moment)
    assert past["items"] == [found]
    assert await differences(database_url) == []


async def test_plans_and_accounts_are_listed(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    await ledger.put_account("acme-2")
    await ledger.put_plan(limit(), plan_id="unused")
    await ledger.send(completed(account_id="stranger"))
    plans = await get(ledger, "/v1/plans")
    assert [(one["plan_id"], one["accounts"], one["version"]) for one in plans["items"]] == [
        (PLAN, 2, 1),
        ("unused", 0, 1),
    ]
    assert (await get(ledger, "/v1/plans", limit=1))["next_cursor"] == PLAN
    assert [one["plan_id"] for one in (await get(ledger, "/v1/plans", cursor=PLAN))["items"]] == ["unused"]
    accounts = await get(ledger, "/v1/accounts")
    assert [(one["account_id"], one["plan_id"]) for one in accounts["items"]] == [
        (ACCOUNT, PLAN),
        ("acme-2", PLAN),
        ("stranger", None),
    ]
    assert [one["account_id"] for one in (await get(ledger, "/v1/accounts", prefix="acme-"))["items"]] == ["acme-2"]
    assert (await get(ledger, "/v1/accounts", prefix="acme", limit=1))["next_cursor"] == ACCOUNT
    await put(ledger, f"/v1/accounts/{ACCOUNT}/periods/2026-01:close", {"reason": "billed"})
    closings = (await get(ledger, f"/v1/accounts/{ACCOUNT}/periods"))["closings"]
    assert [(one["period"], one["reason"]) for one in closings] == [("2026-01", "billed")]


async def test_a_plan_is_saved_over_the_version_that_was_meant_alone(ledger: Ledger) -> None:
    body = {"name": "n", "limits": [limit()]}
    path = f"/v1/plans/{PLAN}"
    assert (await ledger.http.put(path, json=body, params={"if_version": 1})).status_code == 409
    assert (await ledger.http.get(path)).status_code == 404
    for version in range(2):
        assert (await ledger.http.put(path, json=body, params={"if_version": version})).status_code == 200
    answers = await asyncio.gather(*(ledger.http.put(path, json=body, params={"if_version": 2}) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"version_changed"}
    assert (await get(ledger, path))["version"] == 3
    # Who names none is not asked.
    assert (await ledger.http.put(path, json=body)).json()["version"] == 4
