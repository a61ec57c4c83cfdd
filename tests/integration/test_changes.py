"""Each administrative change names who made it, in the log and over HTTP; older ones are read as they are."""

import json
import os
import subprocess
import sys
from typing import Any

import asyncpg
import httpx
import pytest

from contracts.access.principal import ALL_SCOPES, ANYBODY, Principal
from contracts.changes import Author
from ledger_service.domain.authors import attributes, author_in, author_of_call
from ledger_service.domain.ledger_events import ADMINISTRATIVE
from tests.builders import ACCOUNT, Body, completed, limit, plan
from tests.conftest import StartLedger
from tests.integration.issuer import AUDIENCE, issuing
from tests.servers import Ledger, as_service

PRICE = {"unit": "image", "valid_from": "2026-01-01T00:00:00Z", "variants": [{"when": {}, "price": "0.01"}]}
BECAUSE = {"author": "ada", "reason": "a mistake"}


async def changes(http: httpx.AsyncClient, **query: Any) -> list[Body]:
    answer = await http.get("/v1/changes", params=query)
    assert answer.status_code == 200, answer.text
    items: list[Body] = answer.json()["items"]
    return items


async def letter(ledger: Ledger) -> None:
    """A second outcome of an operation."""
    event = completed()
    await ledger.send(event)
    await ledger.send_one(completed(operation_id=event["data"]["operation_id"]))


@pytest.fixture
async def administered(ledger: Ledger) -> tuple[Ledger, str]:
    """Changed by a token of somebody's own; its id."""
    answer = await ledger.http.post("/v1/tokens", json={"name": "ada-the-admin", "scopes": ["admin"]})
    made = answer.json()
    async with httpx.AsyncClient(base_url=ledger.url, headers={"Authorization": f"Bearer {made['token']}"}) as http:
        await http.put("/v1/plans/gold", json=plan(limit()))
        await http.put(f"/v1/accounts/{ACCOUNT}", json={"plan_id": "gold"})
        await http.put(f"/v1/accounts/{ACCOUNT}/limits/images", json={"maximum": 3})
        await http.delete(f"/v1/accounts/{ACCOUNT}/limits/images")
        await http.put("/v1/prices/a/edit/b", json=PRICE)
        other = await http.post("/v1/tokens", json={"name": "other", "scopes": ["admin"]})
        await http.delete(f"/v1/tokens/{other.json()['token_id']}")
    return ledger, made["token_id"]


async def test_every_change_names_the_token_that_made_it(administered: tuple[Ledger, str]) -> None:
    ledger, token_id = administered
    mine = {"kind": "api_key", "id": token_id, "name": "ada-the-admin", "issuer": None}
    own = await changes(ledger.http, account_id=ACCOUNT)
    assert [one["type"].split(".")[1] for one in own] == ["limit_override", "limit_override", "account"]
    assert [one["author"] for one in own] == [mine] * 3
    assert own[-1]["data"]["plan_id"] == "gold"
    others = await changes(ledger.http)
    made_of_all = {one["type"]: one["author"] for one in others if one["data"].get("name") != "ada-the-admin"}
    assert made_of_all == dict.fromkeys(
        (f"ledger.{what}.v1" for what in ("service_token.revoked", "service_token.made", "price.changed",
                                          "plan.changed")), mine,
    )  # fmt: skip
    # Whoever made that token is another one: the tests' own.
    [made] = [one for one in others if one["data"].get("name") == "ada-the-admin"]
    assert made["author"]["name"] == "tests"
    assert made["account_id"] is None
    for one in (*own, *others):
        assert "ult_" not in json.dumps(one)


async def test_pages_go_on_where_they_ended_and_types_choose(administered: tuple[Ledger, str]) -> None:
    ledger, _ = administered
    whole = await changes(ledger.http)
    found: list[Body] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = (await ledger.http.get("/v1/changes", params=query)).json()
        found += page["items"]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert found == whole
    tokens = await changes(ledger.http, type=["ledger.service_token.made.v1", "ledger.price.changed.v1"])
    assert [one["type"] for one in tokens] == [
        "ledger.service_token.made.v1", "ledger.price.changed.v1", "ledger.service_token.made.v1",
    ]  # fmt: skip
    for wrong in ({"type": "usage.operation.completed.v1"}, {"cursor": "x"}, {"cursor": "9" * 20}, {"limit": 0}):
        assert (await ledger.http.get("/v1/changes", params=wrong)).status_code == 422, wrong


