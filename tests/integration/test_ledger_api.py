"""Administration, and the shape of everything that goes wrong over HTTP."""

import asyncio
import json
from datetime import date, datetime
from typing import Any

import asyncpg
import httpx
import pytest

from contracts.version import VERSION
from tests import builders
from tests.builders import ABSENT, Body, limit, plan
from tests.servers import Ledger

Database = asyncpg.Connection


def fields_of(answer: httpx.Response) -> list[str]:
    return [error["field"] for error in answer.json()["errors"]]


# --- plans ---


async def test_a_plan_is_stored_and_each_change_is_its_next_version(ledger: Ledger) -> None:
    body = plan(
        limit("images", maximum=25, selector={"operation": ["generate"]}),
        limit("spend", meter="cost", maximum="1.5", window="billing_period", mode="soft", scope="user"),
    )
    stored = (await ledger.http.put("/v1/plans/gold", json=body)).json()
    assert (stored["plan_id"], stored["version"], stored["name"]) == ("gold", 1, "Basic")
    images, spend = stored["limits"]
    assert (images["maximum"], images["scope"], images["mode"]) == (25, "account", "hard")
    assert images["selector"] == {"operation": ["generate"], "provider": [], "model": []}
    assert (spend["maximum"], spend["scope"], spend["mode"]) == ("1.500000000", "user", "soft")
    assert (await ledger.http.get("/v1/plans/gold")).json() == stored
    assert (await ledger.http.put("/v1/plans/gold", json=plan())).json()["version"] == 2
    assert (await ledger.http.get("/v1/plans/gold")).json()["limits"] == []


async def test_every_change_of_a_plan_or_account_is_an_event_in_the_log(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    await asyncio.gather(*(ledger.put_plan(limit(maximum=maximum)) for maximum in range(5)))
    await ledger.put_account(time_zone="Asia/Kathmandu")
    # By position, which is given under the plan's lock; a transaction may have had its id while it waited for that.
    rows = await database.fetch("select account_id, type, body::text from event_log order by position")
    events = [json.loads(row["body"]) for row in rows]
    assert [row["type"] for row in rows] == ["ledger.plan.changed.v1"] * 5 + ["ledger.account.changed.v1"]
    assert [event["data"]["version"] for event in events] == [1, 2, 3, 4, 5, 1]
    assert (rows[5]["account_id"], events[5]["data"]["time_zone"]) == (builders.ACCOUNT, "Asia/Kathmandu")


async def test_a_plan_that_does_not_exist_is_not_found(ledger: Ledger) -> None:
    answer = await ledger.http.get("/v1/plans/none")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


BROKEN_LIMITS: dict[str, tuple[Body, str]] = {
    "an unknown operation": (limit(selector={"operation": ["edit", "levitate"]}), "limits[0].selector.operation[1]"),
    "an unknown meter": (limit(meter="joy"), "limits[0].meter"),
    "an unknown window": (limit(window="week"), "limits[0].window"),
    "an unknown scope": (limit(scope="planet"), "limits[0].scope"),
    "an unknown mode": (limit(mode="firm"), "limits[0].mode"),
    "an unknown dimension": (limit(selector={"colour": ["red"]}), "limits[0].selector.colour"),
    "an unknown field": (limit(minimum=1), "limits[0].minimum"),
    "a fractional maximum of calls": (limit(maximum=1.5), "limits[0].maximum"),
    "a maximum of calls in quotes": (limit(maximum="25"), "limits[0].maximum"),
    "a true maximum": (limit(maximum=True), "limits[0].maximum"),
    "a negative maximum": (limit(maximum=-1), "limits[0].maximum"),
    "a maximum beyond all counts": (limit(maximum=10**16), "limits[0].maximum"),
    "no maximum": ({"limit_id": "images", "meter": "calls", "window": "month"}, "limits[0].maximum"),
    "a maximum of null": (limit(maximum=None), "limits[0].maximum"),
    "a maximum of cost as a number": (limit(meter="cost", maximum=1), "limits[0].maximum"),
    "a maximum of cost with ten decimals": (limit(meter="cost", maximum="0.0000000001"), "limits[0].maximum"),
    "a negative maximum of cost": (limit(meter="cost", maximum="-1"), "limits[0].maximum"),
    "a maximum of cost that is NaN": (limit(meter="cost", maximum="NaN"), "limits[0].maximum"),
    "a limit_id with a space": (limit("my images"), "limits[0].limit_id"),
    "an empty limit_id": (limit(""), "limits[0].limit_id"),
    "a selector that is text": (limit(selector={"operation": "edit"}), "limits[0].selector.operation"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_LIMITS)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_plan_with_a_broken_limit_is_refused_and_its_field_named(refusing: Ledger, name: str) -> None:
    broken, field = BROKEN_LIMITS[name]
    answer = await refusing.http.put("/v1/plans/broken", json=plan(broken))
    assert answer.status_code == 422
    assert field in fields_of(answer)
    assert (await refusing.http.get("/v1/plans/broken")).status_code == 404


async def test_a_plan_with_a_limit_id_twice_is_refused(ledger: Ledger) -> None:
    answer = await ledger.http.put("/v1/plans/broken", json=plan(limit("same"), limit("same", window="day")))
    assert answer.status_code == 422
    assert "same" in answer.json()["detail"]


async def test_a_plan_of_more_than_100_limits_is_refused(ledger: Ledger) -> None:
    answer = await ledger.http.put("/v1/plans/broken", json=plan(*(limit(f"limit-{n}") for n in range(101))))
    assert (answer.status_code, fields_of(answer)) == (422, ["limits"])


# --- accounts ---


async def test_an_account_is_stored_with_its_calendar(ledger: Ledger) -> None:
    body = {"plan_id": "gold", "time_zone": "Europe/Berlin", "billing_anchor": "2026-01-31"}
    stored = (await ledger.http.put("/v1/accounts/acme", json=body)).json()
    assert stored == {"account_id": "acme", "version": 1, **body}
    assert (await ledger.http.get("/v1/accounts/acme")).json() == stored
    again = (await ledger.http.put("/v1/accounts/acme", json={"plan_id": "gold"})).json()
    assert (again["version"], again["time_zone"]) == (2, "UTC")
    assert date.fromisoformat(again["billing_anchor"]).day == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "plan_id"),
        ({"plan_id": "a b"}, "plan_id"),
        ({"plan_id": "gold", "time_zone": "Mars/Olympus"}, "time_zone"),
        ({"plan_id": "gold", "time_zone": "../../etc/passwd"}, "time_zone"),
        ({"plan_id": "gold", "time_zone": "Europe"}, "time_zone"),
        ({"plan_id": "gold", "time_zone": ""}, "time_zone"),
        ({"plan_id": "gold", "billing_anchor": "2026-02-30"}, "billing_anchor"),
        ({"plan_id": "gold", "billing_anchor": "1999-12-31"}, "billing_anchor"),
        ({"plan_id": "gold", "colour": "red"}, "colour"),
    ],
    ids=str,
)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_broken_account_is_refused_and_its_field_named(refusing: Ledger, body: Body, field: str) -> None:
    answer = await refusing.http.put("/v1/accounts/acme", json=body)
    assert (answer.status_code, fields_of(answer)) == (422, [field])


