"""Thresholds of limits: each raises one alert a window, whatever makes it reached, and however many are at it."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from contracts.explained_answers import RaisedAlerts
from tests import builders
from tests.builders import Body, completed, failed, limit
from tests.conftest import StartLedger
from tests.servers import Ledger

Database = asyncpg.Connection
LAST_MONTH = (
    *(
        f"update {table} set period_start = period_start - interval '1 month',"
        " period_end = period_end - interval '1 month'"
        for table in ("counters", "limit_alerts")
    ),
    "update decisions set decided_at = decided_at - interval '1 month'",
    "update usage_log set counted_at = counted_at - interval '1 month'",
)


async def alerts(ledger: Ledger, **query: Any) -> list[Body]:
    """Oldest first."""
    answer = await ledger.http.get(f"/v1/accounts/{builders.ACCOUNT}/alerts", params=query)
    assert answer.status_code == 200, answer.text
    RaisedAlerts.model_validate_json(answer.content, extra="forbid")
    return list(reversed(answer.json()["alerts"]))


async def raised(ledger: Ledger) -> list[tuple[int, int | str]]:
    """Percent and use of each alert, by percent within what was raised at once."""
    return [(alert["threshold_percent"], alert["used"]) for alert in await alerts(ledger)]


async def check_many(ledger: Ledger, count: int, **fields: Any) -> int:
    """How many of them were admitted."""
    return sum([(await ledger.check(builders.check(**fields)))["allowed"] for _ in range(count)])


# --- what raises them ---


async def test_each_threshold_is_raised_once_by_holds(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=10, thresholds=[50, 75, 100]))
    assert await check_many(ledger, 4) == 4
    assert await raised(ledger) == []
    assert await check_many(ledger, 8) == 6
    assert await raised(ledger) == [(50, 5), (75, 8), (100, 10)]


async def test_the_highest_threshold_of_the_largest_limit_hinders_no_check(ledger: Ledger) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1000000000", thresholds=[1000]))
    assert await check_many(ledger, 2, estimated_cost="1") == 2
    assert await raised(ledger) == []


async def test_an_alert_is_an_event_that_says_what_was_reached(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1", thresholds=[80]))
    before = datetime.now(UTC)
    await ledger.check(builders.check(estimated_cost="0.85"))
    [alert] = await alerts(ledger)
    month = before.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    assert datetime.fromisoformat(alert["period_start"]) == month
    assert datetime.fromisoformat(alert["period_end"]) == (month + timedelta(days=32)).replace(day=1)
    assert abs(datetime.fromisoformat(alert["raised_at"]) - before) < timedelta(seconds=5)
    said = ("account_id", "limit_id", "scope_key", "meter", "threshold_percent", "maximum", "used")
    assert [alert[name] for name in said] == [
        builders.ACCOUNT, "spend", "account", "cost", 80, "1.000000000", "0.850000000",
    ]  # fmt: skip
    [event] = await database.fetch(
        "select event_id::text, account_id from event_log where type = 'ledger.limit.threshold_reached.v1'"
    )
    assert tuple(event) == (alert["event_id"], builders.ACCOUNT)


async def test_one_operation_may_reach_several(ledger: Ledger) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1", thresholds=[10, 50, 90, 100]))
    await ledger.check(builders.check(estimated_cost="0.9"))
    assert await raised(ledger) == [(10, "0.900000000"), (50, "0.900000000"), (90, "0.900000000")]


async def test_a_soft_limit_warns_of_what_is_past_it(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=2, mode="soft", thresholds=[100, 150, 200]))
    assert await check_many(ledger, 5) == 5
    assert await raised(ledger) == [(100, 2), (150, 3), (200, 4)]


async def test_a_cost_above_its_estimate_raises_what_it_reaches(ledger: Ledger) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1", thresholds=[50, 80, 100, 200]))
    asked = builders.check(estimated_cost="0.1")
    await ledger.check(asked)
    assert await raised(ledger) == []
    await ledger.send(completed(asked, cost="1.2"))
    assert await raised(ledger) == [(50, "1.200000000"), (80, "1.200000000"), (100, "1.200000000")]
    await ledger.send(failed(cost="0.8"))
    assert (await raised(ledger))[3:] == [(200, "2.000000000")]


async def test_events_without_checks_raise_them_too(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=10, thresholds=[50, 80]))
    await ledger.check(builders.check())
    await ledger.send(*(completed() for _ in range(3)))
    assert await raised(ledger) == []
    await ledger.send(event := completed())
    assert await raised(ledger) == [(50, 5)]
    await ledger.send(event, event)
    await ledger.send(*(completed() for _ in range(20)))
    assert await raised(ledger) == [(50, 5), (80, 25)]


@pytest.mark.parametrize("used", [9, 10], ids=["allowed", "denied"])
async def test_what_was_used_before_the_first_check_is_raised_by_it(ledger: Ledger, used: int) -> None:
    """Before it, nobody has said what there is to look for. A denied check tells as well."""
    await ledger.set_up(limit(maximum=10, thresholds=[80, 100, 120]))
    await ledger.send(*(completed() for _ in range(used)))
    assert await raised(ledger) == []
    assert await check_many(ledger, 1) == (used < 10)
    assert await raised(ledger) == [(80, 10), (100, 10)]


async def test_dry_runs_and_denials_raise_nothing_of_their_own(ledger: Ledger) -> None:
    await ledger.set_up(limit("units", meter="units", maximum=10, thresholds=[50]))
    await check_many(ledger, 1, dry_run=True, quantity=9)
    assert await check_many(ledger, 1, quantity=11) == 0
    assert await raised(ledger) == []


# --- once, and when again ---


async def test_what_is_given_back_and_reached_again_is_not_raised_again(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=4, thresholds=[50, 100]))
    for _ in range(3):
        asked = [builders.check() for _ in range(4)]
        for one in asked:
            assert (await ledger.check(one))["allowed"]
        for one in asked:
            await ledger.release(one["operation_id"])
    assert await raised(ledger) == [(50, 2), (100, 4)]


async def test_100_checks_at_once_on_two_ledgers_raise_each_threshold_once(
    start_ledger: StartLedger, database: "Database[asyncpg.Record]"
) -> None:
    ledgers = [await start_ledger(), await start_ledger()]
    await ledgers[0].set_up(limit(maximum=60, thresholds=[1, 25, 50, 80, 90, 100, 110]))
    asked = [builders.check() for _ in range(100)]
    decisions = await asyncio.gather(*(ledgers[number % 2].check(one) for number, one in enumerate(asked)))
    assert sum(decision["allowed"] for decision in decisions) == 60
    found = await raised(ledgers[0])
    assert Counter(percent for percent, _ in found) == Counter([1, 25, 50, 80, 90, 100])
    for percent, used in found:
        assert int(used) >= 60 * percent / 100
    # Settled for more, at once and on both: nothing twice, and the one that is left.
    admitted = [one for one, decision in zip(asked, decisions, strict=True) if decision["allowed"]]
    await asyncio.gather(
        *(ledgers[number % 2].send(completed(one), completed()) for number, one in enumerate(admitted))
    )
    found = await raised(ledgers[1])
    assert Counter(percent for percent, _ in found) == Counter([1, 25, 50, 80, 90, 100, 110])
    logged = await database.fetchval("select count(*) from event_log where type = 'ledger.limit.threshold_reached.v1'")
    assert logged == 7, "an alert that was not kept must not be in the log"


async def test_a_new_window_warns_anew(ledger: Ledger, database: "Database[asyncpg.Record]") -> None:
    await ledger.set_up(limit(maximum=2, thresholds=[50, 100]))
    assert await check_many(ledger, 3) == 2
    for statement in LAST_MONTH:
        await database.execute(statement)
    assert await check_many(ledger, 3) == 2
    assert Counter(await raised(ledger)) == Counter([(50, 1), (100, 2)] * 2)


async def test_a_hold_that_settles_after_its_window_warns_of_that_window(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    await ledger.set_up(limit("spend", meter="cost", maximum="1", thresholds=[80]))
    late = builders.check(estimated_cost="0.1")
    await ledger.check(late)
    for statement in LAST_MONTH:
        await database.execute(statement)
    await ledger.check(builders.check(estimated_cost="0.7"))
    await ledger.send(completed(late, cost="0.9"))
    [alert] = await alerts(ledger)
    now = datetime.now(UTC)
    assert datetime.fromisoformat(alert["period_end"]) <= now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    assert alert["used"] == "0.900000000"


async def test_a_changed_maximum_is_warned_of_anew(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=10, thresholds=[50]))
    await check_many(ledger, 6)
    await ledger.put_plan(limit(maximum=14, thresholds=[50]))
    assert await check_many(ledger, 1) == 1
    await ledger.put_plan(limit(maximum=10, thresholds=[50]))
    assert await check_many(ledger, 1) == 1
    assert await raised(ledger) == [(50, 5), (50, 7)]
    # One that is below what was used already denies all; its callers are warned all the same.
    await ledger.put_plan(limit(maximum=4, thresholds=[50, 100]))
    assert await check_many(ledger, 2) == 0
    assert await raised(ledger) == [(50, 5), (50, 7), (50, 8), (100, 8)]


async def test_an_overrides_thresholds_replace_the_plans(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=10, thresholds=[50]))
    url = f"/v1/accounts/{builders.ACCOUNT}/limits/images"
    assert (await ledger.http.put(url, json={"maximum": 10, "thresholds": [30]})).status_code == 200
    await check_many(ledger, 6)
    assert await raised(ledger) == [(30, 3)]


async def test_thresholds_that_were_taken_away_warn_no_more(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=10, thresholds=[50]))
    await check_many(ledger, 1)
    await ledger.put_plan(limit(maximum=10))
    await check_many(ledger, 1)
    await ledger.send(*(completed() for _ in range(8)))
    assert await raised(ledger) == []


# --- whose ---


async def test_each_user_is_warned_of_alone(ledger: Ledger) -> None:
    await ledger.set_up(limit("each", scope="user", maximum=2, thresholds=[100]))
    await check_many(ledger, 2, user_id="ada")
    await check_many(ledger, 1, user_id="bob")
    assert [alert["scope_key"] for alert in await alerts(ledger)] == ["user:ada"]
    await ledger.send(completed(user_id="bob"), completed(user_id="cy"), completed(user_id="cy"))
    assert [alert["scope_key"] for alert in await alerts(ledger)] == ["user:ada", "user:bob"]


async def test_two_limits_that_count_the_same_warn_of_each_by_its_own_maximum(ledger: Ledger) -> None:
    await ledger.set_up(
        limit("low", maximum=4, mode="soft", thresholds=[100]), limit("high", maximum=8, thresholds=[50, 100])
    )
    await check_many(ledger, 3)
    await ledger.send(*(completed() for _ in range(5)))
    found = sorted((alert["limit_id"], alert["threshold_percent"], alert["used"]) for alert in await alerts(ledger))
    assert found == [("high", 50, 8), ("high", 100, 8), ("low", 100, 8)]


async def test_alerts_of_another_account_are_not_shown(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=1, thresholds=[100]))
    await ledger.put_account("other")
    await check_many(ledger, 1, account_id="other")
    assert await alerts(ledger) == []


# --- reads ---


async def test_alerts_are_read_newest_first_by_time_and_number(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=10, thresholds=[10, 20, 30, 40]))
    await check_many(ledger, 4)
    found = await alerts(ledger)
    assert [alert["threshold_percent"] for alert in found] == [10, 20, 30, 40]
    assert await alerts(ledger, limit=2) == found[2:]
    moments = [alert["raised_at"] for alert in found]
    assert await alerts(ledger, **{"from": moments[1], "to": moments[3]}) == found[1:3]
    before = datetime.fromisoformat(moments[0]) - timedelta(days=1)
    assert await alerts(ledger, to=before.isoformat()) == []


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 1001},
        {"limit": "many"},
        {"from": "yesterday"},
        {"to": "2026-11-01T00:00:00"},
        {"to": "0001-01-01T00:00:00Z"},
        {"from": "9999-12-31T23:59:59-12:00"},
    ],
)
async def test_a_bad_query_is_refused_by_field(ledger: Ledger, query: Body) -> None:
    answer = await ledger.http.get(f"/v1/accounts/{builders.ACCOUNT}/alerts", params=query)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [f"query.{name}" for name in query]
