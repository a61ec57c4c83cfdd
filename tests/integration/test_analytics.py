"""GET /v1/usage: what it answers, from which table, in which form, and what it refuses."""

import asyncio
import csv
import io
import random
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any

import asyncpg
import httpx
import pyarrow as pa
import pytest

from contracts.usage_reports import UsageReport
from ledger_service.intake import add_to_batch
from ledger_service.recording import Batch, record
from ledger_service.store.migrations import migrate
from ledger_service.store.pool import open_hot_pool
from tests.builders import Body, adjustment, completed, failed, to_bytes
from tests.conftest import StartLedger
from tests.rebuilds import differences, rebuilt
from tests.servers import Ledger, as_service

ROLLUPS = ("usage_hourly", "usage_hourly_all", "usage_daily_all")
NOVEMBER = {"from": "2026-11-01", "to": "2026-12-01"}


@pytest.fixture
async def ledger(start_ledger: StartLedger) -> Ledger:
    return await start_ledger(metadata_dimensions=["team"])


async def ask(ledger: Ledger, **query: Any) -> Body:
    answer = await ledger.http.get("/v1/usage", params={**NOVEMBER, **query})
    assert answer.status_code == 200, answer.text
    UsageReport.model_validate_json(answer.content)
    body: Body = answer.json()
    return body


def amounts(rows: list[Body], *names: str) -> list[tuple[object, ...]]:
    return [(row["period"], *row["group"].values(), *(row[name] for name in names)) for row in rows]


async def test_a_month_by_day_and_provider_of_one_account_comes_from_its_hours(
    ledger: Ledger, database_url: str
) -> None:
    gone = completed(time="2026-11-05T10:00:00Z", cost="3")
    await ledger.send(
        completed(time="2026-11-05T09:00:00Z", cost="0.25", quantity=2),
        completed(time="2026-11-05T23:59:59.999999Z", cost="0.5"),
        completed(time="2026-11-05T10:00:00Z", provider="far", cost="1"),
        failed(time="2026-11-06T00:00:00Z", cost="0.125"),
        completed(time="2026-11-05T10:00:00Z", account_id="other", cost="100"),
        completed(time="2026-10-31T23:59:59Z", cost="50"),
        completed(time="2026-12-01T00:00:00Z", cost="50"),
        gone,
    )
    answer = await ledger.http.post("/v1/adjustments", json=adjustment("void", gone))
    assert answer.status_code == 200, answer.text
    report = await ask(ledger, account_id="acme", interval="day", group_by="provider")
    assert (report["served_from"], report["served_because"]) == ("usage_hourly", [])
    assert amounts(report["rows"], "calls", "units", "cost", "failures") == [
        ("2026-11-05", "far", 1, 1, "1.000000000", 0),
        ("2026-11-05", "local", 2, 3, "0.750000000", 0),
        ("2026-11-06", "local", 0, 0, "0.125000000", 1),
    ]
    assert report["totals"] == {"calls": 3, "units": 4, "cost": "1.875000000", "failures": 1}
    everybody = await ask(ledger, group_by="provider")
    assert everybody["served_from"] == "usage_daily_all"
    assert everybody["totals"]["cost"] == "101.875000000"
    assert await differences(database_url) == []


