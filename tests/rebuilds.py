"""Verification and rebuild as tests call them, and traffic that has something of everything."""

import json
from typing import Any, Final

import asyncpg

from ledger_service.projections import PROJECTIONS
from ledger_service.rebuilding import Progress, Rebuilt, rebuild
from ledger_service.verification import Difference, Scope, Verification
from tests import builders
from tests.builders import ABSENT, Body, check, completed, failed, limit, new_id, requested
from tests.servers import Client, eventually

Database = asyncpg.Connection
#: What a rebuild may change where nothing else is wrong, or chooses itself.
UNTOLD: Final = {"accounts": {"limits_version"}} | {one.name: set(one.untold) for one in PROJECTIONS if one.untold}


async def differences(database_url: str, *accounts: str) -> list[Difference]:
    """All there are, or those of some accounts."""
    scope = Scope(accounts) if accounts else Scope()
    return [one async for one in Verification(database_url, jobs=1).differences(scope)]


async def assert_agrees_with_the_log(database_url: str, account_id: str, but: tuple[str, ...] = ()) -> None:
    """No projection of the account differs from what the log says; ``but``: columns that the test itself has moved."""
    found = await differences(database_url, account_id)
    assert [one for one in found if not one.columns or set(one.columns) - set(but)] == []


async def rebuilt(database_url: str, *accounts: str) -> Rebuilt:
    return await rebuild(Verification(database_url, jobs=1), Scope(accounts) if accounts else Scope(), Progress())


async def everything(database: "Database[asyncpg.Record]", *without: str) -> dict[str, list[str]]:
    """Every row of every projection, without what the log does not say."""
    found = {}
    for one in PROJECTIONS:
        if one.name not in without:
            rows = await database.fetch(f"select to_json(t)::text as row from {one.name} t")
            found[one.name] = sorted(_told(row["row"], UNTOLD.get(one.name, set())) for row in rows)
    return found


def _told(row: str, left_out: set[str]) -> str:
    return json.dumps({name: value for name, value in json.loads(row).items() if name not in left_out}, sort_keys=True)


IMAGES = limit("images", maximum=12, thresholds=[25, 50, 100])
SPEND = limit("spend", meter="cost", maximum="3", window="billing_period", thresholds=[10])
DAILY = limit("daily", scope="user", maximum=50, window="day", selector={"operation": ["generate", "edit"]})
MINUTELY = limit("minutely", meter="units", scope="project", maximum=1000, window="minute", selector={"model": ["a/b"]})
HOURLY = limit("hourly", maximum=1000, window="hour", scope="api_key")
CREDIT = limit("credit", window="lifetime", maximum=0, credit=True)
LIMITS = (IMAGES, SPEND, DAILY, MINUTELY, HOURLY, CREDIT)


async def something_of_everything(ledger: Client) -> None:
    """Two accounts on one plan, and one that was never registered; at least two rows for each projection.

    The ledger should expire holds quickly.
    """
    await _administration(ledger)
    for account_id in ("acme", "apex"):
        await _operations(ledger, account_id)
        await _leases(ledger, account_id)
    # Seen in an event, in a check that was denied, and in a dry run alone.
    await ledger.send(completed(account_id="stray", cost="0.01"))
    await _closings(ledger)
    assert not (await ledger.check(check(account_id="unknown")))["allowed"]
    await ledger.check(check(account_id="dry", dry_run=True))
    await _sources(ledger)