async def test_an_account_that_was_only_seen_is_not_registered(ledger: Ledger) -> None:
    assert (await ledger.http.get("/v1/accounts/acme")).status_code == 404
    await ledger.send(builders.completed())
    assert (await ledger.http.get("/v1/accounts/acme")).status_code == 404


# --- broken checks ---

BROKEN_CHECKS: dict[str, tuple[Body, str]] = {
    "no account": (builders.check(account_id=ABSENT), "account_id"),
    "no user": (builders.check(user_id=ABSENT), "user_id"),
    "no model": (builders.check(model=ABSENT), "model"),
    "an operation id that is no UUID": (builders.check(operation_id="1"), "operation_id"),
    "an operation id of version 4": (
        builders.check(operation_id="9f0d4a1e-0b5e-4c3a-8d7e-1f2a3b4c5d6e"), "operation_id"),
    "an account with a slash": (builders.check(account_id="a/b"), "account_id"),
    "a line break in a user": (builders.check(user_id="a\r\nb"), "user_id"),
    "a line break at the end": (builders.check(user_id="a\n"), "user_id"),
    "a NUL": (builders.check(provider="a\0"), "provider"),
    "a name of 129 characters": (builders.check(user_id="a" * 129), "user_id"),
    "a quantity of 0": (builders.check(quantity=0), "quantity"),
    "a quantity in quotes": (builders.check(quantity="2"), "quantity"),
    "a fractional quantity": (builders.check(quantity=1.5), "quantity"),
    "a true quantity": (builders.check(quantity=True), "quantity"),
    "a quantity beyond all": (builders.check(quantity=1_000_001), "quantity"),
    "an estimate as a number": (builders.check(estimated_cost=0.04), "estimated_cost"),
    "an estimate of ten decimals": (builders.check(estimated_cost="0.0400000000"), "estimated_cost"),
    "a negative estimate": (builders.check(estimated_cost="-1"), "estimated_cost"),
    "an estimate that is NaN": (builders.check(estimated_cost="NaN"), "estimated_cost"),
    "a ttl of 0": (builders.check(ttl_seconds=0), "ttl_seconds"),
    "a ttl of over a day": (builders.check(ttl_seconds=86_401), "ttl_seconds"),
    "a dry run in words": (builders.check(dry_run="yes"), "dry_run"),
    "an unknown field": (builders.check(quantiti=2), "quantiti"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_CHECKS)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_broken_check_is_refused_and_its_field_named(refusing: Ledger, name: str) -> None:
    body, field = BROKEN_CHECKS[name]
    answer = await refusing.http.post("/v1/limit-checks", json=body)
    assert answer.status_code == 422
    assert fields_of(answer) == [field]
    assert answer.json()["detail"].startswith(f"{field}: ")


# --- the shape of problems ---


async def test_every_kind_of_problem_has_the_shape_of_rfc_9457(ledger: Ledger) -> None:
    http = ledger.http
    answers: dict[tuple[int, str], httpx.Response] = {
        (404, "not_found"): await http.get("/v1/nothing"),
        (405, "method_not_allowed"): await http.delete("/v1/limit-checks"),
        (415, "unsupported_media_type"): await http.post("/v1/events", content=b"{}"),
        (422, "invalid_request"): await http.post("/v1/limit-checks", json={}),
        (400, "malformed_json"): await http.post("/v1/limit-checks", content=b'{"account_id": '),
    }
    for (status, code), answer in answers.items():
        problem: dict[str, Any] = answer.json()
        assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["type"].endswith(code.replace("_", "-"))
        assert problem["title"]
        assert problem["detail"]
    assert answers[405, "method_not_allowed"].headers["allow"] == "POST"
    assert len({answer.json()["type"] for answer in answers.values()}) == len(answers)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"[" * 5000, b'{"a": ' + b"9" * 5000 + b"}", b'{"\\ud800": 1}', b'{"user_id": "\\ud800"}'],
    ids=["nothing", "half", "no UTF-8", "deep", "a long number", "half a surrogate pair as a name", "and as a value"],
)
@pytest.mark.parametrize("path", ["/v1/limit-checks", "/v1/plans/gold", "/v1/accounts/acme"])
@pytest.mark.asyncio(loop_scope="module")
async def test_odd_bodies_are_problems_of_the_caller(refusing: Ledger, path: str, body: bytes) -> None:
    method = "POST" if path.endswith("checks") else "PUT"
    answer = await refusing.http.request(method, path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("operation_id", ["1", "not-a-uuid", "%00"])
@pytest.mark.asyncio(loop_scope="module")
async def test_an_id_in_the_path_that_is_none_is_refused(refusing: Ledger, operation_id: str) -> None:
    answers = [
        await refusing.http.get(f"/v1/decisions/{operation_id}"),
        await refusing.http.post(f"/v1/reservations/{operation_id}:release"),
        await refusing.http.post(f"/v1/reservations/{operation_id}:extend"),
    ]
    assert {answer.status_code for answer in answers} <= {404, 422}


async def test_the_documentation_names_every_route(ledger: Ledger) -> None:
    assert (await ledger.http.get("/docs")).status_code == 200
    paths = set((await ledger.http.get("/openapi.json")).json()["paths"])
    assert paths >= {
        "/v1/limit-checks",
        "/v1/events",
        "/v1/accounts/{account_id}",
        "/v1/plans/{plan_id}",
        "/v1/accounts/{account_id}/usage",
        "/v1/accounts/{account_id}/usage-log",
        "/v1/decisions/{operation_id}",
        "/livez",
        "/readyz",
    }


async def test_what_routes_say_of_an_unknown_account_is_documented(ledger: Ledger) -> None:
    document = (await ledger.http.get("/openapi.json")).json()["paths"]
    said = {
        path: (await ledger.http.get(path.format(account_id=builders.ACCOUNT)), document[path]["get"])
        for path in document
        if "get" in document[path] and path.count("{") == 1 and "{account_id}" in path
    }
    path = "/v1/accounts/{account_id}/resale-prices/{operation}/{model}"
    put = await ledger.http.put(
        f"/v1/accounts/{builders.ACCOUNT}/resale-prices/generate/m",
        json={"valid_from": "2026-01-01T00:00:00Z", "unit_price": "1"},
    )
    said[path] = put, document[path]["put"]
    unknown = {answered for answered, (answer, _) in said.items() if answer.status_code == 404}
    assert unknown >= {path, "/v1/accounts/{account_id}/usage", "/v1/accounts/{account_id}/resale-prices"}
    for path, (answer, told) in said.items():
        assert str(answer.status_code) in told["responses"], (path, answer.text)


async def test_a_ledger_that_can_work_says_that_it_lives_and_is_ready(ledger: Ledger) -> None:
    assert (await ledger.http.get("/livez")).json() == {"status": "alive", "version": VERSION}
    ready = await ledger.http.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "database": "ok", "nats": "ok"})


async def test_times_are_utc_in_rfc_3339(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    decision = await ledger.check(builders.check())
    await ledger.send(builders.completed(time="2026-11-05T13:00:00+05:45"))
    [item] = (await ledger.usage_log())["items"]
    for text in (
        decision["decided_at"],
        decision["reservation"]["expires_at"],
        item["occurred_at"],
        item["recorded_at"],
    ):
        moment = datetime.fromisoformat(text)
        assert moment.utcoffset() is not None
        assert moment.utcoffset().total_seconds() == 0  # type: ignore[union-attr]  # just asserted
    assert datetime.fromisoformat(item["occurred_at"]) == builders.at("2026-11-05 07:15")
