"""Usage read back: the summary, the usage log with its filters and cursor."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from contracts.usage_answers import UsageLogPage, UsageSummary
from tests import builders
from tests.builders import Body, at, completed, failed, limit
from tests.oracle import Oracle
from tests.property.projections import totals_view
from tests.servers import Ledger

NOVEMBER = "2026-11"


async def recorded(ledger: Ledger, *events: Body) -> Oracle:
    oracle = Oracle()
    for event in events:
        oracle.event(event)
    assert (await ledger.send(*events))["rejected"] == []
    return oracle


def november() -> list[Body]:
    """Events of November 2026 in every combination that the summary tells apart."""
    return [
        make(
            time=at(f"2026-11-{day:02}"),
            operation=operation,
            provider=provider,
            model=model,
            quantity=day,
            cost=f"0.{day:09}",
        )
        for day, (make, operation, provider, model) in enumerate(
            [
                (completed, "generate", "local", "render-1"),
                (completed, "generate", "local", "render-2"),
                (completed, "generate", "far", "a/b"),
                (failed, "generate", "far", "a/b"),
                (completed, "edit", "far", "a/b"),
                (failed, "edit", "local", "render-1"),
                (completed, "upscale", "local", "render-1"),
                (completed, "upscale", "local", "render-1"),
            ],
            start=1,
        )
    ]


# --- the summary ---


async def test_the_summary_counts_calls_and_units_of_completed_failures_of_failed_and_cost_of_both(
    ledger: Ledger,
) -> None:
    await recorded(
        ledger,
        completed(time=at("2026-11-05"), quantity=3, cost="0.25"),
        failed(time=at("2026-11-05"), quantity=5, cost="0.5"),
        failed(time=at("2026-11-05"), quantity=7),
    )
    usage = await ledger.usage(period=NOVEMBER)
    assert (usage["account_id"], usage["period"]) == (builders.ACCOUNT, NOVEMBER)
    assert usage["totals"] == {"calls": 1, "units": 3, "cost": "0.750000000", "failures": 2}


@pytest.mark.parametrize("dimension", ["operation", "provider", "model"])
async def test_the_summary_groups_by_each_dimension(ledger: Ledger, dimension: str) -> None:
    oracle = await recorded(ledger, *november())
    usage = await ledger.usage(period=NOVEMBER)
    values = {event["data"][dimension] for event in november()}
    expected = {value: totals_view(oracle, builders.ACCOUNT, NOVEMBER, **{dimension: value}) for value in values}
    assert usage[f"by_{dimension}"] == expected
    assert usage["totals"] == totals_view(oracle, builders.ACCOUNT, NOVEMBER)


async def test_usage_counts_for_the_provider_that_did_the_work(ledger: Ledger) -> None:
    await recorded(ledger, completed(provider="far", actual_provider="local", time=at("2026-11-05")))
    assert set((await ledger.usage(period=NOVEMBER))["by_provider"]) == {"local"}
    [item] = (await ledger.usage_log())["items"]
    assert (item["provider"], item["requested_provider"]) == ("local", "far")


async def test_the_month_is_that_of_utc_by_when_it_occurred(ledger: Ledger) -> None:
    await recorded(
        ledger,
        completed(time="2026-11-01T00:00:00Z"),
        completed(time="2026-10-31T23:59:59.999999Z"),
        completed(time="2026-11-01T00:30:00+01:00"),
        completed(time="2026-11-30T23:30:00-01:00"),
    )
    periods = ("2026-09", "2026-10", "2026-11", "2026-12")
    assert [(await ledger.usage(period=period))["totals"]["calls"] for period in periods] == [0, 2, 1, 1]


async def test_the_period_is_the_current_month_unless_said(ledger: Ledger) -> None:
    await recorded(ledger, completed())
    usage = await ledger.usage()
    assert usage["period"] in {f"{datetime.now(UTC):%Y-%m}", f"{datetime.now(UTC) - timedelta(minutes=1):%Y-%m}"}
    assert usage["totals"]["calls"] == 1


async def test_accounts_do_not_see_each_other(ledger: Ledger) -> None:
    await recorded(ledger, completed(account_id="one"), completed(account_id="two"), completed(account_id="two"))
    assert (await ledger.usage("one"))["totals"]["calls"] == 1
    assert len((await ledger.usage_log("two"))["items"]) == 2


async def test_limits_of_an_earlier_month_are_those_at_its_end(ledger: Ledger) -> None:
    await ledger.set_up(limit(), limit("daily", window="day"), time_zone="UTC")
    await recorded(ledger, completed(time=at("2026-10-31")), completed(time=at("2026-10-05")))
    states = {state["limit_id"]: state for state in (await ledger.usage(period="2026-10"))["limits"]}
    assert (states["images"]["period"], states["images"]["settled"]) == ("2026-10", 2)
    assert (states["daily"]["period"], states["daily"]["settled"]) == ("2026-10-31", 1)


async def test_usage_of_an_account_nobody_knows_is_not_found(ledger: Ledger) -> None:
    answer = await ledger.http.get("/v1/accounts/nobody/usage")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("period", ["2026-13", "2026-1", "november", "1999-01", "2026-11-01", ""])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_period_that_is_no_month_is_refused_and_named(refusing: Ledger, period: str) -> None:
    answer = await refusing.http.get(f"/v1/accounts/{builders.ACCOUNT}/usage", params={"period": period})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "query.period"


# --- the usage log ---


async def test_the_usage_log_shows_everything_that_an_outcome_said(ledger: Ledger) -> None:
    done = completed(
        time=at("2026-11-02 10:00"),
        project_id="p1",
        api_key_id="k1",
        endpoint="/v1/images/generate",
        metadata={"tags": ["a"]},
        quantity=2,
        cost="0.123456789",
        retry_count=3,
        requested_at="2026-11-02T09:59:58Z",
        duration_ms=2000,
    )
    broken = failed(time=at("2026-11-01"), status_code=None, error={"code": "timeout", "message": "took too long"})
    await recorded(ledger, done, broken)
    page = await ledger.usage_log()
    assert page["next_cursor"] is None
    first, second = page["items"]
    recorded_at = datetime.fromisoformat(first.pop("recorded_at"))
    assert abs(recorded_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert first.pop("lag_seconds") == pytest.approx((recorded_at - at("2026-11-02 10:00")).total_seconds(), abs=0.01)
    assert first.pop("late") is (recorded_at >= at("2026-12-01"))
    assert datetime.fromisoformat(first.pop("requested_at")) == at("2026-11-02 09:59:58")
    assert datetime.fromisoformat(first.pop("occurred_at")) == at("2026-11-02 10:00")
    assert datetime.fromisoformat(first.pop("counted_at")) == at("2026-11-02 10:00")
    assert first == {
        "account_id": "acme",
        "operation_id": done["data"]["operation_id"],
        "event_id": done["id"],
        "outcome": "completed",
        "user_id": "ada",
        "project_id": "p1",
        "api_key_id": "k1",
        "operation": "generate",
        "provider": "local",
        "requested_provider": "local",
        "model": "render-1",
        "quantity": 2,
        "cost": "0.123456789",
        "duration_ms": 2000,
        "status_code": 200,
        "retry_count": 3,
        "request_bytes": 100,
        "response_bytes": 5000,
        "endpoint": "/v1/images/generate",
        "error": None,
        "metadata": {"tags": ["a"]},
    }
    assert (second["outcome"], second["status_code"]) == ("failed", None)
    assert second["error"] == {"code": "timeout", "message": "took too long"}


FILTERS: list[Body] = [
    {"operation": "generate"},
    {"provider": "far"},
    {"model": "a/b"},
    {"outcome": "failed"},
    {"operation": "edit", "outcome": "completed"},
    {"from": "2026-11-03T00:00:00Z"},
    {"to": "2026-11-03T00:00:00Z"},
    {"from": "2026-11-02T01:00:00+01:00", "to": "2026-11-05T00:00:00Z", "provider": "far"},
    {"operation": "levitate"},
]


@pytest.mark.parametrize("chosen", FILTERS, ids=lambda chosen: ",".join(chosen))
async def test_the_usage_log_shows_what_its_filters_choose(ledger: Ledger, chosen: Body) -> None:
    oracle = await recorded(ledger, *november())

    def matches(event: Body) -> bool:
        facts = {**event["data"], "outcome": event["type"].split(".")[2]}
        when = datetime.fromisoformat(event["time"])
        return (
            all(facts[name] == value for name, value in chosen.items() if name not in ("from", "to"))
            and ("from" not in chosen or when >= datetime.fromisoformat(chosen["from"]))
            and ("to" not in chosen or when < datetime.fromisoformat(chosen["to"]))
        )

    found = [item["operation_id"] for item in (await ledger.usage_log(**chosen))["items"]]
    assert found == [event["data"]["operation_id"] for event in oracle.usage_log("acme") if matches(event)]


async def test_the_usage_log_is_filtered_by_who_acted(ledger: Ledger) -> None:
    await recorded(
        ledger, completed(user_id="ada", project_id="p1"), completed(user_id="bob"), completed(user_id="bob")
    )
    assert len((await ledger.usage_log(user_id="bob"))["items"]) == 2
    assert len((await ledger.usage_log(project_id="p1"))["items"]) == 1
    assert len((await ledger.usage_log(project_id="p1", user_id="bob"))["items"]) == 0


@pytest.mark.parametrize("rows", [1, 3, 7, 40])
async def test_all_pages_together_show_each_row_once_in_order(ledger: Ledger, rows: int) -> None:
    """Many at the same moment, in one microsecond, and some that differ by one."""
    moments = [at("2026-11-05") + timedelta(microseconds=number // 8) for number in range(25)]
    oracle = await recorded(ledger, *(completed(time=moment) for moment in moments))
    walked: list[str] = []
    cursor: dict[str, Any] = {}
    for _ in range(30):
        page = await ledger.usage_log(limit=rows, **cursor)
        assert len(page["items"]) <= rows
        walked += [item["operation_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert walked == [event["data"]["operation_id"] for event in oracle.usage_log(builders.ACCOUNT)]


async def test_a_cursor_goes_on_below_what_was_recorded_meanwhile(ledger: Ledger) -> None:
    old = [completed(time=at(f"2026-11-0{day}")) for day in (1, 2, 3)]
    await recorded(ledger, *old)
    first = await ledger.usage_log(limit=2)
    await recorded(ledger, completed(time=at("2026-11-09")))
    second = await ledger.usage_log(limit=2, cursor=first["next_cursor"])
    walked = [item["operation_id"] for item in first["items"] + second["items"]]
    assert walked == [event["data"]["operation_id"] for event in reversed(old)]


@pytest.mark.parametrize("cursor", ["x", "????", "aaaa", "MjAyNi0xMS0wMXw", "é", "x" * 201])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_cursor_that_is_none_of_ours_is_refused(refusing: Ledger, cursor: str) -> None:
    answer = await refusing.http.get(f"/v1/accounts/{builders.ACCOUNT}/usage-log", params={"cursor": cursor})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] in ("cursor", "query.cursor")


@pytest.mark.parametrize(
    "query",
    [{"from": "2026-11-01"}, {"from": "2026-11-01T00:00:00"}, {"outcome": "lost"}, {"limit": "0"}, {"limit": "1001"},
     {"user_id": "a\nb"}, {"to": "2026-11-01T00:00:00Z", "from": "2026-11-01T01:00:00+01:00"}],
    ids=str,
)  # fmt: skip
@pytest.mark.asyncio(loop_scope="module")
async def test_a_filter_of_the_wrong_shape_is_refused_and_named(refusing: Ledger, query: dict[str, str]) -> None:
    answer = await refusing.http.get(f"/v1/accounts/{builders.ACCOUNT}/usage-log", params=query)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == f"query.{next(iter(query))}"


@pytest.mark.asyncio(loop_scope="module")
async def test_the_usage_log_of_an_account_without_usage_is_empty(refusing: Ledger) -> None:
    assert await refusing.usage_log("nobody") == {"items": [], "next_cursor": None}


# --- what the reference says of them ---


async def test_the_answers_are_what_the_reference_promises(ledger: Ledger) -> None:
    await ledger.set_up(limit("images"), limit("spend", meter="cost", maximum="9"))
    before = [completed(time=at("2026-08-03"), metadata={"team": "red"}), failed(time=at("2026-08-04"), cost="0.01")]
    await recorded(ledger, *before)
    closed = await ledger.http.put("/v1/periods/2026-08:close", json={"reason": "books"})
    assert closed.is_success, closed.text
    late = completed(time=at("2026-08-05"), project_id="p1", api_key_id="k1", endpoint="/v1/x")
    await recorded(ledger, late)
    for body in (builders.adjustment("rerate", late, cost="0.5"), builders.adjustment(cost="-1", calls=-1)):
        assert (await ledger.http.post("/v1/adjustments", json=body)).is_success

    place = f"/v1/accounts/{builders.ACCOUNT}"
    log = await ledger.http.get(f"{place}/usage-log")
    page = UsageLogPage.model_validate_json(log.content, extra="forbid")
    assert {item.outcome for item in page.items} == {"completed", "failed", "adjustment"}
    assert [item.adjustment.corrects for item in page.items if item.adjustment] == [
        None,
        UUID(late["data"]["operation_id"]),
    ]
    assert sum(item.booked_period is not None for item in page.items) == 2
    summary = await ledger.http.get(f"{place}/usage", params={"late_after": "2026-01-01T00:00:00Z"})
    read = UsageSummary.model_validate_json(summary.content, extra="forbid")
    assert read.totals == read.late
    assert len(read.limits) == 2

    paths = (await ledger.http.get("/openapi.json")).json()["paths"]
    for route in ("usage", "usage-log"):
        answer = paths[f"/v1/accounts/{{account_id}}/{route}"]["get"]["responses"]["200"]
        assert answer["content"]["application/json"]["schema"]["$ref"], "it has a name and members"
