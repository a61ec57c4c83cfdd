"""A decision explained: which limit decided, what it was, and what had used it up."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from tests import builders
from tests.builders import Body, adjustment, check, completed, failed, limit
from tests.servers import Ledger, eventually

Database = asyncpg.Connection


async def binding(ledger: Ledger, of: Body) -> Body:
    explained = await ledger.decision(of["operation_id"])
    found: Body = explained["binding_limit"]
    return found


async def rows_behind(ledger: Ledger, explained: Body) -> list[Body]:
    """The rows of the usage log that the explanation links to, all pages."""
    rows: list[Body] = []
    query = ""
    while True:
        answer = await ledger.http.get(explained["usage_log"] + query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        rows += page["items"]
        if page["next_cursor"] is None:
            return rows
        query = f"&cursor={page['next_cursor']}"


async def settled_by_rows(ledger: Ledger, explained: Body) -> Decimal:
    rows = await rows_behind(ledger, explained)
    match explained["limit"]["meter"]:
        case "calls":
            return Decimal(sum(row["outcome"] == "completed" for row in rows) + adjusted(rows, "calls"))
        case "units":
            done = sum(row["quantity"] for row in rows if row["outcome"] == "completed")
            return Decimal(done + adjusted(rows, "units"))
        case _:
            return sum((Decimal(row["cost"]) for row in rows), Decimal(0))


def adjusted(rows: list[Body], name: str) -> int:
    return sum(row["adjustment"][name] for row in rows if row["outcome"] == "adjustment")


async def is_consistent(ledger: Ledger, explained: Body) -> None:
    """Holds add up to what was held then, rows of the usage log to what is settled now."""
    holds, then = explained["open_holds"], explained["then"]
    assert Decimal(str(holds["total"])) == sum(Decimal(str(hold["amount"])) for hold in holds["items"])
    own = Decimal(str(then["held"])) - Decimal(str(holds["total"]))
    assert own in (0, Decimal(str(explained["asked"])))
    assert holds["is_complete"]
    assert await settled_by_rows(ledger, explained) == Decimal(str(explained["now"]["settled"]))


def held_operations(explained: Body) -> list[str]:
    return [hold["operation_id"] for hold in explained["open_holds"]["items"]]


# --- denied ---


async def test_denied_by_what_others_hold(ledger: Ledger) -> None:
    await ledger.set_up(limit("other", maximum=50), limit(maximum=2))
    holders = [check(user_id="ada"), check(user_id="bob")]
    placed = [await ledger.check(one) for one in holders]
    denied = check(user_id="cy")
    decision = await ledger.check(denied)
    found = await binding(ledger, denied)
    now = datetime.now(UTC)
    assert found["limit_id"] == "images"
    assert found["limit"]["maximum"] == 2
    assert (found["plan_id"], found["plan_version"], found["override"]) == (builders.PLAN, 1, None)
    assert found["asked"] == 1
    assert found["then"] == {"maximum": 2, "settled": 0, "held": 2, "available": 0}
    assert found["now"] == {"settled": 0, "held": 2}
    assert (found["period"]["name"], found["scope_id"]) == (f"{now:%Y-%m}", None)
    holds = found["open_holds"]
    assert (holds["count"], holds["total"]) == (2, 2)
    for one, held, asked in zip(placed, holds["items"], holders, strict=True):
        assert (held["operation_id"], held["user_id"], held["amount"], held["state"]) == (
            asked["operation_id"], asked["user_id"], 1, "held",
        )  # fmt: skip
        for shown, given in (("placed_at", one["decided_at"]), ("expires_at", one["reservation"]["expires_at"])):
            assert datetime.fromisoformat(held[shown]) == datetime.fromisoformat(given)
    assert decision["denial"]["limit_id"] == found["limit_id"]
    await is_consistent(ledger, found)


async def test_denied_by_what_was_settled(ledger: Ledger) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1"))
    checked = check(estimated_cost="0.5")
    await ledger.check(checked)
    await ledger.send(completed(checked, cost="0.7"), failed(cost="0.2"), completed(cost="0.05"))
    denied = check(estimated_cost="0.1")
    assert not (await ledger.check(denied))["allowed"]
    found = await binding(ledger, denied)
    assert found["asked"] == "0.100000000"
    assert found["then"]["settled"] == found["now"]["settled"] == "0.950000000"
    assert found["open_holds"] == {"count": 0, "total": "0.000000000", "is_complete": True, "items": []}
    assert len(await rows_behind(ledger, found)) == 3
    await is_consistent(ledger, found)


@pytest.mark.parametrize("meter", ["calls", "units", "cost"])
async def test_corrections_are_among_the_rows_behind_what_is_settled(ledger: Ledger, meter: str) -> None:
    await ledger.set_up(limit("images", meter=meter, maximum="0.09" if meter == "cost" else 2))
    kept, wrong, denied = [check(estimated_cost="0.04") for _ in range(3)]
    for one in (kept, wrong):
        assert (await ledger.check(one))["allowed"]
    await ledger.send(completed(kept), completed(wrong), failed(cost="0"))
    assert not (await ledger.check(denied))["allowed"]
    await is_consistent(ledger, await binding(ledger, denied))
    void = adjustment(kind="void", reference={"operation_id": wrong["operation_id"]})
    assert (await ledger.http.post("/v1/adjustments", json=void)).status_code == 200
    found = await binding(ledger, denied)
    assert found["now"]["settled"] == ("0.040000000" if meter == "cost" else 1)
    await is_consistent(ledger, found)


async def test_denied_by_both_and_still_explained_after_all_is_over(ledger: Ledger) -> None:
    await ledger.set_up(limit("units", meter="units", maximum=10))
    settled, held, released, expiring = check(quantity=3), check(quantity=2), check(quantity=4), check(ttl_seconds=1)
    for one in (settled, held, released, expiring):
        assert (await ledger.check(one))["allowed"]
    await ledger.send(completed(settled))
    denied, after = check(quantity=5), check(quantity=1)
    assert not (await ledger.check(denied))["allowed"]
    before = await binding(ledger, denied)
    assert before["then"] == {"maximum": 10, "settled": 3, "held": 7, "available": 0}
    assert held_operations(before) == [one["operation_id"] for one in (held, released, expiring)]
    await is_consistent(ledger, before)

    await ledger.send(completed(held))
    await ledger.release(released["operation_id"])
    assert (await ledger.check(after))["allowed"]

    async def expired() -> bool:
        return bool((await ledger.decision(expiring["operation_id"]))["state"] == "expired")

    await eventually(expired, "the hold expires")
    later = await binding(ledger, denied)
    assert (later["then"], held_operations(later)) == (before["then"], held_operations(before))
    assert [hold["state"] for hold in later["open_holds"]["items"]] == ["settled", "released", "expired"]
    assert all(hold["closed_at"] for hold in later["open_holds"]["items"])
    assert later["now"] == {"settled": 5, "held": 1}
    await is_consistent(ledger, later)
    # What was settled before a decision is not among its holds, what is held still is.
    denied_again = check(quantity=9)
    await ledger.check(denied_again)
    again = await binding(ledger, denied_again)
    assert held_operations(again) == [after["operation_id"]]
    await is_consistent(ledger, again)


async def test_of_a_limit_on_each_user_only_that_users_use_is_shown(ledger: Ledger) -> None:
    await ledger.set_up(limit("each", scope="user", maximum=3), limit("all", maximum=100))
    of_ada = [check(user_id="ada") for _ in range(2)]
    for one in (*of_ada, check(user_id="bob"), check(user_id="bob")):
        await ledger.check(one)
    await ledger.send(completed(of_ada[0]), completed(user_id="ada"), completed(user_id="bob"))
    denied = check(user_id="ada")
    assert not (await ledger.check(denied))["allowed"]
    found = await binding(ledger, denied)
    assert (found["limit_id"], found["scope_id"]) == ("each", "ada")
    assert held_operations(found) == [of_ada[1]["operation_id"]]
    rows = await rows_behind(ledger, found)
    assert {row["user_id"] for row in rows} == {"ada"}
    await is_consistent(ledger, found)


@pytest.mark.parametrize("scope", ["project", "api_key"])
async def test_of_a_limit_on_each_project_or_key_only_its_use_is_shown(ledger: Ledger, scope: str) -> None:
    await ledger.set_up(limit("each", scope=scope, maximum=2))
    own: Body = {f"{scope}_id": "x1"}
    others: Body = {f"{scope}_id": "x2"}
    held = check(**own)
    for one in (held, check(**others), check()):
        await ledger.check(one)
    await ledger.send(completed(**own), completed(**others), completed())
    await ledger.check(denied := check(**own))
    found = await binding(ledger, denied)
    assert (found["scope_id"], held_operations(found)) == ("x1", [held["operation_id"]])
    assert len(await rows_behind(ledger, found)) == 1
    await is_consistent(ledger, found)


async def test_of_a_limit_with_a_selector_only_what_it_selects_is_shown(ledger: Ledger) -> None:
    selector = {"operation": ["generate", "edit"], "provider": ["p1", "p2"], "model": ["org/m-1", "m+2"]}
    await ledger.set_up(limit("some", maximum=3, window="day", selector=selector))
    mine: Body = {"provider": "p2", "model": "m+2"}
    held = check(operation="edit", **mine)
    others = [check(provider="p3", model="m+2"), check(operation="upscale", **mine), check(provider="p1", model="m3")]
    for one in (held, *others):
        assert (await ledger.check(one))["allowed"]
    await ledger.send(*map(completed, others))
    await ledger.send(completed(**mine), completed(provider="p1", model="org/m-1"), failed(**mine, cost="1"))
    denied = check(**mine)
    assert not (await ledger.check(denied))["allowed"]
    found = await binding(ledger, denied)
    assert found["limit"]["selector"] == selector
    assert held_operations(found) == [held["operation_id"]]
    assert len(await rows_behind(ledger, found)) == 2
    await is_consistent(ledger, found)


# --- by what ---


async def test_the_override_is_shown_as_it_was_then(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=5, selector={"provider": ["local"]}))
    url = f"/v1/accounts/{builders.ACCOUNT}/limits/images"
    body: Body = {"valid_until": "2100-01-01T00:00:00Z"}
    for maximum in (9, 0):
        body = {**body, "maximum": maximum}
        assert (await ledger.http.put(url, json=body)).status_code == 200
    await ledger.check(denied := check())
    # Replaced, taken back and made anew: with the same version, but another limit.
    assert (await ledger.http.delete(url)).status_code == 200
    for maximum in (7, 8):
        body = {**body, "maximum": maximum, "selector": {}}
        assert (await ledger.http.put(url, json=body)).status_code == 200
    await ledger.put_plan()
    found = await binding(ledger, denied)
    assert found["override"] == {
        "scope_id": None, "version": 2, "valid_from": None, "valid_until": "2100-01-01T00:00:00Z",
    }  # fmt: skip
    assert (found["limit"]["maximum"], found["limit"]["selector"]["provider"]) == (0, ["local"])
    await ledger.check(allowed := check())
    found = await binding(ledger, allowed)
    assert (found["override"]["version"], found["limit"]["maximum"]) == (2, 8)


async def test_the_plan_is_shown_as_it_was_then(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=0))
    await ledger.check(denied := check())
    await ledger.put_plan(limit(maximum=9, window="day"))
    await ledger.put_account(plan_id="other")
    found = await binding(ledger, denied)
    assert (found["plan_id"], found["plan_version"]) == (builders.PLAN, 1)
    assert (found["limit"]["maximum"], found["limit"]["window"]) == (0, "month")


async def test_the_window_is_that_of_the_accounts_calendar_then(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=1, window="day"), time_zone="Pacific/Kiritimati")
    await ledger.check(check())
    await ledger.check(denied := check())
    await ledger.put_account(time_zone="Pacific/Pago_Pago")
    found = await binding(ledger, denied)
    start = datetime.fromisoformat(found["period"]["start"])
    assert (start.hour, start.minute) == (10, 0), "midnight there is 10:00 UTC"
    assert found["period"]["name"] == (await ledger.decision(denied["operation_id"]))["limits"][0]["period"]
    await is_consistent(ledger, found)


async def test_the_price_that_a_check_was_held_at_is_shown(ledger: Ledger) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1"))
    price = {"valid_from": "2026-01-01T00:00:00Z", "variants": [{"when": {}, "price": "0.4"}]}
    assert (await ledger.http.put("/v1/prices/local/generate/render-1", json=price)).status_code == 200
    await ledger.check(held := check(quantity=2))
    await ledger.check(denied := check())
    explained = await ledger.decision(denied["operation_id"])
    assert (explained["price"]["version"], explained["price"]["unit_price"]) == (1, "0.400000000")
    found = explained["binding_limit"]
    assert found["asked"] == "0.400000000"
    assert found["open_holds"]["items"][0]["amount"] == "0.800000000"
    assert held_operations(found) == [held["operation_id"]]
    await is_consistent(ledger, found)


async def test_a_lease_is_a_hold_of_all_its_operations(ledger: Ledger) -> None:
    plan = builders.lease_plan(limit(maximum=5))
    assert (await ledger.http.put(f"/v1/plans/{builders.PLAN}", json=plan)).status_code == 200
    await ledger.put_account()

    async def placed(calls: int) -> tuple[bool, Body]:
        """Whether the lease was granted, and its explanation's key."""
        asked = builders.lease(calls=calls)
        answer = await ledger.http.post("/v1/leases", json=asked)
        assert answer.status_code == 200, answer.text
        return answer.json()["allowed"], {"operation_id": asked["lease_id"]}

    (granted, first), (granted_too, denied) = await placed(4), await placed(2)
    assert (granted, granted_too) == (True, False)
    for one, calls in ((first, 4), (denied, 2)):
        found = await binding(ledger, one)
        assert found["asked"] == calls
        await is_consistent(ledger, found)
    [hold] = (await binding(ledger, denied))["open_holds"]["items"]
    assert (hold["amount"], hold["is_lease"]) == (4, True)
    # What it is used for is taken out of it: then more was held than what is left of it now.
    lease_id = hold["operation_id"]
    await ledger.send({**completed(), "leaseid": lease_id})
    later = await binding(ledger, denied)
    assert (later["then"]["held"], later["open_holds"]["total"], later["open_holds"]["is_complete"]) == (4, 3, False)