async def _administration(ledger: Client) -> None:
    for plan_id in ("basic", "other", "third"):
        await _put(ledger, f"/v1/plans/{plan_id}", builders.lease_plan(IMAGES))
    await _put(ledger, "/v1/plans/basic", {**builders.lease_plan(*LIMITS), "unpriced_unit_ceiling": "0.5"})
    for account_id in ("acme", "apex"):
        await ledger.put_account(account_id, time_zone="Europe/Berlin", billing_anchor="2026-01-31")
        await _put(ledger, f"/v1/accounts/{account_id}/limits/images", {"maximum": 20, "reason": "asked"})
        await _put(ledger, f"/v1/accounts/{account_id}/limits/images", {"maximum": 25, "reason": "asked again"})
        own = {"maximum": 30, "scope_id": "bob", "valid_from": "2026-01-01T00:00:00+02:00"}
        await _put(ledger, f"/v1/accounts/{account_id}/limits/daily", own)
        await _put(ledger, f"/v1/accounts/{account_id}/limits/spend", {"maximum": "9"})
        removed = await ledger.http.delete(f"/v1/accounts/{account_id}/limits/spend")
        assert removed.status_code == 200, removed.text
        grant = {"limit_id": "credit", "amount": 30, "valid_from": "2026-01-01T00:00:00Z"}
        at = f"/v1/accounts/{account_id}/credit-grants"
        await _put(ledger, f"{at}/first", grant)
        await _put(ledger, f"{at}/first", {**grant, "amount": 40, "reason": "more"})
        await _put(ledger, f"{at}/renewed", {**grant, "renews": "month", "rollover_maximum": 5, "priority": 1})
        ended = await ledger.http.delete(f"{at}/renewed")
        assert ended.status_code == 200, ended.text
    price = {"unit": "image", "valid_from": "2026-01-01T00:00:00Z", "variants": [{"price": "0.04"}]}
    for model in ("render-1", "a/b", "c"):
        await _put(ledger, f"/v1/prices/local/generate/{model}", price)
    await _put(ledger, "/v1/prices/local/generate/c", {**price, "variants": [{"price": "0.05"}]})
    for path in ("/v1", "/v1/accounts/acme", "/v1/accounts/apex"):
        for unit_price in ("0.1", "0.080000001"):
            sold = {"valid_from": "2026-01-01T00:00:00Z", "unit_price": unit_price, "reason": 'list "2026"'}
            await _put(ledger, f"{path}/resale-prices/generate/a/b", sold)
        for url in ("https://hooks.example.com/a", "https://hooks.example.com/b"):
            for name in ("kept", "gone"):
                await _put(ledger, f"{path}/webhooks/{name}", {"url": url, "types": ["period.closed"]})
        removed = await ledger.http.delete(f"{path}/webhooks/gone")
        assert removed.is_success, removed.text


async def _operations(ledger: Client, account_id: str) -> None:
    """Held, settled, failed, billed although failed, over-run, released, expired and late, extended, moved, denied."""

    # Of one account the oracle is asked, which knows no prices and spells identifiers in one way.
    estimate = {"estimated_cost": "0.03"} if account_id == "acme" else {}

    async def held(**fields: Any) -> Body:
        body = check(**{"account_id": account_id, "project_id": "p1", "api_key_id": "k1", **estimate, **fields})
        assert (await ledger.check(body))["allowed"]
        return body

    kept = await held(user_id="bob", model="a/b")
    await ledger.extend(kept["operation_id"], ttl_seconds=700)
    await ledger.extend(kept["operation_id"], ttl_seconds=600)
    await held(operation="edit", estimated_cost="0.1")
    once, twice = [await ledger.check(await held(user_id="bob", ttl_seconds=900)) for _ in range(2)]
    await ledger.extend(once["operation_id"], ttl_seconds=800)
    await ledger.move(once, provider="far", estimated_cost="0.04")
    again = await ledger.move(twice, provider="far", estimated_cost="0.04")
    await ledger.move(again, provider="farther", estimated_cost="0.05", quantity=2)
    settled, over, gone, billed, back = [await held(quantity=2, estimated_cost="0.1") for _ in range(5)]
    late, never = [await held(ttl_seconds=1, estimated_cost="0") for _ in range(2)]
    odd = {"requested_at": "2026-11-05T12:00:00.123456789+23:00", "metadata": {"a": "\u0000", "b": [1.50, "\ufdd0"]}}
    await ledger.send(
        requested(settled),
        completed(settled, cost="1e-3", **odd),
        completed(over, cost="0.5", quantity=3, actual_provider="far", metadata={"long": "x" * 3000}),
        failed(gone, response_bytes=ABSENT),
        failed(billed, cost="0.07", endpoint="/v1/x"),
    )
    early = completed(account_id=account_id, status_code=ABSENT, time="2026-03-01T23:59:59.999999999-03:00")
    await ledger.send(early)
    await ledger.send(requested(early["data"]), early)
    await ledger.release(back["operation_id"])
    refused = check(account_id=account_id, quantity=2000, model="a/b", project_id="p1")
    assert not (await ledger.check(refused))["allowed"]
    await ledger.send(completed(refused))
    assert not (await ledger.check(check(account_id=account_id, quantity=3000, model="a/b", project_id="p1")))[
        "allowed"
    ]

    async def expired() -> bool:
        again = [await ledger.http.post("/v1/limit-checks", json=one) for one in (late, never)]
        return all(answer.status_code == 409 for answer in again)

    await eventually(expired, "holds expire")
    await ledger.send(completed(late, cost="0.2"))
    await ledger.send(completed(back, cost="0.2"))
    gift = builders.adjustment(cost="-0.25", calls=-1, account_id=account_id, user_id="bob")
    for one in (
        builders.adjustment("rerate", early, cost="0.123456789"),
        builders.adjustment("void", early),
        builders.adjustment("adjustment", {"data": {**settled}}, units=-1, reason='why: "\u2713"'),
        gift,
        builders.adjustment("void", gift["adjustment_id"], account_id=account_id),
        builders.adjustment(failures=2, account_id=account_id, occurred_at="2026-02-28T23:59:59.999999-01:00"),
    ):
        answer = await ledger.http.post("/v1/adjustments", json=one)
        assert answer.status_code == 200, answer.text