async def test_what_no_rollup_has_comes_from_the_log_and_says_why(ledger: Ledger) -> None:
    await ledger.send(
        completed(time="2026-11-05T09:10:00Z", user_id="ada", duration_ms=10, metadata={"team": "red"}),
        completed(time="2026-11-05T09:20:00Z", user_id="ada", duration_ms=30, metadata={"team": "blue, or so"}),
        failed(time="2026-11-05T09:30:00Z", user_id="bob", duration_ms=1000, project_id="p1"),
        completed(
            time="2026-11-05T09:40:00Z", user_id="bob", duration_ms=20, metadata={"team": "a\u0000b", "other": 1}
        ),
    )
    by_user = await ask(ledger, group_by="user,outcome", measures="calls,duration")
    assert by_user["served_from"] == "usage_log"
    assert by_user["served_because"] == ["user is in no rollup", "durations are in no rollup"]
    assert amounts(by_user["rows"], "calls", "duration_p50", "duration_p99") == [
        ("", "ada", "completed", 2, 10, 30), ("", "bob", "completed", 1, 20, 20), ("", "bob", "failed", 0, 1000, 1000),
    ]  # fmt: skip
    assert [by_user["totals"][name] for name in ("calls", "duration_p50", "duration_p99")] == [3, 20, 1000]
    by_team = await ask(ledger, group_by="metadata.team", measures="calls", order_by="calls")
    assert {row["group"]["metadata.team"]: row["calls"] for row in by_team["rows"]} == {
        "red": 1, "blue, or so": 1, "a\ufdd0b": 1, None: 0,
    }  # fmt: skip
    for wanted, calls in ((r"metadata.team:blue\, or so", 1), ("metadata.team:", 0), ("metadata.team:red,x", 1)):
        assert (await ask(ledger, filter=wanted))["totals"]["calls"] == calls, wanted
    assert (await ask(ledger, filter=["project:p1,", "user:bob", "outcome:completed"]))["totals"]["calls"] == 1
    minutes = await ask(ledger, **{"from": "2026-11-05T09:15:00Z", "to": "2026-11-05T09:35:00Z"})
    assert (minutes["totals"]["calls"], minutes["totals"]["failures"]) == (1, 1)
    assert minutes["served_because"] == ["rollups are of whole hours in UTC"]


async def test_the_first_groups_the_others_and_the_period_before(ledger: Ledger) -> None:
    costs = {"a": (5, 1), "b": (3, 0), "c": (2, 7), "d": (1, 0), "gone": (0, 4)}
    for provider, (now, before) in costs.items():
        for month, cost in ((11, now), (10, before)):
            if cost:
                await ledger.send(completed(time=f"2026-{month}-02T10:00:00Z", provider=provider, cost=str(cost)))
    await ledger.send(completed(time="2026-10-31T10:00:00Z", provider="a", cost="20"))
    report = await ask(ledger, group_by="provider", top=2, compare="previous", interval="day", measures="cost")
    assert report["previous"]["from"] == "2026-10-01T00:00:00Z"
    assert report["previous"]["totals"] == {"cost": "32.000000000"}
    assert report["totals"] == {"cost": "11.000000000"}
    rows = [
        (row["period"], row["group"].get("provider"), row["kind"], row["cost"], row["previous"]["cost"])
        for row in report["rows"]
    ]
    assert rows == [
        ("2026-11-02", "a", "group", "5.000000000", "1.000000000"),
        ("2026-11-02", "b", "group", "3.000000000", "0.000000000"),
        ("2026-11-02", None, "others", "3.000000000", "11.000000000"),
    ]
    everything = await ask(ledger, group_by="provider", compare="previous")
    assert {row["group"]["provider"]: row["previous"]["cost"][:2] for row in everything["rows"]} == {
        "a": "21", "b": "0.", "c": "7.", "d": "0.", "gone": "4.",
    }  # fmt: skip


async def test_time_zones_are_named_or_the_accounts(ledger: Ledger) -> None:
    await ledger.set_up(time_zone="Asia/Kolkata")
    await ledger.send(completed(time="2026-11-01T18:29:59Z"), completed(time="2026-11-01T18:30:00Z"))
    here = await ask(ledger, account_id="acme", interval="day", time_zone="account")
    assert (here["time_zone"], here["served_from"]) == ("Asia/Kolkata", "usage_log")
    assert [(row["period"], row["start"]) for row in here["rows"]] == [
        ("2026-11-01", "2026-10-31T18:30:00Z"), ("2026-11-02", "2026-11-01T18:30:00Z"),
    ]  # fmt: skip
    berlin = await ask(ledger, interval="week", time_zone="Europe/Berlin")
    assert [(row["period"], row["calls"]) for row in berlin["rows"]] == [("2026-W44", 2)]
    assert berlin["served_from"] == "usage_daily_all"
    by_day = await ask(ledger, interval="day", time_zone="Europe/Berlin")
    assert (by_day["served_from"], by_day["rows"][0]["calls"]) == ("usage_daily_all", 2)


