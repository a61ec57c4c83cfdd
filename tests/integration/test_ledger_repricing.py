"""Repricing: what it would change, what it changes, and that it changes that once."""

import asyncio
import json

import asyncpg

from tests.builders import Body, adjustment, check, completed, failed, limit, new_id
from tests.commands import ledger_command
from tests.property.projections import assert_projections_agree, replayed
from tests.rebuilds import assert_agrees_with_the_log
from tests.servers import Ledger

Database = asyncpg.Connection
WHO = ("--author", "grace", "--reason", "the price was wrong")


def price(*variants: Body, **fields: str) -> Body:
    return {"unit": "image", "valid_from": "2026-01-01T00:00:00Z", "variants": list(variants), **fields}


async def put_price(ledger: Ledger, model: str, body: Body) -> None:
    answer = await ledger.http.put(f"/v1/prices/local/generate/{model}", json=body)
    assert answer.status_code == 200, answer.text


def wanted(**fields: object) -> Body:
    begin, end = "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"
    return {"repricing_id": new_id(), "from": begin, "to": end, "reason": "the price was wrong", **fields}


async def reprice(ledger: Ledger, body: Body) -> Body:
    answer = await ledger.http.post("/v1/repricings", json=body)
    assert answer.status_code == 200, answer.text
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert all(list(line) == ["progress"] for line in lines[:-1])
    found: Body = lines[-1]["result"]
    return found


async def sold(ledger: Ledger) -> list[Body]:
    """Two accounts and two days at 0.04; then the price turns out to have been 0.03."""
    await ledger.set_up(limit("spend", meter="cost", window="lifetime", maximum="100"))
    await put_price(ledger, "render-1", price({"price": "0.04"}))
    await put_price(
        ledger, "sized", price({"when": {"size": 1}, "price": "0.01"}, {"when": {"size": 2}, "price": "0.02"})
    )
    events = [
        completed(cost="0.04", time="2026-03-01T12:00:00Z"),
        completed(cost="0.08", quantity=2, time="2026-03-02T23:59:59Z"),
        completed(cost="0.04", time="2026-03-02T12:00:00Z", account_id="apex"),
        completed(cost="0.03", time="2026-03-02T12:00:00Z", account_id="apex"),
        completed(cost="0.04", time="2025-03-02T12:00:00Z"),  # before
        failed(cost="0.04", time="2026-03-02T12:00:00Z"),
        completed(cost="0.04", time="2026-03-02T12:00:00Z", model="unknown"),
        completed(cost="0.04", time="2026-03-02T12:00:00Z", model="sized"),
        completed(cost="0.04", time="2026-03-02T12:00:00Z"),
    ]
    sized = check(model="sized", attributes={"size": 2})
    await ledger.check(sized)
    await ledger.send(*events, completed(sized, cost="0.05"))
    answer = await ledger.http.post("/v1/adjustments", json=adjustment("void", events[-1]))
    assert answer.status_code == 200, answer.text
    await put_price(ledger, "render-1", price({"price": "0.03"}))
    return events