async def _closings(ledger: Client) -> None:
    """For one account, then for all, and what comes before, between and after."""
    late = [completed(account_id="apex", time=f"2026-0{month}-15T12:00:00Z") for month in (1, 2, 3, 4, 5)]
    await _put(ledger, "/v1/accounts/apex/periods/2025-12:close", {"reason": "the books"})
    await ledger.send(late[0])
    for number, path in enumerate(("/v1/accounts/apex/periods/2026-02:close", "/v1/periods/2026-03:close")):
        await _put(ledger, path, {"reason": "the books"})
        await ledger.send(*late[1 + 2 * number : 3 + 2 * number])
    await ledger.http.post("/v1/adjustments", json=builders.adjustment("void", late[0]))


async def _leases(ledger: Client, account_id: str) -> None:
    """One that is used up and beyond, one that was returned with something left, and outcomes before and after each."""
    later = new_id()
    await ledger.send({**completed(account_id=account_id), "leaseid": later})
    for number, lease_id in enumerate((later, new_id())):
        body = builders.lease(lease_id=lease_id, account_id=account_id, calls=3, quantity=4, estimated_cost="0.1")
        lease = (await ledger.http.post("/v1/leases", json=body)).json()
        assert lease["allowed"], lease
        drawn = [completed(account_id=account_id, cost=cost) for cost in ("0.02", "0", "0.3")[: 3 - number]]
        foreign = completed(account_id=account_id, user_id="bob")
        await ledger.send(
            *(
                {**event, "leaseid": lease_id if account_id == "acme" else f"urn:uuid:{lease_id}"}
                for event in [*drawn, foreign]
            )
        )
        if number:
            back = await ledger.http.post(f"/v1/leases/{lease_id}:return", json={"token": lease["token"]})
            assert back.status_code == 200, back.text
            await ledger.send({**completed(account_id=account_id), "leaseid": lease_id})


async def _sources(ledger: Client) -> None:
    """Three journals, each with holes, of which one is given up; of one, a number is a dead letter's."""
    for source in ("journal-1", "journal-2", "journal-3"):
        numbers = [*range(1, 70), 90, 2**62]
        await ledger.send(*(completed(account_id="sourced", source=source, sourcesequence=n) for n in numbers))
        lost = {"source": source, "first_sequence": 70, "last_sequence": 74, "reason": "its disk is gone"}
        given_up = await ledger.http.post("/v1/sources:give-up", json=lost)
        assert given_up.status_code == 200, given_up.text
    first = completed(account_id="sourced", source="journal-1", sourcesequence=80)
    answer = await ledger.send(first, {**first, "sourcesequence": 81})
    assert len(answer["rejected"]) == 1


async def _put(ledger: Client, path: str, body: Body) -> None:
    answer = await ledger.http.put(path, json=body)
    assert answer.status_code == 200, f"{path}: {answer.text}"
