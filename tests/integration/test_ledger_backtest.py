"""What-if over HTTP and on the command line: the real usage log, replayed against proposed limits."""

import asyncio
import json
import os
import random
import sys
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from contracts.identifiers import uuid7
from ledger_service.domain.backtest import Operation
from ledger_service.domain.periods import Calendar
from ledger_service.store.backtests import APPLICATION_NAME, open_snapshot
from tests import builders
from tests.builders import ABSENT, ACCOUNT, Body, at, completed, failed, limit, plan
from tests.property.test_backtest import Oracle
from tests.servers import Ledger, eventually

Database = asyncpg.Connection

FROM, TO = "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"
_COLUMNS = [
    "account_id", "operation_id", "event_id", "outcome", "user_id", "project_id", "api_key_id", "operation", "provider",
    "requested_provider", "model", "quantity", "cost_nanos", "requested_at", "occurred_at", "counted_at", "recorded_at",
    "duration_ms", "retry_count", "request_bytes", "held_cost_nanos",
]  # fmt: skip


def request(*limits: Body, **fields: Any) -> Body:
    body = {"from": FROM, "to": TO, "limits": list(limits), **fields}
    return {name: value for name, value in body.items() if value is not ABSENT}


def operation(moment: datetime, **changes: Any) -> Operation:
    fields: Body = {
        "account_id": ACCOUNT, "operation_id": uuid7(), "user_id": "ada", "project_id": None, "api_key_id": None,
        "operation": "generate", "requested_provider": "near", "provider": "near", "model": "m", "quantity": 1,
        "cost_nanos": 10**9, "held_cost_nanos": None, "outcome": "completed", "admitted_at": moment,
        "occurred_at": moment,
    }  # fmt: skip
    return Operation(**{**fields, **changes})


async def write(database: "Database[asyncpg.Record]", operations: Iterable[Operation]) -> None:
    """Puts rows into the usage log as ingest leaves them, without the events that they would come from."""
    rows = [
        (
            one.account_id, one.operation_id, uuid7(), one.outcome, one.user_id, one.project_id, one.api_key_id,
            one.operation, one.provider, one.requested_provider, one.model, one.quantity, one.cost_nanos,
            one.admitted_at, one.occurred_at, one.admitted_at, one.occurred_at, 0, 0, 0, one.held_cost_nanos,
        )
        for one in operations
    ]  # fmt: skip
    await database.copy_records_to_table("usage_log", records=rows, columns=_COLUMNS)
    accounts = sorted({one.account_id for one in operations})
    await database.execute(
        "insert into accounts (account_id) select unnest($1::text[]) on conflict do nothing", accounts
    )


async def write_many(database: "Database[asyncpg.Record]", number: int) -> None:
    """So many, a second apart, of an account that is replayed for a while."""
    await database.execute("insert into accounts (account_id) values ('busy')")
    await database.execute(
        """
        insert into usage_log (account_id, operation_id, event_id, outcome, user_id, operation, provider,
            requested_provider, model, quantity, cost_nanos, requested_at, occurred_at, counted_at, recorded_at,
            duration_ms, retry_count, request_bytes)
        select 'busy', gen_random_uuid(), gen_random_uuid(), 'completed', 'u' || n % 50, 'generate', 'near', 'near',
            'm', 1, 1, t, t, t, t, 0, 0, 0
        from generate_series(1, $1::int) n, lateral (select $2::timestamptz + n * interval '1 s' as t) x
        """,
        number,
        at("2026-11-01"),
    )


