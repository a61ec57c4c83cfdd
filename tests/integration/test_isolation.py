"""Two accounts full of secrets, and somebody with every scope on the first: nothing of the second is told or changed,
on any route, in any parameter, field or cursor, and nothing tells what there is from what there is not."""

from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import pytest

from contracts.access.principal import Scope
from contracts.exports import NEXT_CURSOR, ROWS_ESTIMATE
from ledger_service.config import Settings
from ledger_service.main import create_app
from tests.builders import adjustment, check, completed, failed, lease, lease_plan, limit, new_id
from tests.conftest import StartLedger
from tests.integration.isolation_harness import Attack, Known, attacks, forgeries
from tests.integration.test_access_routes import make_token
from tests.servers import Ledger, eventually

Database = asyncpg.Connection
#: In whatever the other account has that its neighbour never sends.
SECRET: Final = "quokka"
#: In amounts of it; of nobody else's.
NUMBER: Final = "7171717"
MINE, THEIRS, NOBODYS = "ours", "zebra", "okapi"
PREPAID: Final = limit("prepaid", meter="cost", window="lifetime", maximum="0", credit=True)
#: Whose a source is, its name tells: see deploy/guides/access.md, "Whose numbers".
TOLD: Final = {"POST /v1/events: their ids, their source"}
#: Lists whose pages end in cursors.
LISTS: Final = (
    "/v1/accounts/{account_id}/usage-log", "/v1/accounts/{account_id}/holds", "/v1/denials", "/v1/adjustments",
    "/v1/changes", "/v1/operations:in-doubt", "/v1/prices", "/v1/accounts", "/v1/plans", "/v1/dead-letters",
    "/v1/accounts/{account_id}/webhooks/{webhook_id}/deliveries",
)  # fmt: skip


def names(mark: str) -> dict[str, str]:
    """Ids of an account as its neighbour may have come to know them, whether or not they are of anything."""
    return {
        "account_id": mark, "user_id": f"user-{mark}", "project_id": f"project-{mark}", "api_key_id": f"key-{mark}",
        "plan_id": f"plan-{mark}", "provider": f"provider-{mark}", "model": f"model-{mark}",
        "limit_id": f"limit-{mark}", "grant_id": f"grant-{mark}",
        "webhook_id": f"hook-{mark}", "source": f"source-{mark}", "endpoint": f"/{mark}",
        "scope_id": f"user-{mark}", "code": "limit_exceeded",
        **{name: new_id() for name in
           ("operation_id", "lease_id", "adjustment_id", "repricing_id", "message_id", "token_id", "id")},
        "token": "none.at.all",
    }  # fmt: skip


def whose(ids: dict[str, str], **more: Any) -> dict[str, Any]:
    """Who used what, as checks and events have it."""
    used = ("account_id", "user_id", "project_id", "api_key_id", "provider", "model")
    return {**{name: ids[name] for name in used}, **more}


async def done(answer: Awaitable[httpx.Response]) -> Any:
    told = await answer
    assert told.is_success, told.text
    return told.json()


