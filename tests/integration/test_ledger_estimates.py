"""How far off holds are: what checks held as cost beside what was settled."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import Result

from tests.builders import ABSENT, Body, at, check, completed, failed, limit, new_id
from tests.commands import ledger_command
from tests.servers import Ledger

PATH = "/v1/reports/estimates"


async def done(ledger: Ledger, held: str | None, cost: str, **fields: Any) -> str:
    """An operation that was checked, ran and cost; its id. ``held``: the check's estimate; None = no check."""
    outcome = fields.pop("outcome", completed)
    when = fields.pop("time", None)
    asked = check(estimated_cost=held, **fields) if held is not None else check(**fields)
    if held is not None:
        assert (await ledger.check(asked))["allowed"]
    event = outcome(asked, cost=cost, time=when)
    assert (await ledger.send(event))["accepted"] == 1
    operation_id: str = asked["operation_id"]
    return operation_id


async def report(ledger: Ledger, **query: str) -> Body:
    answer = await ledger.http.get(PATH, params=query)
    assert answer.status_code == 200, answer.text
    found: Body = answer.json()
    return found


async def line(ledger: Ledger, **query: str) -> Body:
    [found] = (await report(ledger, **query))["lines"]
    return dict(found)


@pytest.fixture
async def spending(ledger: Ledger) -> Ledger:
    await ledger.set_up(limit("spend", meter="cost", maximum="1000"))
    return ledger


async def test_a_line_sets_what_was_held_beside_what_was_settled(spending: Ledger) -> None:
    for cost in ("0.02", "0.04", "0.04", "0.05"):
        await done(spending, "0.04", cost)
    worst = await done(spending, "0.04", "0.10")
    assert await line(spending) == {
        "provider": "local",
        "model": "render-1",
        "operation": "generate",
        "operations": 5,
        "held": "0.200000000",
        "settled": "0.250000000",
        "ratio": 1.25,
        "p50": 1.0,
        "p95": 2.5,
        "held_at_nothing": 0,
        "above": 2,
        "worst_above": "0.060000000",
        "worst_account_id": "acme",
        "worst_operation_id": worst,
    }


async def test_percentiles_are_those_of_single_operations(spending: Ledger) -> None:
    """Twenty: the median is the tenth, p95 the nineteenth."""
    for number in range(20, 0, -1):
        await done(spending, "0.10", f"0.{number:02}")
    found = await line(spending)
    assert (found["p50"], found["p95"], found["ratio"], found["above"]) == (1.0, 1.9, 1.05, 10)


async def test_ratios_are_rounded_and_money_is_exact(spending: Ledger) -> None:
    await done(spending, "0.000000003", "0.000000001")
    await done(spending, "900.000000001", "0.000000002")
    found = await line(spending)
    assert (found["held"], found["settled"]) == ("900.000000004", "0.000000003")
    assert (found["p95"], found["p50"], found["ratio"]) == (0.3333, 0.0, 0.0)


async def test_holds_that_were_never_settled_say_nothing(spending: Ledger) -> None:
    await done(spending, "0.04", "0.04")
    await done(spending, None, "5")
    await done(spending, "0.04", "0", outcome=failed)
    await spending.check(check(estimated_cost="7"))
    released = check(estimated_cost="8")
    await spending.check(released)
    await spending.release(released["operation_id"])
    found = await line(spending)
    assert (found["operations"], found["held"], found["settled"]) == (1, "0.040000000", "0.040000000")


async def test_a_failure_that_was_billed_counts(spending: Ledger) -> None:
    await done(spending, "0.04", "0.01", outcome=failed)
    found = await line(spending)
    assert (found["operations"], found["held"], found["settled"]) == (1, "0.040000000", "0.010000000")


async def test_what_was_held_at_nothing_is_counted_apart_and_has_no_ratio(ledger: Ledger) -> None:
    await ledger.set_up(limit("images", maximum=100))
    await done(ledger, "0", "0.03")
    found = await line(ledger)
    assert (found["held_at_nothing"], found["above"], found["worst_above"]) == (1, 1, "0.030000000")
    assert (found["ratio"], found["p50"], found["p95"]) == (None, None, None)
    await done(ledger, "0.02", "0.01")
    found = await line(ledger)
    assert (found["operations"], found["held_at_nothing"], found["p50"], found["ratio"]) == (2, 1, 0.5, 2.0)


async def test_an_estimate_that_is_the_catalogues_worst_case(spending: Ledger) -> None:
    body = {
        "valid_from": "2026-01-01T00:00:00Z",
        "variants": [{"when": {"q": "hd"}, "price": "0.08"}, {"price": "0.04"}],
    }
    assert (await spending.http.put("/v1/prices/local/generate/render-1", json=body)).status_code == 200
    asked = check(estimated_cost=ABSENT, quantity=3)
    assert (await spending.check(asked))["estimated_cost"] == "0.240000000"
    await spending.send(completed(asked, cost="0.12"))
    found = await line(spending)
    assert (found["held"], found["settled"], found["ratio"]) == ("0.240000000", "0.120000000", 0.5)