async def lines_of(ledger: Ledger, body: Body) -> list[Body]:
    answer = await ledger.http.post("/v1/limits:backtest", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


async def result_of(ledger: Ledger, body: Body) -> Body:
    lines = await lines_of(ledger, body)
    assert {name for line in lines[:-1] for name in line} == {"progress"}
    found: Body = lines[-1]["result"]
    return found


async def backtests_in(database: "Database[asyncpg.Record]") -> int:
    found: int = await database.fetchval(
        "select count(*) from pg_stat_activity where application_name = $1", APPLICATION_NAME
    )
    return found


# --- what it answers


async def test_the_plan_that_was_live_denies_nothing_and_a_smaller_one_what_is_too_much(ledger: Ledger) -> None:
    """Through the whole ledger: checks that held, events that settled, and the log that they left."""
    live = [limit(maximum=6), limit("spend", meter="cost", maximum="2", window="day")]
    await ledger.set_up(*live)
    since = datetime.now(UTC) - timedelta(seconds=1)
    admitted = []
    for number in range(8):
        asked = builders.check(estimated_cost="0.30", user_id="ada" if number % 2 else "bob", quantity=2)
        if (await ledger.check(asked))["allowed"]:
            admitted.append(asked)
    assert len(admitted) == 6
    outcomes = [completed(one, cost="0.25", time=datetime.now(UTC) + timedelta(seconds=1)) for one in admitted[:5]]
    outcomes.append(failed(admitted[5], cost="0.10", time=datetime.now(UTC) + timedelta(seconds=1)))
    assert (await ledger.send(*outcomes))["rejected"] == []
    window = {"from": since.isoformat(), "to": (since + timedelta(hours=1)).isoformat()}
    same = await result_of(ledger, request(limits=ABSENT, plan_id=builders.PLAN, **window))
    assert (same["plan_id"], same["plan_version"]) == (builders.PLAN, 1)
    assert (same["total"]["operations"], same["total"]["would_deny"]) == (6, 0)
    assert same["total"]["cost"] == "1.350000000"
    # 0.30 was held of each at once: the third finds no room, whatever it cost in the end.
    less = await result_of(ledger, request(limit("spend", meter="cost", maximum="0.75"), **window))
    assert (less["total"]["would_deny"], less["total"]["units_saved"]) == (4, 6)
    assert less["total"]["cost_saved"] == "0.850000000"
    assert less["total"]["denied_then"] is None
    then = await result_of(ledger, request(limit(maximum=7), include_denied=True, **window))
    assert then["total"]["denied_then"] == {
        "operations": 2, "would_allow": 1, "units_added": 2, "cost_added": "0.300000000",
    }  # fmt: skip


async def test_the_result_is_in_all_by_day_by_user_and_by_account(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    first = [operation(at("2026-11-02") + timedelta(minutes=n), quantity=2) for n in range(3)]
    bob = operation(at("2026-11-03"), user_id="bob", cost_nanos=5)
    other = operation(at("2026-11-03"), account_id="other", cost_nanos=7)
    outside = [operation(at("2026-10-31 23:59")), operation(at("2026-12-01"))]
    await write(database, [*first, bob, other, *outside])
    result = await result_of(ledger, request(limit(maximum=2, window="day")))
    assert (result["from"], result["to"], result["plan_id"]) == (FROM, TO, None)
    denied = {"would_deny": 1, "units_saved": 2, "cost_saved": "1.000000000"}
    of_limit = [{"limit_id": "images", "code": "limit_exceeded", **denied}]
    assert result["total"] == {
        "operations": 5, "cost": "3.000000012", **denied, "by_limit": of_limit, "denied_then": None,
    }  # fmt: skip
    assert [(day["day"], day["operations"], day["would_deny"]) for day in result["by_day"]] == [
        ("2026-11-02", 3, 1),
        ("2026-11-03", 2, 0),
    ]
    assert [(user["account_id"], user["user_id"], user["would_deny"]) for user in result["by_user"]] == [
        ("acme", "ada", 1),
        ("other", "ada", 0),
        ("acme", "bob", 0),
    ]
    assert (result["users"], result["users_denied"], result["accounts"], result["accounts_denied"]) == (3, 1, 2, 1)
    assert [account["account_id"] for account in result["by_account"]] == ["acme", "other"]
    assert result["by_account"][0]["first_denial"] == {
        "operation_id": str(first[2].operation_id),
        "user_id": "ada",
        "at": "2026-11-02T00:02:00Z",
        "limit_id": "images",
        "code": "limit_exceeded",
    }
    assert result["by_account"][1]["first_denial"] is None
    alone = await result_of(ledger, request(limit(maximum=2, window="day"), account_id="other"))
    assert (alone["total"]["operations"], alone["accounts"]) == (1, 1)


BODIES = [
    limit("key", scope="api_key", meter="cost", window="day", maximum="0.000000002"),
    limit("project", scope="project", window="billing_period", maximum=5, selector={"model": ["m"]}),
    limit("user", scope="user", meter="units", window="month", maximum=20, selector={"provider": ["near"]}),
    limit("edits", window="month", maximum=15, selector={"operation": ["edit"]}),
    limit("life", meter="cost", window="lifetime", maximum="0.00000009"),
]


@pytest.mark.parametrize("seed", range(3))
async def test_a_window_that_begins_in_the_middle_counts_what_was_used_before(
    ledger: Ledger, database: "Database[asyncpg.Record]", seed: int
) -> None:
    """Several accounts with calendars of their own, against plain loops over every row."""
    chance = random.Random(seed)
    start, end = at("2026-11-11 07:30"), at("2026-11-18")
    calendars = {
        "a": Calendar("UTC", date(2026, 1, 31)),
        "b": Calendar("Europe/Berlin", date(2026, 1, 5)),
        "c": Calendar("America/St_Johns", date(2026, 1, 11)),
    }
    log = []
    for _ in range(240):
        moment = at("2026-10-28") + timedelta(minutes=chance.randrange(22 * 24 * 60))
        log.append(
            operation(
                moment,
                account_id=chance.choice("abc"),
                user_id=chance.choice(["ada", "bob"]),
                project_id=chance.choice([None, "p"]),
                api_key_id=chance.choice([None, "k"]),
                operation=chance.choice(["generate", "edit"]),
                requested_provider=chance.choice(["near", "far"]),
                provider=chance.choice(["near", "far"]),
                model=chance.choice(["m", "n"]),
                quantity=chance.randrange(1, 4),
                cost_nanos=chance.randrange(4),
                held_cost_nanos=chance.choice([None, 0, 3]),
                outcome=chance.choice(["completed", "completed", "failed"]),
                occurred_at=moment + timedelta(minutes=chance.choice([0, 1, 600])),
            )
        )
    await write(database, log)
    await database.executemany(
        "update accounts set time_zone = $2, billing_anchor = $3 where account_id = $1",
        [(name, calendar.time_zone, calendar.billing_anchor) for name, calendar in calendars.items()],
    )
    expected = {}
    log.sort(key=lambda one: (one.admitted_at, one.operation_id))
    for name, calendar in calendars.items():
        oracle = Oracle(BODIES, calendar)
        mine = [one for one in log if one.account_id == name]
        # What came before is done, and counted as it ended.
        oracle.admitted = [one._replace(occurred_at=one.admitted_at) for one in mine if one.admitted_at < start]
        refusals = [(one, oracle.decide(one)) for one in mine if start <= one.admitted_at < end]
        denied = [(one, refusal) for one, refusal in refusals if refusal]
        expected[name] = (
            len(refusals),
            {
                limit_id: sum(refusal.limit_id == limit_id for _, refusal in denied)
                for limit_id in sorted({refusal.limit_id or "" for _, refusal in denied})
            },
            str(denied[0][0].operation_id) if denied else None,
        )
    result = await result_of(ledger, request(*BODIES, **{"from": start.isoformat(), "to": end.isoformat()}))
    found = {
        account["account_id"]: (
            account["operations"],
            {one["limit_id"]: one["would_deny"] for one in account["by_limit"]},
            account["first_denial"] and account["first_denial"]["operation_id"],
        )
        for account in result["by_account"]
    }
    assert found == expected
    assert len({limit_id for _, by_limit, _ in expected.values() for limit_id in by_limit}) >= 4


async def test_operations_of_one_moment_are_replayed_in_the_order_of_their_ids(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    same = [operation(at("2026-11-02"), user_id=f"u{n}", held_cost_nanos=n) for n in range(40)]
    await write(database, random.Random(1).sample(same, len(same)))
    result = await result_of(ledger, request(limit(maximum=39)))
    assert result["by_account"][0]["first_denial"]["operation_id"] == max(str(one.operation_id) for one in same)


async def test_what_was_denied_and_done_all_the_same_is_replayed_once(ledger: Ledger) -> None:
    await ledger.set_up(limit(maximum=0))
    asked = builders.check(estimated_cost="0.04")
    assert (await ledger.check(asked))["allowed"] is False
    await ledger.send(completed(asked))
    since = datetime.now(UTC) - timedelta(minutes=1)
    window = {"from": since.isoformat(), "to": (since + timedelta(minutes=9)).isoformat()}
    result = await result_of(ledger, request(limit(maximum=5), include_denied=True, **window))
    assert result["total"]["operations"] == 1
    assert result["total"]["denied_then"]["operations"] == 0


async def test_what_was_denied_and_would_have_cost_nothing_is_no_check_without_a_price(ledger: Ledger) -> None:
    """A model that is free has a price, and a limit on cost has room for it."""
    await ledger.set_up(limit(maximum=0))
    free = {"unit": "image", "valid_from": "2026-01-01T00:00:00Z", "variants": [{"price": "0"}]}
    assert (await ledger.http.put("/v1/prices/local/generate/free-1", json=free)).status_code == 200
    for asked in (
        builders.check(model="free-1"),
        builders.check(estimated_cost="0"),
        builders.check(model="nobody-knows"),
    ):
        assert (await ledger.check(asked))["allowed"] is False
    since = datetime.now(UTC) - timedelta(minutes=1)
    window = {"from": since.isoformat(), "to": (since + timedelta(minutes=9)).isoformat()}
    spend = limit("spend", meter="cost", maximum="1")
    result = await result_of(ledger, request(spend, include_denied=True, **window))
    then = result["total"]["denied_then"]
    assert (then["operations"], then["would_allow"], then["cost_added"]) == (3, 2, "0.000000000")


async def test_a_window_without_operations_has_an_empty_result(ledger: Ledger) -> None:
    await ledger.set_up(limit())
    result = await result_of(ledger, request(limit(), account_id=ACCOUNT))
    assert (result["total"]["operations"], result["by_day"], result["by_account"]) == (0, [], [])


@pytest.mark.parametrize("proposed", [{"plan": plan(limit(maximum=1))}, {"plan_id": "tried"}, {}])
async def test_plan_plan_id_and_limits_are_three_ways_to_say_the_same(
    ledger: Ledger, database: "Database[asyncpg.Record]", proposed: Body
) -> None:
    await ledger.put_plan(limit(maximum=1), plan_id="tried")
    await write(database, [operation(at("2026-11-02")), operation(at("2026-11-03"))])
    body = request(limits=ABSENT, **proposed) if proposed else request(limit(maximum=1))
    assert (await result_of(ledger, body))["total"]["would_deny"] == 1


async def test_overrides_of_the_account_stay_out(ledger: Ledger, database: "Database[asyncpg.Record]") -> None:
    await ledger.set_up(limit(maximum=1))
    override = await ledger.http.put(f"/v1/accounts/{ACCOUNT}/limits/images", json={"maximum": 99})
    assert override.status_code == 200, override.text
    await write(database, [operation(at("2026-11-02")), operation(at("2026-11-03"))])
    result = await result_of(ledger, request(limits=ABSENT, plan_id=builders.PLAN))
    assert result["total"]["would_deny"] == 1


# --- bad input


BAD = [
    (request(limit(), to=FROM), "to", "window_order"),
    (request(limit(), **{"from": "2026-11-01T00:00:00"}), "from", "timezone_aware"),
    (request(limit(), **{"from": 1}), "from", "datetime_type"),
    (request(limit(), **{"from": ABSENT}), "from", "missing"),
    (request(limit(), **{"from": "0001-01-01T00:00:00+14:00"}), "from", "moment_range"),
    (request(limit(), to="9999-12-31T23:59:59-14:00"), "to", "moment_range"),
    (request(limits=ABSENT), "", "one_proposal"),
    (request(limit(), plan_id="basic"), "", "one_proposal"),
    (request(limits=ABSENT, plan=plan(), plan_id="basic"), "", "one_proposal"),
    (request(limit(), limit()), "limits", "limits_plan"),
    (request(limit(), limit("b", window="year")), "limits[1].window", "enum"),
    (request(limit(maximum=-1)), "limits[0].maximum", "maximum_range"),
    (request(*(limit(f"l{n}") for n in range(101))), "limits", "too_long"),
    (request(limit(credit=True, window="lifetime")), "limits[0]", "credit_unsupported"),
    (request(limits=ABSENT, plan=plan(limit(credit=True, window="lifetime"))), "plan", "credit_unsupported"),
    (request(limit(), account_id="no such\n"), "account_id", "string_pattern_mismatch"),
    (request(limit(), include_denied="yes"), "include_denied", "bool_type"),
    (request(limit(), keep_overrides=True), "keep_overrides", "extra_forbidden"),
]


@pytest.mark.parametrize(("body", "field", "rule"), BAD, ids=[f"{field}-{rule}" for _, field, rule in BAD])
@pytest.mark.asyncio(loop_scope="module")
async def test_bad_input_is_answered_by_a_problem_that_names_field_and_rule(
    refusing: Ledger, body: Body, field: str, rule: str
) -> None:
    answer = await refusing.http.post("/v1/limits:backtest", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), answer.text
    assert (answer.json()["errors"][0]["field"], answer.json()["errors"][0]["rule"]) == (field, rule)


@pytest.mark.parametrize(
    ("fields", "field"), [({"plan_id": "none", "limits": ABSENT}, "plan_id"), ({"account_id": "nobody"}, "account_id")]
)
async def test_a_plan_or_account_that_does_not_exist_is_not_found(ledger: Ledger, fields: Body, field: str) -> None:
    answer = await ledger.http.post("/v1/limits:backtest", json=request(limit(), **fields))
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.json()["errors"][0]["field"] == field


async def test_a_stored_plan_with_a_credit_limit_is_refused(ledger: Ledger) -> None:
    await ledger.put_plan(limit(credit=True, window="lifetime", maximum=0), plan_id="prepaid")
    answer = await ledger.http.post("/v1/limits:backtest", json=request(limits=ABSENT, plan_id="prepaid"))
    assert answer.status_code == 422
    assert answer.json()["errors"][0] | {"message": ""} == {
        "field": "plan_id", "rule": "credit_unsupported", "message": "",
    }  # fmt: skip


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b""])
async def test_what_is_no_json_object_is_refused(ledger: Ledger, content: bytes) -> None:
    answer = await ledger.http.post("/v1/limits:backtest", content=content)
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


# --- it changes nothing


async def contents(database: "Database[asyncpg.Record]") -> dict[str, str]:
    """A digest of every table, but for those in which workers note, meanwhile, how far they have read."""
    tables = await database.fetch(
        "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
        " and relname not in ('stream_marks', 'notification_cursors')"
    )
    return {
        row["relname"]: await database.fetchval(
            f'select md5(coalesce(string_agg(t::text, $1 order by t::text), $1)) from "{row["relname"]}" t', "\n"
        )
        for row in tables
    }


async def test_a_backtest_changes_nothing(ledger: Ledger, database: "Database[asyncpg.Record]") -> None:
    await ledger.set_up(limit(maximum=3))
    asked = [builders.check(estimated_cost="0.04") for _ in range(4)]
    for one in asked:
        await ledger.check(one)
    await ledger.send(*(completed(one) for one in asked[:2]))
    before = await contents(database)
    window = {"from": "2026-01-01T00:00:00Z", "to": "2030-01-01T00:00:00Z"}
    result = await result_of(ledger, request(limit(maximum=1), include_denied=True, **window))
    assert result["total"]["would_deny"] == 1
    assert await contents(database) == before


async def test_its_transaction_cannot_write(database_url: str) -> None:
    async with open_snapshot(database_url) as connection:
        assert await connection.fetchval("show transaction_read_only") == "on"
        assert await connection.fetchval("show transaction_isolation") == "repeatable read"
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connection.execute("insert into accounts (account_id) values ('x')")


# --- progress, and its end


async def test_progress_comes_first_and_at_least_every_second(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    await write_many(database, 80_000)
    loop, moments, seen = asyncio.get_running_loop(), [], []
    async with ledger.http.stream("POST", "/v1/limits:backtest", json=request(limit())) as answer:
        moments.append(loop.time())
        async for line in answer.aiter_lines():
            moments.append(loop.time())
            seen.append(json.loads(line))
    assert max(after - before for before, after in pairwise(moments)) < 1
    progress = [line["progress"] for line in seen[:-1]]
    assert len(progress) >= 3
    assert progress[0]["done"] == 0
    done = [one["done"] for one in progress]
    assert done == sorted(done)
    assert {one["of"] for one in progress} <= {None, 80_000}
    assert {one["account_id"] for one in progress} <= {None, "busy"}
    assert 0 < done[-1] <= 80_000
    assert seen[-1]["result"]["total"]["operations"] == 80_000


async def test_a_client_that_goes_away_ends_it_at_once(ledger: Ledger, database: "Database[asyncpg.Record]") -> None:
    await write_many(database, 60_000)
    async with ledger.http.stream("POST", "/v1/limits:backtest", json=request(limit())) as answer:
        lines = answer.aiter_lines()
        while not json.loads(await anext(lines))["progress"]["done"]:
            pass
        assert await backtests_in(database) == 1
    await eventually(lambda: _none(database), "the transaction is gone", within_seconds=2)
    # And its place is free for the next.
    result = await result_of(ledger, request(limit(), to="2026-11-01T00:10:00Z"))
    assert result["total"]["operations"] == 599


async def _none(database: "Database[asyncpg.Record]") -> bool:
    return await backtests_in(database) == 0


async def test_a_second_one_at_once_is_told_to_come_back(ledger: Ledger, database: "Database[asyncpg.Record]") -> None:
    await write_many(database, 40_000)
    async with ledger.http.stream("POST", "/v1/limits:backtest", json=request(limit())) as answer:
        assert answer.status_code == 200
        second = await ledger.http.post("/v1/limits:backtest", json=request(limit()))
        assert (second.status_code, second.json()["code"]) == (503, "overloaded")
        assert "retry-after" in second.headers


async def test_a_problem_in_the_middle_is_the_last_line(ledger: Ledger, database: "Database[asyncpg.Record]") -> None:
    await write_many(database, 40_000)
    seen = []
    async with ledger.http.stream("POST", "/v1/limits:backtest", json=request(limit())) as answer:
        async for line in answer.aiter_lines():
            seen.append(json.loads(line))
            if len(seen) == 2:
                await database.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1",
                    APPLICATION_NAME,
                )
    assert [next(iter(line)) for line in seen[-2:]] == ["progress", "problem"]
    assert seen[-1]["problem"]["code"] == "store_unavailable"
    assert (await result_of(ledger, request(limit(), to="2026-11-01T00:10:00Z")))["total"]["operations"] == 599


async def test_live_checks_are_answered_while_it_runs(ledger: Ledger, database: "Database[asyncpg.Record]") -> None:
    await write_many(database, 200_000)
    await ledger.set_up(limit(maximum=1000))
    loop, took = asyncio.get_running_loop(), []
    async with ledger.http.stream("POST", "/v1/limits:backtest", json=request(limit())) as answer:
        for _ in range(20):
            before = loop.time()
            assert (await ledger.check(builders.check()))["allowed"]
            took.append(loop.time() - before)
        assert await backtests_in(database) == 1, "it was to run meanwhile"
        await answer.aclose()
    assert sorted(took)[len(took) // 2] < 0.1


# --- the command


async def command(database_url: str, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ledger_service.cli", "backtest", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LEDGER_DATABASE_URL": database_url, "PYTHONIOENCODING": "utf-8", "NO_COLOR": "1"},
    )  # fmt: skip
    out, said = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), said.decode()