async def fill(ledger: Ledger, mark: str, secret: str, number: str) -> Known:
    """Something of each kind: its ids are known, its contents are secret."""
    http, ids = ledger.http, names(mark)
    own, cost = f"/v1/accounts/{ids['account_id']}", f"0.0{number}"
    limits = (limit(f"images-{secret}", maximum=12), limit("cents", meter="cost", maximum=f"1.{number}"), PREPAID)
    await done(http.put(f"/v1/plans/{ids['plan_id']}", json={**lease_plan(*limits), "name": f"Plan {secret}"}))
    await ledger.put_account(mark, plan_id=ids["plan_id"], time_zone="Asia/Tokyo")
    override = {"meter": "calls", "window": "day", "maximum": 9, "reason": secret}
    await done(http.put(f"{own}/limits/{ids['limit_id']}", json=override))
    since = "2026-01-01T00:00:00Z"
    grant = {"limit_id": "prepaid", "amount": f"3.{number}", "valid_from": since, "reason": secret}
    await done(http.put(f"{own}/credit-grants/{ids['grant_id']}", json=grant))
    price = {"valid_from": since, "unit_price": cost}
    await done(http.put(f"{own}/resale-prices/generate/{ids['model']}", json=price))
    await done(http.put(f"{own}/periods/2020-01:close", json={"reason": secret}))
    hook = {"url": f"https://{secret}.example.com/", "types": ["limit_check.denied"], "description": secret}
    await done(http.put(f"{own}/webhooks/{ids['webhook_id']}", json=hook))
    await done(http.post(f"{own}/webhooks/{ids['webhook_id']}:pause"))
    ids["message_id"] = (await done(http.post(f"{own}/webhooks/{ids['webhook_id']}:test")))["message_id"]
    token = {"name": f"token-{secret}", "scopes": ["usage:read"], "account_id": mark}
    ids["token_id"] = (await done(http.post("/v1/tokens", json=token)))["token_id"]
    # Finished, failed, in doubt and refused operations; the id that is known is of one that is finished.
    for count in range(3):
        asked = check(**whose(ids, estimated_cost=cost, attributes={"style": secret}))
        ids["operation_id"] = asked["operation_id"] if count == 0 else ids["operation_id"]
        assert (await ledger.check(asked))["allowed"]
        told = {"endpoint": ids["endpoint"], "metadata": {"note": secret}, "source": ids["source"]}
        await ledger.send(completed(asked, sourcesequence=count + 1, **told))
        if count == 0:
            await ledger.send(completed(asked, cost=f"0.1{number}", metadata={"note": secret}))  # a dead letter
    error = {"code": "outcome_unknown", "message": secret}
    await ledger.send(failed(check(**whose(ids)), error=error, cost=cost))
    await ledger.check(check(**whose(ids, estimated_cost=cost)))  # stays open
    assert not (await ledger.check(check(**whose(ids, quantity=1, estimated_cost=f"2.{number}"))))["allowed"]
    placed = lease(**whose(ids), lease_id=ids["lease_id"], estimated_cost="0.01")
    ids["token"] = (await done(http.post("/v1/leases", json=placed)))["token"]
    gift = adjustment(account_id=mark, adjustment_id=ids["adjustment_id"], reason=secret, cost=f"-0.0{number}")
    await done(http.post("/v1/adjustments", json=gift))
    again = {"repricing_id": ids["repricing_id"], "account_id": mark, "reason": secret, "dry_run": False}
    span = {"from": since, "to": "2026-02-01T00:00:00Z"}
    assert (await http.post("/v1/repricings", json={**again, **span})).is_success
    return Known(ids)


async def with_cursors(ledger: Ledger, known: Known) -> Known:
    """Known are also the ends of pages of the other account, and of pages over all accounts."""
    cursors = {}
    for path in LISTS:
        for one in ({}, {"account_id": known.ids["account_id"]}):
            asked = {"limit": "1", **one, **({"doubt": "outcome_unknown"} if path.endswith("doubt") else {})}
            answer = await ledger.http.get(path.format(**known.ids), params=asked)
            if answer.is_success and (cursor := answer.json()["next_cursor"]):
                cursors[f"{path} {len(one)}"] = cursor
    part = {"format": "csv", "rows_max": "1"}
    cursors["export"] = (await ledger.http.get("/v1/exports/usage-log", params=part)).headers[NEXT_CURSOR]
    answer = await ledger.http.get("/v1/exports/usage-log", params={**part, "account_id": known.ids["account_id"]})
    cursors["export of theirs"] = answer.headers[NEXT_CURSOR]
    row = answer.text.splitlines()[1].split(",")
    cursors["row of an export"] = f"{row[0]},2026-01-01T00:00:00Z,{row[1]}"
    assert len(cursors) > len(LISTS), cursors
    return replace(known, cursors=cursors)