async def test_lines_are_by_the_provider_that_was_asked_for_its_model_and_the_operation(spending: Ledger) -> None:
    for provider, model, operation in (
        ("a", "m", "generate"), ("a", "m", "generate"), ("a", "m", "edit"), ("a", "n", "edit"), ("b", "m", "edit"),
    ):  # fmt: skip
        await done(spending, "1", "0.5", provider=provider, model=model, operation=operation)
    fell_back = check(estimated_cost="1", provider="b", model="m", operation="edit")
    await spending.check(fell_back)
    await spending.send(completed(fell_back, cost="2", actual_provider="a"))
    lines = (await report(spending))["lines"]
    shown = [(one["provider"], one["model"], one["operation"], one["operations"], one["above"]) for one in lines]
    assert shown == [
        ("a", "m", "edit", 1, 0), ("a", "m", "generate", 2, 0), ("a", "n", "edit", 1, 0), ("b", "m", "edit", 2, 1),
    ]  # fmt: skip


async def test_accounts_together_or_one_alone(spending: Ledger) -> None:
    await spending.put_account("other")
    await done(spending, "1", "1")
    await done(spending, "1", "3", account_id="other")
    both = await line(spending)
    assert (both["operations"], both["worst_account_id"], both["worst_above"]) == (2, "other", "2.000000000")
    assert (await line(spending, account_id="acme"))["settled"] == "1.000000000"
    assert (await report(spending, account_id="nobody"))["lines"] == []


async def test_times_are_half_open(spending: Ledger) -> None:
    for hour in (10, 11, 12):
        await done(spending, "1", f"{hour}", time=at(f"2026-11-05 {hour}:00"))
    found = await line(spending, **{"from": "2026-11-05T10:00:00Z", "to": "2026-11-05T13:00:00+01:00"})
    assert (found["operations"], found["settled"]) == (2, "21.000000000")
    answer = await report(spending, **{"from": "2026-11-05T12:00:00.000001Z", "to": "2026-11-06T00:00:00Z"})
    assert (answer["lines"], answer["start"], answer["end"]) == (
        [], "2026-11-05T12:00:00.000001Z", "2026-11-06T00:00:00Z",
    )  # fmt: skip


async def test_the_last_thirty_days_unless_told_otherwise(spending: Ledger) -> None:
    now = datetime.now(UTC)
    for days in (1, 29, 31, 45):
        await done(spending, "1", f"{days}", time=now - timedelta(days=days))
    assert (await line(spending))["settled"] == "30.000000000"
    assert (await line(spending, to=(now - timedelta(days=30)).isoformat()))["settled"] == "76.000000000"
    assert (await line(spending, **{"from": (now - timedelta(days=60)).isoformat()}))["settled"] == "106.000000000"


async def test_a_query_of_the_wrong_shape_is_refused_and_named(ledger: Ledger) -> None:
    for query, field in (
        ({"from": "2026-11-01"}, "query.from"),
        ({"from": "2026-11-01T00:00:00"}, "query.from"),
        ({"from": "0001-01-01T00:00:00+14:00"}, "query.from"),
        ({"to": "9999-12-31T23:59:59-14:00"}, "query.to"),
        ({"to": "5"}, "query.to"),
        ({"account_id": "a b"}, "query.account_id"),
        ({"from": "2026-11-02T00:00:00Z", "to": "2026-11-02T00:00:00Z"}, "query.to"),
        ({"from": "2026-11-02T00:00:00Z", "to": "2026-11-01T00:00:00Z"}, "query.to"),
    ):
        answer = await ledger.http.get(PATH, params=query)
        assert (answer.status_code, [error["field"] for error in answer.json()["errors"]]) == (422, [field]), query


async def test_the_report_as_a_table(spending: Ledger, database_url: str) -> None:
    await done(spending, "0.04", "0.05")
    await done(spending, "1", "1", time=at("2026-01-05"), model=f"m{new_id()[:8]}")

    async def run(*arguments: str) -> Result:
        return await ledger_command(database_url, "report", "estimates", *arguments)

    shown = await run()
    assert shown.exit_code == 0, shown.stderr
    [row] = [text.split() for text in shown.stdout.splitlines() if "local" in text]
    assert [cell for cell in row if cell != "│"] == [
        "local", "render-1", "generate", "1", "0.040000000", "0.050000000", "1.2500", "1.2500", "1.2500", "0", "1",
        "0.010000000",
    ]  # fmt: skip
    assert (await run("--from", "2026-01-01", "--to", "2026-02-01")).stdout.count("local") == 1
    assert (await run("--account-id", "nobody")).stdout.count("local") == 0
    assert (await run("--from", "2026-02-01", "--to", "2026-01-01")).exit_code == 2
    assert (await run("--from", "soon")).exit_code == 2
