"""Corrections: what limits, totals, the usage log and the log make of them."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from contracts.usage_answers import UsageLogPage
from ledger_service.store.usage import SQL
from tests import builders
from tests.builders import Body, adjustment, check, completed, failed, limit, new_id
from tests.property.projections import assert_projections_agree, replayed
from tests.rebuilds import assert_agrees_with_the_log, everything, rebuilt
from tests.servers import Client, Ledger, eventually

Database = asyncpg.Connection


async def adjust(ledger: Client, body: Body, status: int = 200) -> Body:
    answer = await ledger.http.post("/v1/adjustments", json=body)
    assert answer.status_code == status, answer.text
    found: Body = answer.json()
    return found


async def test_a_void_takes_an_operation_back_and_its_limit_has_room_at_once(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    await ledger.set_up(limit(maximum=1), limit("spend", meter="cost", maximum="1"))
    asked = check(estimated_cost="0.04", project_id="p1")
    assert (await ledger.check(asked))["allowed"]
    event = completed(asked, quantity=3)
    await ledger.send(event)
    assert not (await ledger.check(check(estimated_cost="0.04")))["allowed"]

    said = await adjust(ledger, adjustment("void", event))

    assert (said["calls"], said["units"], said["failures"], said["cost"]) == (-1, -3, 0, "-0.040000000")
    assert (said["cost_before"], said["cost_after"], said["author"]) == ("0.040000000", "0.000000000", "tests")
    assert (said["user_id"], said["project_id"], said["corrects"]) == ("ada", "p1", asked["operation_id"])
    assert (await ledger.usage())["totals"] == {"calls": 0, "units": 0, "cost": "0.000000000", "failures": 0}
    assert (await ledger.limit())["settled"] == 0
    assert (await ledger.check(check(estimated_cost="0.04")))["allowed"]
    assert (await adjust(ledger, adjustment("void", event), 409))["code"] == "already_voided"
    assert (await adjust(ledger, adjustment("rerate", event, cost="1"), 409))["code"] == "already_voided"
    assert (await adjust(ledger, adjustment("adjustment", event, calls=1), 409))["code"] == "already_voided"
    await assert_projections_agree(database, await replayed(database, {"acme"}), {"acme"})
    await assert_agrees_with_the_log(database_url, "acme")


async def test_history_stays_readable_at_the_old_and_the_new_price(ledger: Ledger) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1"))
    event = completed(cost="0.04")
    await ledger.send(event)
    first = await adjust(ledger, adjustment("rerate", event, cost="0.06", reason="a wrong price"))
    second = await adjust(ledger, adjustment("rerate", event, cost="0.01"))
    assert [(one["cost_before"], one["cost_after"], one["cost"]) for one in (first, second)] == [
        ("0.040000000", "0.060000000", "0.020000000"),
        ("0.060000000", "0.010000000", "-0.050000000"),
    ]
    items = (await ledger.usage_log())["items"]
    rows = {item["operation_id"]: item for item in items}
    assert rows[event["data"]["operation_id"]]["cost"] == "0.040000000"
    assert "adjustment" not in rows[event["data"]["operation_id"]]
    shown = rows[first["adjustment_id"]]
    assert (shown["outcome"], shown["cost"], shown["quantity"]) == ("adjustment", "0.020000000", 0)
    assert shown["adjustment"] == {
        "kind": "rerate",
        "reason": "a wrong price",
        "author": "tests",
        "reference": {"operation_id": event["data"]["operation_id"], "adjustment_id": None},
        "corrects": event["data"]["operation_id"],
        "cost_before": "0.040000000",
        "cost_after": "0.060000000",
        "repricing_id": None,
        "price": None,
        "calls": 0,
        "units": 0,
        "failures": 0,
    }
    assert (await ledger.limit("spend"))["settled"] == "0.010000000"
    only = await ledger.usage_log(outcome="adjustment")
    assert {item["operation_id"] for item in only["items"]} == {first["adjustment_id"], second["adjustment_id"]}
    # To take a rating back, rate once more.
    wrong = await adjust(ledger, adjustment("void", second["adjustment_id"]), 422)
    assert wrong["errors"][0]["rule"] == "not_voidable"
    await adjust(ledger, adjustment("void", event))
    assert (await ledger.limit("spend"))["settled"] == "0.000000000"


async def test_a_free_adjustment_counts_for_whom_and_when_it_says(ledger: Ledger) -> None:
    await ledger.set_up(
        limit("all", window="lifetime", maximum=10),
        limit("edits", window="lifetime", maximum=10, selector={"operation": ["edit"]}),
        limit("month", maximum=10),
    )
    await ledger.send(completed())
    gift = adjustment(calls=-3, cost="-0.5", user_id="ada")
    await adjust(ledger, gift)
    # Less than nothing was used: that much more is allowed.
    states = {one["limit_id"]: one for one in (await ledger.usage())["limits"]}
    assert [(states[name]["settled"], states[name]["available"]) for name in ("all", "edits", "month")] == [
        (-2, 12),
        (0, 10),
        (-2, 12),
    ]
    assert (await ledger.usage())["by_operation"]["adjustment"] == {
        "calls": -3, "units": 0, "cost": "-0.500000000", "failures": 0,
    }  # fmt: skip
    await adjust(ledger, adjustment(calls=2, operation="edit", occurred_at="2026-01-31T23:30:00-02:00"))
    states = {one["limit_id"]: one for one in (await ledger.usage())["limits"]}
    assert [states[name]["settled"] for name in ("all", "edits", "month")] == [0, 2, -2]
    assert (await ledger.usage(period="2026-02"))["totals"]["calls"] == 2
    await adjust(ledger, adjustment("void", gift["adjustment_id"]))
    assert (await ledger.limit("month"))["settled"] == 1
    assert (await adjust(ledger, adjustment("void", gift["adjustment_id"]), 409))["code"] == "already_voided"


async def test_the_windows_are_those_of_what_is_corrected(ledger: Ledger, database: "Database[asyncpg.Record]") -> None:
    await ledger.set_up(limit(maximum=10))
    event = completed(time="2026-01-31T12:00:00Z")
    await ledger.send(event, completed())
    said = await adjust(ledger, adjustment("void", event))
    assert (said["occurred_at"], said["counted_at"]) == ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z")
    assert (await ledger.limit())["settled"] == 1
    assert (await ledger.usage(period="2026-01"))["totals"]["calls"] == 0
    # A limit that nobody had when it was corrected counts it all the same.
    await ledger.put_plan(limit(maximum=10), limit("ever", window="lifetime", maximum=10))
    assert (await ledger.limit("ever"))["settled"] == 1


async def test_an_adjustment_raises_alerts(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=10, thresholds=[50]))
    assert (await ledger.check(check()))["allowed"]
    await adjust(ledger, adjustment(calls=4))
    alerts = (await ledger.http.get("/v1/accounts/acme/alerts")).json()["alerts"]
    assert [(one["threshold_percent"], one["limit_id"]) for one in alerts] == [(50, "images")]


async def test_repeats_change_nothing_and_another_body_is_refused(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    event = completed()
    await ledger.send(event)
    body = adjustment("void", event)
    answers = await asyncio.gather(*(ledger.http.post("/v1/adjustments", json=body) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert (await adjust(ledger, {**body, "reason": "another"}, 409))["code"] == "conflict"
    taken = await adjust(ledger, {**adjustment(calls=1), "adjustment_id": event["id"]}, 409)
    assert taken["code"] == "conflict"
    outcome = await adjust(ledger, {**adjustment(calls=1), "adjustment_id": event["data"]["operation_id"]}, 409)
    assert outcome["code"] == "conflict"
    many = await asyncio.gather(
        *(ledger.http.post("/v1/adjustments", json=adjustment("void", event)) for _ in range(4))
    )
    assert {answer.status_code for answer in many} == {409}
    assert await database.fetchval("select count(*) from event_log where type like 'ledger.adjustment.%'") == 1
    assert (await ledger.usage())["totals"]["calls"] == 0


async def test_corrections_race_with_ingest_and_both_count(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    await ledger.set_up(limit(maximum=1000))
    first = [completed(time="2026-03-05T12:00:00Z", model=f"m{number % 3}") for number in range(24)]
    await ledger.send(*first)

    async def more(number: int) -> None:
        kinds = [f"m{(number + step) % 4}" for step in range(4)]
        await ledger.send(*(completed(time="2026-03-05T12:00:00Z", model=model) for model in kinds))

    await asyncio.gather(
        *(more(number) for number in range(24)),
        *(adjust(ledger, adjustment("void", event)) for event in first),
        *(adjust(ledger, adjustment(calls=1, model="m3", occurred_at="2026-03-05T12:00:00Z")) for _ in range(8)),
    )
    assert (await ledger.usage(period="2026-03"))["totals"]["calls"] == 24 * 4 + 8
    await assert_projections_agree(database, await replayed(database, {"acme"}), {"acme"})
    await assert_agrees_with_the_log(database_url, "acme")


async def test_corrections_take_totals_before_the_account_as_ingest_does(ledger: Ledger, database_url: str) -> None:
    """The other way round, each would wait for what the other has."""
    event = completed()
    await ledger.send(event)
    ingest, watching = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    try:
        async with ingest.transaction():
            await ingest.execute("update usage_summary set calls = calls")
            correcting = asyncio.create_task(adjust(ledger, adjustment("void", event)))
            waits = "select exists (select from pg_locks where not granted)"
            await eventually(lambda: watching.fetchval(waits), "the correction waits for the totals")
            await ingest.execute("select from accounts where account_id = 'acme' for no key update nowait")
        await correcting
    finally:
        await ingest.close()
        await watching.close()


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        (adjustment(), "cost", "nothing_to_adjust"),
        (adjustment(calls=0, cost="0"), "cost", "nothing_to_adjust"),
        (adjustment(cost=0.5), "cost", "money_string"),
        (adjustment(cost="1e9"), "cost", "less_than_equal"),
        (adjustment(calls=10**10), "calls", "less_than_equal"),
        (adjustment(calls=True), "calls", "int_type"),
        (adjustment(calls=1, account_id="a b"), "account_id", "string_pattern_mismatch"),
        (adjustment(calls=1, reason=""), "reason", "string_too_short"),
        (adjustment(calls=1, author="me"), "author", "extra_forbidden"),
        (adjustment(calls=1, kind="gift"), "kind", "enum"),
        (adjustment(calls=1, occurred_at=1), "occurred_at", "time_rfc3339"),
        (adjustment("void"), "reference", "missing"),
        (adjustment("void", reference={}), "reference", "reference"),
        (adjustment("void", new_id(), cost="1"), "cost", "not_with_this"),
        (adjustment("rerate", new_id(), cost="1"), "reference.operation_id", "missing"),
        (adjustment("rerate", completed()), "cost", "cost"),
        (adjustment("rerate", completed(), cost="-1"), "cost", "cost"),
        (adjustment("adjustment", completed(), cost="1", user_id="x"), "user_id", "not_with_this"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_bad_adjustment_is_refused_at_its_field(refusing: Ledger, body: Body, field: str, rule: str) -> None:
    said = await adjust(refusing, body, 422)
    assert (said["errors"][0]["field"], said["errors"][0]["rule"]) == (field, rule)


async def test_what_there_is_not_cannot_be_corrected(ledger: Ledger, database: "Database[asyncpg.Record]") -> None:
    await ledger.send(completed())
    asked = check()
    await ledger.set_up(limit())
    await ledger.check(asked)
    unknown: list[Body] = [
        adjustment("void", completed()),
        adjustment("void", new_id()),
        adjustment("void", completed(asked)),  # held, and not finished
        {**adjustment("void", new_id()), "account_id": "nobody"},
    ]
    for body in unknown:
        said = await adjust(ledger, body, 404)
        assert said["errors"][0]["field"].startswith("reference.")
    assert await database.fetchval("select count(*) from accounts where account_id = 'nobody'") == 0


async def test_producers_cannot_send_adjustments(ledger: Ledger) -> None:
    event = completed()
    await ledger.send(event)
    said = await adjust(ledger, adjustment("void", event))
    forged = {**completed(), "type": "ledger.adjustment.recorded.v1", "id": new_id()}
    answer = await ledger.send_one(forged)
    assert answer.status_code == 422, answer.text
    assert said["calls"] == -1
    assert (await ledger.usage())["totals"]["calls"] == 0


async def test_a_total_that_would_not_fit_is_refused_whole(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    await database.execute(
        "insert into usage_summary (account_id, period, operation, provider, model, calls, units, cost_nanos, "
        "failures) values ('acme', '2026-01-01', 'adjustment', 'adjustment', 'adjustment', $1, 0, 0, 0)",
        2**63 - 1,
    )
    said = await adjust(ledger, adjustment(calls=1, occurred_at="2026-01-05T00:00:00Z"), 422)
    assert said["code"] == "invalid_request"
    assert await database.fetchval("select count(*) from event_log") == 0


async def test_a_rebuild_brings_corrections_back(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    await ledger.set_up(limit(maximum=100, window="lifetime"))
    asked = check(estimated_cost="0.5")
    await ledger.check(asked)
    event, other = completed(asked), failed(cost="0.3")
    await ledger.send(event, other)
    await adjust(ledger, adjustment("rerate", event, cost="0.25", reason="ü \u0001 \\u2713 and more"))
    await adjust(ledger, adjustment("void", other))
    await adjust(ledger, adjustment(calls=-2, occurred_at="2026-10-31T23:59:59.123456+00:00"))
    before = await everything(database)
    assert (await rebuilt(database_url)).replaced == {}
    await database.execute(
        "delete from usage_log where outcome = 'adjustment'; update usage_summary set calls = 7; "
        "update counters set settled = 7"
    )
    assert (await rebuilt(database_url)).replaced
    assert await everything(database) == before


async def test_reports_know_corrections(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=100))
    asked = [check(estimated_cost="0.10") for _ in range(3)]
    events = [completed(one, cost="0.10") for one in asked]
    for one in asked:
        await ledger.check(one)
    await ledger.send(*events)
    await adjust(ledger, adjustment("rerate", events[0], cost="0.30"))
    await adjust(ledger, adjustment("void", events[1]))
    line = (await ledger.http.get("/v1/reports/estimates")).json()["lines"][0]
    assert (line["operations"], line["held"], line["settled"]) == (2, "0.200000000", "0.400000000")
    # What was used before a replay begins is what it came to.
    now = datetime.now(UTC)
    body: dict[str, Any] = {
        "from": now.isoformat(),
        "to": (now + timedelta(days=1)).isoformat(),
        "plan": builders.plan(limit("images", window="lifetime", maximum=3)),
        "account_id": "acme",
    }
    await ledger.send(*(completed(time=now + timedelta(seconds=1)) for _ in range(2)))
    lines = (await ledger.http.post("/v1/limits:backtest", json=body)).text.splitlines()
    assert json.loads(lines[-1])["result"]["total"]["would_deny"] == 1


async def test_corrections_of_all_accounts_are_listed_as_they_were_recorded(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    events = [completed(account_id=account, cost="1.00") for account in ("a", "b", "c")]
    await ledger.send(*events)
    bodies = [adjustment("void", event, account_id=event["subject"]) for event in events]
    free = adjustment(account_id="b", cost="-2", occurred_at="2026-01-01T00:00:00Z")
    for body in (*bodies, free):
        await adjust(ledger, body)
    rows = (await ledger.http.get("/v1/adjustments")).json()
    # The last one happened long before the others.
    made = [body["adjustment_id"] for body in (free, *reversed(bodies))]
    assert ([one["operation_id"] for one in rows["items"]], rows["next_cursor"]) == (made, None)
    log = (await ledger.http.get("/v1/accounts/b/usage-log", params={"outcome": "adjustment"})).json()["items"]
    assert rows["items"][0] in log
    UsageLogPage.model_validate(rows)

    async def listed(**asked: Any) -> list[str]:
        """Page by page, of one row each."""
        found: list[str] = []
        while True:
            page = (await ledger.http.get("/v1/adjustments", params={**asked, "limit": 1})).json()
            found += [one["operation_id"] for one in page["items"]]
            if page["next_cursor"] is None:
                return found
            asked["cursor"] = page["next_cursor"]

    assert await listed() == made
    assert await listed(account_id="b") == [made[0], made[2]]
    assert await listed(kind="void") == made[1:]
    assert await listed(kind=["void", "adjustment"]) == made
    author = rows["items"][0]["adjustment"]["author"]
    assert (await listed(author=author), await listed(author="nobody")) == (made, [])
    second, third = rows["items"][2]["recorded_at"], rows["items"][1]["recorded_at"]
    assert await listed(**{"from": second, "to": third}) == [made[2]]
    for wrong, field in (
        ({"from": "2026-02-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "query.to"),
        ({"from": "yesterday"}, "query.from"),
        ({"kind": "gift"}, "query.kind[0]"),
        ({"cursor": "x"}, "query.cursor"),
        ({"who": "ada"}, "query.who"),
    ):
        refused = await ledger.http.get("/v1/adjustments", params=wrong)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)

    # However many operations there are: row by row from the index of what is corrected, until a page is full.
    await database.execute("set enable_seqscan = off; set plan_cache_mode = force_generic_plan")
    types = "timestamptz, timestamptz, text[], text, timestamptz, text, uuid, bigint"
    await database.execute(f"prepare listed ({types}) as {SQL['corrections']}")
    plan = await database.fetch("explain execute listed (null, null, null, null, null, null, null, 100)")
    steps = "\n".join(row[0] for row in plan)
    assert "Index Scan Backward using usage_log_corrections" in steps, steps
    assert "Sort" not in steps