# --- allowed, and what no limit decided ---


async def test_of_an_allowed_check_the_limit_with_least_room_is_shown(ledger: Ledger) -> None:
    await ledger.set_up(
        limit("soft", maximum=1, mode="soft"),
        limit("wide", maximum=100),
        limit("tight", meter="cost", maximum="1"),
        limit("each", scope="user", maximum=20),
    )
    await ledger.check(first := check(estimated_cost="0.5"))
    await ledger.check(second := check(estimated_cost="0.2"))
    found = await binding(ledger, second)
    assert (found["limit_id"], found["asked"]) == ("tight", "0.200000000")
    assert found["then"] == {
        "maximum": "1.000000000", "settled": "0.000000000", "held": "0.700000000", "available": "0.300000000",
    }  # fmt: skip
    assert held_operations(found) == [first["operation_id"]], "its own hold is in none of them"
    await is_consistent(ledger, found)


async def test_where_no_limit_had_a_say_there_is_none(ledger: Ledger) -> None:
    await ledger.set_up()
    await ledger.check(unlimited := check())
    await ledger.check(nobody := check(account_id="nobody"))
    assert await binding(ledger, unlimited) is None
    assert await binding(ledger, nobody) is None


async def test_a_plan_that_the_log_does_not_have_leaves_the_rest(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    await ledger.set_up(limit(maximum=0))
    await ledger.check(denied := check())
    await database.execute("delete from event_log where type = 'ledger.plan.changed.v1'")
    found = await binding(ledger, denied)
    assert (found["limit"], found["open_holds"], found["usage_log"]) == (None, None, None)
    assert (found["limit_id"], found["then"]["maximum"]) == ("images", 0)


async def test_what_was_never_decided_or_only_tried_is_not_found(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    await ledger.check(tried := check(dry_run=True))
    for operation_id in (builders.new_id(), tried["operation_id"]):
        answer = await ledger.http.get(f"/v1/decisions/{operation_id}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


# --- many at once ---


async def test_each_of_many_decisions_at_one_moment_is_explained_by_those_before_it(ledger: Ledger) -> None:
    """Holds of one batch share their moment; the log's order tells which came first."""
    await ledger.set_up(limit(maximum=40))
    asked = [check(user_id=f"user-{number}") for number in range(60)]
    answer = await ledger.http.post("/v1/limit-checks:batch", json={"checks": asked})
    decisions = [result["decision"] for result in answer.json()["results"]]
    assert len({decision["decided_at"] for decision in decisions}) < 60
    explanations = await asyncio.gather(*(binding(ledger, one) for one in asked))
    for decision, found in zip(decisions, explanations, strict=True):
        assert found["open_holds"]["count"] == decision["limits"][0]["held"] - decision["allowed"]
    counts = sorted(found["open_holds"]["count"] for found in explanations)
    assert counts == [*range(40), *[40] * 20]


async def test_of_many_holds_a_hundred_are_listed_and_all_are_counted(ledger: Ledger) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1.5"))
    asked = [check(estimated_cost="0.01") for _ in range(151)]
    await ledger.http.post("/v1/limit-checks:batch", json={"checks": asked})
    await ledger.check(denied := check(estimated_cost="0.01"))
    holds = (await binding(ledger, denied))["open_holds"]
    assert (holds["count"], holds["total"], len(holds["items"])) == (150, "1.500000000", 100)


async def test_holds_from_before_the_window_are_in_another(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    await ledger.set_up(limit(maximum=1))
    await ledger.check(old := check())
    for table, columns in (("decisions", ["decided_at"]), ("counters", ["period_start", "period_end"])):
        changes = ", ".join(f"{column} = {column} - interval '1 month'" for column in columns)
        await database.execute(f"update {table} set {changes}")
    await ledger.check(new := check())
    await ledger.check(denied := check())
    found = await binding(ledger, denied)
    assert held_operations(found) == [new["operation_id"]]
    await ledger.send(completed(old))
    assert await rows_behind(ledger, found) == [], "it counts in the window in which it was placed"
    await is_consistent(ledger, await binding(ledger, denied))


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"counted_from": "yesterday"}, "query.counted_from"),
        ({"api_key_id": "a b"}, "query.api_key_id"),
        ({"model": ["m1", "m 2"]}, "query.model[1]"),
    ],
)
async def test_a_bad_filter_of_the_usage_log_is_named(ledger: Ledger, query: Any, field: str) -> None:
    answer = await ledger.http.get(f"/v1/accounts/{builders.ACCOUNT}/usage-log", params=query)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