async def test_csv_and_arrow_have_the_same_rows_and_decimals(ledger: Ledger) -> None:
    await ledger.send(
        completed(time="2026-11-05T09:10:00Z", metadata={"team": "=1+1"}, cost="0.123456789"),
        completed(time="2026-11-05T09:20:00Z", metadata={"team": 'say "x", y'}, cost="123456.5"),
    )
    query = {**NOVEMBER, "group_by": "metadata.team", "measures": "cost,calls", "compare": "previous"}
    answer = await ledger.http.get("/v1/usage", params={**query, "format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(line["kind"], line["metadata.team"], line["cost"], line["previous_cost"]) for line in lines] == [
        ("group", 'say "x", y', "123456.500000000", "0.000000000"),
        ("group", "'=1+1", "0.123456789", "0.000000000"),
        ("total", "", "123456.623456789", "0.000000000"),
    ]
    accept = {"Accept": "application/vnd.apache.arrow.stream"}
    stream = pa.ipc.open_stream((await ledger.http.get("/v1/usage", params=query, headers=accept)).content)
    table = stream.read_all()
    assert table.schema.field("cost").type == pa.decimal128(38, 9)
    assert str(table.schema.field("start").type) == "timestamp[us, tz=UTC]"
    assert table.schema.metadata[b"served_from"] == b"usage_log"
    assert table.column("cost").to_pylist() == [
        Decimal("123456.5"),
        Decimal("0.123456789"),
        Decimal("123456.623456789"),
    ]
    assert table.column("metadata.team").to_pylist() == ['say "x", y', "=1+1", None]


async def test_as_of_leaves_out_what_was_recorded_later(ledger: Ledger) -> None:
    await ledger.send(completed(time="2026-11-05T09:00:00Z"))
    items = (await ledger.usage_log())["items"]
    await ledger.send(completed(time="2026-11-04T09:00:00Z"))
    report = await ask(ledger, as_of=items[0]["recorded_at"])
    assert (report["totals"]["calls"], report["served_from"]) == (1, "usage_log")
    assert report["served_because"] == ["rollups are of all that is known now"]
    assert (await ask(ledger))["totals"]["calls"] == 2


REFUSED = {
    "from=2026-11-05&to=2026-11-01": ("query.to", "period"),
    "from=2026-11-05&to=2026-11-05": ("query.to", "period"),
    "from=yesterday": ("query.from", "moment"),
    "from=2026-11-31": ("query.from", "moment"),
    "from=1770000000": ("query.from", "moment"),
    "from=2026-11-01&group_by=color": ("query.group_by", "dimension"),
    "from=2026-11-01&group_by=provider,provider": ("query.group_by", "repeated"),
    "from=2026-11-01&group_by=user,project,model,provider,outcome": ("query.group_by", "too_many"),
    "from=2026-11-01&group_by=metadata.secret": ("query.group_by", "dimension"),
    "from=2026-11-01&group_by=provider)%3Bdrop%20table%20usage_log--": ("query.group_by", "dimension"),
    "from=2026-11-01&measures=cost,love": ("query.measures", "measure"),
    "from=2026-11-01&group_by=user&order_by=user_id%3Bselect": ("query.order_by", "measure"),
    "from=2026-11-01&time_zone=Mars/Olympus": ("query.time_zone", "time_zone"),
    "from=2026-11-01&time_zone=../../etc/passwd": ("query.time_zone", "time_zone"),
    "from=2026-11-01&time_zone=account": ("query.time_zone", "account"),
    "from=2026-11-01&filter=provider": ("query.filter[0]", "filter"),
    "from=2026-11-01&filter=provider:a&filter=1%3D1:x": ("query.filter[1]", "dimension"),
    "from=2026-11-01&filter=provider:x'%20or%20'1'='1": ("query.filter[0]", "value"),
    "from=2026-11-01&filter=provider:": ("query.filter[0]", "value"),
    "from=2026-11-01&filter=outcome:lost": ("query.filter[0]", "value"),
    "from=2026-11-01&filter=endpoint:a%00b": ("query.filter[0]", "value"),
    "from=2026-11-01&top=3": ("query.top", "group_by"),
    "from=2026-11-01&filters=provider:x": ("query.filters", "unknown"),
    "from=2000-01-01&to=2199-01-01&interval=hour": ("query.interval", "buckets"),
    "from=2025-01-01&to=2026-01-01&interval=hour&group_by=user&top=100": ("query.top", "cells"),
    "from=2150-01-01": ("query.from", "period"),
    "from=2026-11-01&interval=second": ("query.interval", "enum"),
    "from=2026-11-01&format=xml": ("query.format", "enum"),
    "to=2026-11-01": ("query.from", "missing"),
}  # fmt: skip


async def test_what_cannot_be_answered_is_refused_by_field_and_rule(ledger: Ledger) -> None:
    for query, (field, rule) in REFUSED.items():
        answer = await ledger.http.get(f"/v1/usage?{query}")
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), query
        error = answer.json()["errors"][0]
        assert (error["field"], error["rule"]) == (field, rule), answer.text