async def test_jwts_and_ledgers_without_access_control_name_theirs(start_ledger: StartLedger) -> None:
    async with issuing() as issuer:
        ledger = await start_ledger(oidc_issuer=issuer.url, oidc_audiences=[AUDIENCE])
        token = issuer.token(sub="grace", scope="admin", account_id=ACCOUNT)
        headers = {"Authorization": f"Bearer {token}"}
        answer = await ledger.http.put(f"/v1/accounts/{ACCOUNT}", json={"plan_id": "gold"}, headers=headers)
        assert answer.status_code == 200, answer.text
        [change] = await changes(ledger.http, account_id=ACCOUNT)
        assert change["author"] == {"kind": "user", "id": "grace", "name": None, "issuer": issuer.url}
        # Bound to an account, it sees its own only.
        seen = await ledger.http.get("/v1/changes", headers=headers)
        assert [one["type"] for one in seen.json()["items"]] == ["ledger.account.changed.v1"]
    open_ledger = await start_ledger(auth="off")
    await open_ledger.put_plan(limit())
    [plan_changed] = await changes(open_ledger.http, type="ledger.plan.changed.v1")
    assert plan_changed["author"]["kind"] == "unauthenticated"


async def test_dead_letters_and_grants_name_theirs(ledger: Ledger) -> None:
    await letter(ledger)
    credit = limit("credit", maximum=0, window="lifetime", credit=True)
    await ledger.set_up(limit(), credit)
    grant = {"limit_id": "credit", "amount": 5, "valid_from": "2026-01-01T00:00:00Z"}
    answer = await ledger.http.put(f"/v1/accounts/{ACCOUNT}/credit-grants/gift", json=grant)
    assert answer.status_code == 200, answer.text
    assert (await ledger.http.post("/v1/dead-letters/1:discard", json=BECAUSE)).status_code == 200
    [given, _] = await changes(ledger.http, account_id=ACCOUNT)
    [discarded] = await changes(ledger.http, type="ledger.dead_letter.discarded.v1")
    assert [given["author"]["name"], discarded["author"]["name"]] == ["tests", "tests"]
    assert discarded["data"]["author"] == "ada", "who said so stands beside whose token it was"


async def test_a_command_names_its_role_in_the_database(ledger: Ledger, database_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ledger_service.cli", "tokens", "create", "made-by-command", "--scope", "admin"],
        env={**os.environ, "LEDGER_DATABASE_URL": as_service(database_url)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [made] = await changes(ledger.http, type="ledger.service_token.made.v1")
    assert made["author"] == {"kind": "system", "id": "ledger_service", "name": None, "issuer": None}


async def test_a_change_of_before_is_read_without_an_author(
    ledger: Ledger, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await ledger.put_plan(limit())
    await database.execute(
        "update event_log set body = (body::jsonb - 'authtype' - 'authid' - 'authclaims')::json "
        "where type = 'ledger.plan.changed.v1'"
    )
    [change] = await changes(ledger.http, type="ledger.plan.changed.v1")
    assert change["author"] is None
    assert change["data"]["plan_id"]


@pytest.mark.parametrize(
    "author",
    [
        Author(kind="system", id="ledger_service"),
        Author(kind="api_key", id="0192", name="ada \"the\" admin"),
        Author(kind="user", id="ada", issuer="https://issuer.example"),
        author_of_call(ANYBODY),
        author_of_call(Principal("", ALL_SCOPES, "acme", issuer="https://issuer.example")),
        author_of_call(Principal("old", ALL_SCOPES)),
    ],
)  # fmt: skip
def test_authors_come_out_of_events_as_they_went_in(author: Author) -> None:
    said = attributes(author)
    assert all(said.values()), "an attribute of an event is not empty"
    assert author_in(said) == author


def test_what_names_no_author_has_none() -> None:
    for event in ({}, {"authtype": "user"}, {"authid": "x"}, {"authtype": 1, "authid": "x"}):
        assert author_in(event) is None
    assert len(set(ADMINISTRATIVE)) == len(ADMINISTRATIVE)