async def test_the_command_shows_days_users_and_limits(
    database: "Database[asyncpg.Record]", database_url: str, tmp_path: Path
) -> None:
    await write(database, [operation(at("2026-11-02") + timedelta(hours=6 * n)) for n in range(8)])
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan(limit(maximum=3))))
    code, out, _ = await command(database_url, "--plan", str(file), "--from", "2026-11-01", "--to", "2026-12-01")
    assert code == 0
    assert "of 8 operations it denies 5 and saves $5.000000000 of $8.000000000" in out
    rows = {line.split("│")[1].strip(): line for line in out.splitlines() if line.startswith("│")}
    assert rows["images"].split("│")[2].strip() == "5"
    assert rows["2026-11-02"].split("│")[4].strip() == "1"
    assert rows["2026-11-03"].count("█") > rows["2026-11-02"].count("█") > 0
    assert "ada" in rows[ACCOUNT]


async def test_the_command_and_the_call_say_the_same(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    await ledger.put_plan(limit(maximum=3))
    await write(database, [operation(at("2026-11-02") + timedelta(hours=6 * n)) for n in range(8)])
    options = ("--plan-id", builders.PLAN, "--from", "2026-11-01", "--to", "2026-12-01", "--account", ACCOUNT, "--json")
    code, out, _ = await command(database_url, *options)
    assert code == 0
    assert json.loads(out)["result"] == await result_of(
        ledger, request(limits=ABSENT, plan_id=builders.PLAN, account_id=ACCOUNT)
    )


WINDOW = ("--from", "2026-11-01", "--to", "2026-12-01")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--plan-id", "none", *WINDOW), 1, "there is no plan none"),
        (("--plan", "missing.json", *WINDOW), 1, "cannot read missing.json"),
        (("--plan-id", "a", "--plan", "b", *WINDOW), 2, "give either --plan or --plan-id"),
        (WINDOW, 2, "give either --plan or --plan-id"),
        (("--plan-id", "a", "--from", "2026-11-01", "--to", "2026-11-01"), 2, "to is later than from"),
        (("--plan-id", "a", "--from", "yesterday", "--to", "2026-11-01"), 2, "yesterday"),
        (("--plan-id", "a b", *WINDOW), 2, "plan_id"),
    ],
)
async def test_a_command_that_cannot_be_done_says_why(
    database_url: str, arguments: tuple[str, ...], code: int, says: str
) -> None:
    ended, out, said = await command(database_url, *arguments)
    assert (ended, out) == (code, "")
    assert says in said


async def test_a_file_that_is_no_plan_is_refused_and_its_fields_named(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan(limit(maximum=-3))))
    code, _, said = await command(database_url, "--plan", str(file), *WINDOW)
    assert code == 1
    assert "limits[0].maximum" in said