async def test_no_value_is_ever_sql(ledger: Ledger) -> None:
    nasty = "'; drop table usage_hourly; --"
    await ledger.send(completed(time="2026-11-05T09:10:00Z", endpoint=nasty, metadata={"team": nasty}))
    for field in ("endpoint", "metadata.team"):
        report = await ask(ledger, group_by=field, filter=f"{field}:{nasty}")
        assert [row["group"] for row in report["rows"]] == [{field: nasty}]


async def test_a_bound_token_has_its_own_account_and_no_other(ledger: Ledger) -> None:
    await ledger.send(
        completed(time="2026-11-05T09:00:00Z"), completed(account_id="other", time="2026-11-05T09:00:00Z")
    )
    wanted = {"name": "own", "scopes": ["usage:read"], "account_id": "acme"}
    token = (await ledger.http.post("/v1/tokens", json=wanted)).json()["token"]
    async with httpx.AsyncClient(base_url=ledger.url, headers={"Authorization": f"Bearer {token}"}) as http:
        own = (await http.get("/v1/usage", params={**NOVEMBER, "group_by": "account"})).json()
        assert [row["group"]["account"] for row in own["rows"]] == ["acme"]
        for stolen in ({"account_id": "other"}, {"filter": "account:other"}, {"filter": "account:acme,other"}):
            answer = await http.get("/v1/usage", params={**NOVEMBER, **stolen})
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), stolen
        both = (await http.get("/v1/usage", params={**NOVEMBER, "filter": "account:acme"})).json()
        assert both["totals"]["calls"] == 1


async def test_a_query_of_the_log_that_takes_too_long_says_how_to_narrow(start_ledger: StartLedger) -> None:
    ledger = await start_ledger(analytics_seconds_max=0.001)
    answer = await ledger.http.get("/v1/usage", params={**NOVEMBER, "group_by": "user", "measures": "duration"})
    assert (answer.status_code, answer.json()["code"]) == (422, "query_too_large")
    assert "for one account" in answer.json()["detail"]