async def state_of(database: "Database[asyncpg.Record]", *account_ids: str) -> dict[str, list[str]]:
    """Every row that is about one of these accounts; '' is what is about none."""
    tables = await database.fetch(
        "select table_name from information_schema.columns"
        " join information_schema.tables using (table_schema, table_name)"
        " where table_schema = 'public' and table_type = 'BASE TABLE' and column_name = 'account_id'"
    )
    found = {}
    for (table,) in tables:
        rows = await database.fetch(
            f'select t::text from "{table}" t where account_id = any ($1) order by 1', list(account_ids)
        )
        found[table] = [row[0] for row in rows]
    return found


@pytest.fixture
async def busy(start_ledger: StartLedger, tmp_path: Path) -> Ledger:
    """No rate holds the attacker up, and rows are sealed, so that there are proofs."""
    return await start_ledger(
        rate_per_second=0, rate_failures_per_second=0, seals_key_file=tmp_path / "key.pem", seals_interval_seconds=0.05
    )


@pytest.fixture
async def mine(busy: Ledger) -> Known:
    return await fill(busy, MINE, "sparrow", "3131313")


@pytest.fixture
async def theirs(busy: Ledger, mine: Known) -> Known:
    return await with_cursors(busy, await fill(busy, THEIRS, SECRET, NUMBER))


@pytest.fixture
async def attacker(busy: Ledger, mine: Known) -> AsyncIterator[httpx.AsyncClient]:
    """Every scope there is, on the first account; signed in on the pages, too."""
    token = await make_token(busy, *Scope, account_id=MINE)
    cookie = {"Cookie": f"usage_ledger_token={token['Authorization'].removeprefix('Bearer ')}"}
    async with httpx.AsyncClient(base_url=busy.url, headers={**token, **cookie}, timeout=30) as http:
        yield http


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "changes"])
async def test_nothing_of_another_account_is_told_or_changed(
    reads: bool,
    busy: Ledger,
    mine: Known,
    theirs: Known,
    attacker: httpx.AsyncClient,
    database: "Database[asyncpg.Record]",
) -> None:
    await eventually(lambda: _is_sealed(busy, theirs), "all rows are sealed")
    app, nobody = create_app(Settings()), Known(names(NOBODYS), dict.fromkeys(theirs.cursors, "bm90aGluZw"))
    before = await state_of(database, THEIRS, "")
    told, count = [], 0
    for ours, other in zip(
        attacks(app, mine, nobody, reads=reads), attacks(app, mine, theirs, reads=reads), strict=True
    ):
        count += 1
        told += [*await _leaks(attacker, ours, nobody, other, theirs)]
    assert not told, f"{len(told)} of {count}:\n" + "\n".join(told[:100])
    assert count > 400 if reads else count > 100
    assert await state_of(database, THEIRS, "") == before


async def _is_sealed(ledger: Ledger, known: Known) -> bool:
    path = f"/v1/usage-log/{known.ids['operation_id']}/proof"
    return (await ledger.http.get(path, params={"account_id": known.ids["account_id"]})).is_success


async def _leaks(http: httpx.AsyncClient, ours: Attack, nobody: Known, other: Attack, theirs: Known) -> list[str]:
    control, answer = await ours.send(http), await other.send(http)
    told = f"{answer.text} {dict(answer.headers)}"
    found = []
    if answer.status_code >= 500 or control.status_code >= 500:
        found.append(f"{other.name}: {answer.status_code} and {control.status_code}")
    if SECRET in told or NUMBER in told:
        found.append(f"{other.name}: {answer.status_code} has their secret: {_around(told)}")
    is_told = other.name in TOLD or any(value in theirs.cursors.values() for value in other.parameters.values())
    same = (control.status_code, nobody.hidden_in(control.text)), (answer.status_code, theirs.hidden_in(answer.text))
    if not is_told and same[0] != same[1]:
        found.append(f"{other.name}: not as of nobody:\n   {same[0]!r:.600}\n   {same[1]!r:.600}")
    return found


def _around(told: str) -> str:
    place = min(one for one in (told.find(SECRET), told.find(NUMBER)) if one >= 0)
    return told[max(0, place - 80) : place + 80]