async def test_a_dry_run_says_what_would_change_and_then_it_changes_once(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    events = await sold(ledger)
    before = await database.fetchval("select count(*) from event_log")
    spent = (await ledger.limit("spend"))["settled"]

    dry = await reprice(ledger, wanted())

    assert await database.fetchval("select count(*) from event_log") == before
    assert dry["total"] == {
        "operations": 4, "before": "0.210000000", "after": "0.140000000", "difference": "-0.070000000",
    }  # fmt: skip
    assert [(one["account_id"], one["difference"]) for one in dry["by_account"]] == [
        ("acme", "-0.060000000"),
        ("apex", "-0.010000000"),
    ]
    assert {one["model"]: one["operations"] for one in dry["by_model"]} == {"render-1": 3, "sized": 1}
    assert [one["day"] for one in dry["by_day"]][:2] == ["2026-03-01", "2026-03-02"]
    kept = {name: dry[name] for name in ("looked_at", "unchanged", "voided", "unpriced", "ambiguous", "earlier")}
    assert kept == {"looked_at": 8, "unchanged": 1, "voided": 1, "unpriced": 1, "ambiguous": 1, "earlier": 0}

    body = wanted(dry_run=False)
    done = await reprice(ledger, body)
    assert (done["applied"], done["total"]) == (True, dry["total"])
    assert spent == "0.330000000"
    assert (await ledger.limit("spend"))["settled"] == "0.270000000"
    rows = (await ledger.usage_log(outcome="adjustment", to="2026-03-02T00:00:00Z"))["items"]
    shown = rows[0]["adjustment"]
    assert shown["reference"]["operation_id"] == events[0]["data"]["operation_id"]
    assert (shown["cost_before"], shown["cost_after"], shown["repricing_id"]) == (
        "0.040000000",
        "0.030000000",
        body["repricing_id"],
    )
    assert shown["price"]["unit_price"] == "0.030000000"

    # Again, also where somebody else has rated one since: this repricing adds nothing.
    assert (await reprice(ledger, body))["total"]["operations"] == 0
    back = await ledger.http.post("/v1/adjustments", json=adjustment("rerate", events[0], cost="0.07"))
    assert back.status_code == 200, back.text
    again = await reprice(ledger, body)
    assert (again["total"]["operations"], again["earlier"]) == (0, 1)
    other = await ledger.http.post("/v1/repricings", json={**body, "reason": "another"})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    await put_price(ledger, "render-1", price({"price": "0.02"}))
    later = await ledger.http.post("/v1/repricings", json=body)
    assert (later.status_code, "prices have changed" in later.json()["detail"]) == (409, True)
    for account_id in ("acme", "apex"):
        await assert_projections_agree(database, await replayed(database, {account_id}), {account_id})
        await assert_agrees_with_the_log(database_url, account_id)


async def test_what_others_billed_before_a_fallback_did_it_stays(ledger: Ledger) -> None:
    await ledger.set_up(limit("spend", meter="cost", window="lifetime", maximum="100"))
    await put_price(ledger, "render-1", price({"price": "0.03"}))
    calls = [
        {"provider": "other", "model": "big", "cost": "0.50"},
        {"provider": "local", "model": "render-1", "cost": "0.04"},
    ]
    fallback: Body = {
        "provider": "other", "actual_provider": "local", "retry_count": 1, "metadata": {"provider_calls": calls}
    }  # fmt: skip
    await ledger.send(completed(cost="0.54", time="2026-03-01T12:00:00Z", **fallback))
    # These do not say all of it: the cost is taken to be that of the one which did it.
    await ledger.send(completed(cost="0.64", time="2026-03-01T12:00:00Z", **fallback))
    done = await reprice(ledger, wanted(dry_run=False))
    assert done["total"] == {
        "operations": 2, "before": "1.180000000", "after": "0.560000000", "difference": "-0.620000000",
    }  # fmt: skip
    assert (await ledger.limit("spend"))["settled"] == "0.560000000"


async def test_filters_choose_and_what_breaks_off_goes_on(ledger: Ledger, database: "Database[asyncpg.Record]") -> None:
    await ledger.set_up(limit(maximum=10_000))
    await put_price(ledger, "render-1", price({"price": "0.03"}))
    await ledger.send(*(completed(cost="0.04", time="2026-03-01T12:00:00Z", model=f"m{n % 2}") for n in range(20)))
    for account_id in ("a1", "a2", "a3"):
        await ledger.send(*(completed(account_id=account_id, time="2026-03-01T12:00:00Z") for _ in range(300)))
    one = await reprice(ledger, wanted(account_id="a2"))
    assert (one["looked_at"], one["total"]["operations"]) == (300, 300)
    none = await reprice(ledger, wanted(provider="far"))
    assert (none["looked_at"], none["by_day"]) == (0, [])

    body = wanted(dry_run=False, model="render-1")
    async with ledger.http.stream("POST", "/v1/repricings", json=body) as answer:
        await anext(answer.aiter_lines())
    # Gone before its end: nobody reads what it does.
    while (rest := await ledger.http.post("/v1/repricings", json=body)).status_code != 200:
        assert rest.json()["code"] == "overloaded", rest.text
        await asyncio.sleep(0.05)
    assert "result" in json.loads(rest.text.splitlines()[-1]), rest.text
    assert await database.fetchval("select count(*) from usage_log where outcome = 'adjustment'") == 900
    assert (await ledger.usage("a3", period="2026-03"))["totals"]["cost"] == "9.000000000"


async def test_bad_repricings_are_refused(ledger: Ledger) -> None:
    for body, field in (
        (wanted(to="2026-01-01T00:00:00Z"), "to"),
        (wanted(reason=""), "reason"),
        (wanted(dry_run="no"), "dry_run"),
        (wanted(model="'; drop table usage_log"), "model"),
    ):
        answer = await ledger.http.post("/v1/repricings", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    unknown = await ledger.http.post("/v1/repricings", json=wanted(account_id="nobody"))
    assert (unknown.status_code, unknown.json()["errors"][0]["field"]) == (404, "account_id")


async def test_the_commands_adjust_and_reprice(ledger: Ledger, database_url: str) -> None:
    events = await sold(ledger)
    days = ("--from", "2026-01-01", "--to", "2027-01-01", *WHO)
    dry = await ledger_command(database_url, "reprice", *days)
    assert dry.exit_code == 0, dry.stderr
    assert "of 8 operations 4 would change, from $0.210000000 to $0.140000000: -0.070000000" in dry.stdout
    assert "local/generate/render-1" in dry.stdout
    assert "nothing was changed" in dry.stderr
    done = await ledger_command(database_url, "reprice", *days, "--apply", "--json", "--account", "apex")
    assert json.loads(done.stdout)["result"]["total"]["operations"] == 1, done.stderr

    of = events[0]["data"]["operation_id"]
    common = ("--account", "acme", *WHO)
    void = await ledger_command(database_url, "adjust", "void", "--of", of, *common)
    assert (void.exit_code, "comes to $0.000000000 now" in void.stderr) == (0, True)
    again = await ledger_command(database_url, "adjust", "void", "--of", of, *common)
    assert (again.exit_code, "was taken back already" in again.stderr) == (1, True)
    gift = await ledger_command(database_url, "adjust", "adjustment", "--cost", "-0.25", "--json", *common)
    assert json.loads(gift.stdout)["cost"] == "-0.250000000"
    for arguments, word in (
        (("adjust", "gift", *common), "kind"),
        (("adjust", "adjustment", "--cost", "x", *common), "cost"),
        (("adjust", "void", *common), "reference"),
        (("reprice", "--from", "2026-02-01", "--to", "2026-01-01", *WHO), "to"),
        (("reprice", *days, "--account", "nobody"), "nobody"),
    ):
        told = await ledger_command(database_url, *arguments)
        assert told.exit_code != 0, arguments
        assert word in told.stderr, arguments