async def test_an_upgrade_fills_the_rollups_from_what_is_there(
    ledger: Ledger, database: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    wrong = completed(time="2026-11-05T09:59:59Z", cost="2")
    await ledger.send(wrong, failed(cost="0.1"), *(completed(account_id=f"a{n}", provider=f"p{n}") for n in range(9)))
    assert (await ledger.http.post("/v1/adjustments", json=adjustment("void", wrong))).status_code == 200
    before = [await database.fetch(f"select * from {name} order by 1, 2, 3, 4, 5, 6") for name in ROLLUPS]
    # As it was before there were rollups.
    await database.execute(
        """
        drop table usage_hourly, usage_hourly_all, usage_daily_all;
        drop function account_shard, usage_daily_all_follow;
        drop index usage_log_occurred_at;
        delete from schema_migrations where name like '%usage_hourly%';
        delete from ledger_schema.additions where name like '%daily_rollups%';
        """
    )
    assert len(await migrate(database_url)) == 2
    assert [await database.fetch(f"select * from {name} order by 1, 2, 3, 4, 5, 6") for name in ROLLUPS] == before
    assert all(before)
    assert await differences(database_url) == []


async def test_what_ledgers_write_that_know_no_days_is_in_the_rollup_by_days(
    ledger: Ledger, database: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    await ledger.send(*(completed(account_id=f"a{n}", time=f"2026-11-0{1 + n % 3}T10:00:00Z") for n in range(9)))
    # As version 0.1.0 adds to it, in a session that says nothing of a schema.
    add = """
        insert into usage_hourly_all as h
        select shard, hour + make_interval(hours => $1), operation, provider, model, outcome, 7 * calls, units,
               -cost_nanos, 3
        from usage_hourly_all
        on conflict (hour, operation, provider, model, outcome, shard) do update
        set calls = h.calls + excluded.calls, units = h.units + excluded.units,
            cost_nanos = h.cost_nanos + excluded.cost_nanos, failures = h.failures + excluded.failures
        """
    for hours in (0, 1, 24, 24):
        await database.execute(add, hours)
        found = {one.projection for one in await differences(database_url)}
        assert found == {"usage_hourly_all"}, hours
    assert await database.fetchval("select sum(calls) from usage_daily_all") == 9 * 8 * 8 * 8 * 8
    # A rebuild puts right what sums up, and then what sums that up.
    await rebuilt(database_url)
    assert await differences(database_url) == []
    assert (await ask(ledger))["totals"]["calls"] == 9


async def test_writers_of_several_ledgers_never_wait_for_each_other_in_a_circle(
    database: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    """Each has accounts of its own, so that only rows of all accounts make them wait: those of few hours, then
    those of few days with so many hours that hardly any two meet in one."""
    chance = random.Random(6)

    async def write(writer: int, hours: range, events: int) -> None:
        pool = await open_hot_pool(as_service(database_url), 1, "tests")
        try:
            for _ in range(12):
                batch = Batch()
                for number in chance.sample(range(events), events):
                    moment = f"2026-11-0{chance.randint(1, 3)}T{chance.choice(hours):02d}:00:00Z"
                    event = completed(account_id=f"{writer}-{number}", provider=chance.choice("abcdef"), time=moment)
                    add_to_batch(batch, to_bytes(event), "tests", None)
                await record(pool, batch)
        finally:
            await pool.close()

    for hours, events in ((range(10, 12), 30), (range(24), 8)):
        await asyncio.gather(*(write(writer, hours, events) for writer in range(6)))
    for name in ("usage_hourly_all", "usage_daily_all"):
        assert await database.fetchval(f"select sum(calls) from {name}") == 6 * 12 * (30 + 8)
    assert await database.fetchval("select deadlocks from pg_stat_database where datname = current_database()") == 0
    assert await differences(database_url) == []


async def test_however_much_accounts_use_together_each_one_s_events_are_taken(
    ledger: Ledger, database: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    await ledger.send(completed(account_id="acme", cost="1", time="2026-11-05T10:00:00Z"))
    # As if others of its shard had used as much as 64 bits can say.
    for name in ROLLUPS[1:]:
        await database.execute(f"update {name} set cost_nanos = {2**63 - 1}, units = {2**63 - 1}")
    answer = await ledger.send(completed(account_id="acme", cost="1", time="2026-11-05T10:00:00Z"))
    assert (answer["accepted"], answer["rejected"]) == (1, [])
    everybody = (await ask(ledger))["totals"]
    assert everybody["cost"] == f"{(2**63 - 1 + 10**9) // 10**9}.{(2**63 - 1) % 10**9:09}"
    await rebuilt(database_url)
    assert (await ask(ledger))["totals"]["cost"] == "2.000000000"
    assert await differences(database_url) == []


async def test_a_question_as_of_a_moment_means_the_same_for_good_whatever_changes_or_goes_by(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.put_plan()
    await ledger.put_account(time_zone="Asia/Kolkata")
    await ledger.send(completed(time="2026-11-01T18:00:00Z", cost="1"), completed(time="2026-11-01T19:00:00Z"))
    then = (await ledger.http.get("/v1/plans")).headers["ledger-read-at"]

    async def asked() -> bytes:
        query = {"from": "2026-11-01", "interval": "day", "account_id": "acme", "time_zone": "account", "as_of": then}
        answer = await ledger.http.get("/v1/usage", params=query)
        assert answer.status_code == 200, answer.text
        return answer.content

    before = await asked()
    await ledger.put_account(time_zone="America/New_York")
    assert await asked() == before, "the account's days began in its zone of then"

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Later":
            return cls.fromtimestamp(datetime.now(tz).timestamp(), tz) + timedelta(days=3)

    monkeypatch.setattr("ledger_service.api.analytics.datetime", Later)
    assert await asked() == before, "what is left out counts from as_of"