async def test_how_many_rows_an_export_has_is_not_told_by_what_all_accounts_have(
    busy: Ledger, mine: Known, attacker: httpx.AsyncClient, database: "Database[asyncpg.Record]"
) -> None:
    """The estimate is the planner's, whose figures are of whole tables: which users, keys and models others have."""
    await busy.put_account(THEIRS)
    for account_id, count in ((MINE, 200), (THEIRS, 600)):
        ids = names(account_id)
        await busy.send(*(completed(**whose(ids)) for _ in range(count)))
    await database.execute("analyze usage_log")
    for path in ("/v1/exports/usage-log", "/v1/exports/focus"):
        for user_id in ("user-zebra", "user-okapi"):
            answer = await attacker.get(path, params={"format": "csv", "user_id": user_id})
            assert (answer.status_code, len(answer.text.splitlines()), answer.headers.get(ROWS_ESTIMATE)) == (
                200,
                1,
                None,
            )


async def test_a_stream_tells_of_the_tokens_own_account_alone(busy: Ledger, attacker: httpx.AsyncClient) -> None:
    told = ""
    async with attacker.stream("GET", "/v1/operations:stream", params={"seconds": "10"}) as stream:
        await busy.send(completed(**whose(names(THEIRS)), metadata={"note": SECRET}))
        await busy.send(completed(**whose(names(MINE))))
        async for line in stream.aiter_lines():
            told += line
            if "model-ours" in line:
                break
    assert "user-ours" in told
    assert THEIRS not in told


# --- cursors that nobody gave out ---


def packed(text: str) -> str:
    return urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")


FORGED: Final = (
    "", "x", "=", "====", "%", "\0", "\ud7ff", "é", "-1", "0", "9" * 18, "9" * 19, "9" * 20, "1-1", "0-0", "a.b.c",
    "log.1.1", f"log.{2**64}.0", f"log.0.{2**63}", f"{2**63}-{10**18 - 1}", "9" * 19 + "-" + "9" * 18, "A", "AA", "AAA",
    "null", "[]", "{}", "\x7f",
    *(packed(text) for text in (
        "", "|", "||", "|||", "\0", "\ud800", "2026-01-01", "2026-01-01|x", "2026-01-01|a|x", f"2026-01-01|{new_id()}",
        f"0001-01-01T00:00:00+14:00|{new_id()}", f"9999-12-31T23:59:59-14:00|a|{new_id()}", f"2026-01-01|a|{new_id()}",
        f"0001-01-01|a|{new_id()}", f"9999-12-31T23:59:59|{new_id()}", "2026-01-01|a|b|c", "9999-12-31|a|b|c",
        f"2026-01-01|a\0|{new_id()}", f"2026-01-01|{'a' * 200}|{new_id()}", f"2026-W01-1|a|{new_id()}",
        "null", "[]", "{}", "[1,2]", '["a",1]', '["a",1,"b"]', '["a",1,"b",2,3]', f'["a",{10**30}]', '["a",1e400]',
        f'["a",true,"b",-{10**17},"{new_id()}"]', f'["a",{10**17},"b",{10**17},"{new_id()}"]', "[" * 200,
    )),
)  # fmt: skip
ROWS: Final = (
    "", ",", ",,", "a,b,c", f"a,0001-01-01T00:00:00+14:00,{new_id()}", f"a,9999-12-31T23:59:59-14:00,{new_id()}",
    f"a\0,2026-01-01T00:00:00Z,{new_id()}", f"a,2026-01-01T00:00:00Z,{'0' * 40}", f"é,2026-01-01T00:00:00Z,{new_id()}",
)  # fmt: skip


async def test_forged_cursors_are_refused_or_lead_nowhere(busy: Ledger, mine: Known, theirs: Known) -> None:
    wrong = []
    # By somebody who may read all: more is looked at then.
    for attack in forgeries(create_app(Settings()), mine, (*FORGED, *theirs.cursors.values()), ROWS):
        answer = await attack.send(busy.http)
        if answer.status_code >= 500:
            wrong.append(f"{attack.name}: {answer.status_code}")
    assert not wrong, "\n".join(wrong)
