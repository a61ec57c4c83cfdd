"""`ledger verify` names whatever is not as the log says, and `ledger rebuild` puts it right, also under load."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import asyncpg
import pytest
from nats.aio.client import Client as Nats

from ledger_service.projections import PROJECTIONS
from ledger_service.projections.projection import Projection
from ledger_service.rebuilding import RebuildRefusedError, kind_of
from ledger_service.store.tables import Table, read_tables
from tests.builders import check, completed, failed, limit
from tests.conftest import StartLedger
from tests.property.projections import assert_projections_agree, replayed
from tests.rebuilds import differences, everything, rebuilt, something_of_everything
from tests.servers import Client, Ledger, eventually

Database = asyncpg.Connection
#: Of each type, another value than any that is there.
OTHERWISE = {
    "text": "'zz' || coalesce({0}, '')",
    "uuid": "gen_random_uuid()",
    "bigint": "coalesce({0}, 0) + 7",
    "numeric": "coalesce({0}, 0) + 7",
    "integer": "coalesce({0}, 0) + 7",
    "boolean": "not {0}",
    "bytea": "'\\x00'",
    "date": "coalesce({0}, '2026-01-01') + 1",
    "json": '\'{{"zz": "\\u0000"}}\'',
    "text[]": "array ['zz']",
    "timestamp with time zone": "coalesce({0}, now()) + interval '1 day'",
    "int8multirange": "'{{[5,6)}}'",
}
#: Columns that are taken at their word: more of limits_version is none too many, and what was read of JSON bodies by
#: their meaning has to be JSON that has one.
NOT_CHANGED = {"accounts": {"limits_version"}}
MEANT = "'{\"zz\": 1}'"


@pytest.fixture
async def full(start_ledger: StartLedger) -> Ledger:
    """A ledger with something of everything, and nothing under way."""
    ledger = await start_ledger()
    await something_of_everything(ledger)
    return ledger


def projection_of(name: str) -> Projection:
    return next(one for one in PROJECTIONS if one.name == name)


def corruptions(table: Table, name: str) -> list[str]:
    """SQL: one row's every column becomes another, one row goes, one row is made up."""
    projection = projection_of(name)
    columns = [
        column
        for column in table.columns
        if column not in table.key and column.strip('"') not in NOT_CHANGED.get(name, set()) | set(projection.untold)
    ]
    changes = []
    for column in columns:
        value = OTHERWISE[table.columns[column]].format(column)
        changes.append(f"{column} = {MEANT if column.strip(chr(34)) in projection.json_by_meaning else value}")
    order = ", ".join(table.key)
    # Days other rows than the hours that they sum up: else both would be wrong alike.
    first = 3 if name == "usage_daily_all" else 0
    nth = f"(select ctid from {name} order by {order} offset {{}} limit 1)"
    made_up = {
        column: OTHERWISE[table.columns[column]].format(column) if column in table.key else column
        for column in table.columns
    }
    insert = f"insert into {name} ({', '.join(made_up)}) select {', '.join(made_up.values())} from {name}"
    return [
        f"{insert} where ctid = {nth.format(first + 2)}",
        f"update {name} set {', '.join(changes)} where ctid = {nth.format(first + 1)}",
        f"delete from {name} where ctid = {nth.format(first)}",
    ]


async def test_whatever_is_changed_missing_or_made_up_is_named_and_put_right(
    full: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    before = await everything(database)
    assert await differences(database_url) == []
    tables = await read_tables(database, (one.name for one in PROJECTIONS))
    # As a ledger that knows all tables, for which no trigger writes another one.
    await database.execute("select set_config('ledger.schema', '9999', false)")
    for name, table in tables.items():
        for statement in corruptions(table, name):
            assert (await database.execute(statement)).endswith(" 1"), statement
    found = await differences(database_url)
    for name, table in tables.items():
        mine = [one for one in found if one.projection == name]
        kinds = sorted(kind_of(one) for one in mine)
        if name == "counters":  # a missing one is made by whoever needs it
            assert kinds == ["changed", "invented"], name
        elif name == "accounts":  # one that is made up, without a plan, may have been seen by a dry run
            assert kinds == ["changed", "missing"], name
        elif projection_of(name).sums_up is not None:  # it is compared with rows that are wrong themselves
            assert set(kinds) == {"changed", "invented", "missing"}, name
        else:
            assert kinds == ["changed", "invented", "missing"], name
        [changed, *_] = sorted((one for one in mine if kind_of(one) == "changed"), key=lambda one: -len(one.columns))
        untold = set(projection_of(name).untold)
        expected = {column.strip('"') for column in table.columns if column not in table.key} - untold
        assert set(changed.columns) == expected - NOT_CHANGED.get(name, set()), name
    done = await rebuilt(database_url)
    assert done.left == {}
    assert await differences(database_url) == []
    after = await everything(database)
    gone = before["counters"][:]
    for row in after["counters"]:
        gone.remove(row)
    assert len(gone) == 1, "a counter that was deleted is not brought back before it is needed"
    seen = [row for row in after["accounts"] if row not in before["accounts"]]
    assert [json.loads(row)["plan_id"] for row in seen] == [None]
    for one in PROJECTIONS:
        if one.name not in ("counters", "accounts"):
            assert after[one.name] == before[one.name], one.name
    assert {name for name, _ in done.replaced} == set(tables)


async def test_from_nothing_everything_comes_back(
    full: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    before = await everything(database)
    emptied = [one.name for one in PROJECTIONS if one.name != "counters"]
    await database.execute(f"truncate {', '.join(emptied)}")
    await rebuilt(database_url)
    # An account that only a dry run has named is in no event.
    before["accounts"] = [row for row in before["accounts"] if json.loads(row)["account_id"] != "dry"]
    assert await everything(database) == before
    accounts = {"acme", "stray", "sourced", "unknown"}
    await assert_projections_agree(database, await replayed(database, accounts), accounts)
    # Prices, overrides and grants are known to a ledger that runs; plans are, as long as nobody changed them.
    usage = await full.usage("apex")
    assert {state["limit_id"] for state in usage["limits"]} >= {"images", "credit"}


async def test_messages_that_are_no_events_do_not_stop_it(
    ledger: Ledger, nats_client: Nats, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    """They are among what projections are made of: a dead letter may have taken a number of its journal."""
    poison = (b"", b"not json", b"\xff\xfe", b"[]", b"7", b'{"source": "journal", "sourcesequence": "1"}')
    for body in poison:
        await nats_client.jetstream().publish("usage.v1.operation.completed", body)

    async def kept() -> bool:
        return bool(await database.fetchval("select count(*) = $1 from dead_letters", len(poison)))

    await eventually(kept, "they are dead letters")
    assert await differences(database_url) == []
    assert (await answered(database_url, "verify"))[0] == 0
    await rebuilt(database_url)


async def test_a_deleted_counter_is_no_difference_for_the_next_check_makes_it_exactly(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    await ledger.set_up(limit("images", maximum=2))
    bodies = [check(), check()]
    assert [(await ledger.check(body))["allowed"] for body in bodies] == [True, True]
    await ledger.send(completed(bodies[0]))
    await database.execute("delete from counters")
    assert await differences(database_url) == []
    assert not (await ledger.check(check()))["allowed"]
    assert (await ledger.limit())["available"] == 0
    assert await differences(database_url) == []


@pytest.mark.parametrize("watched", ["[]", "1", "[1]", '[{"amount": 1}]', '[{"amount": "x"}]'])
async def test_thresholds_that_make_no_sense_are_forgotten_and_warn_again_from_the_next_check_on(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str, watched: str
) -> None:
    await ledger.set_up(limit("images", maximum=4, thresholds=[50]))
    await ledger.check(check())
    await database.execute("update counters set watched = $1::text::json", watched)
    [found] = await differences(database_url)
    assert "watched" in found.columns
    await rebuilt(database_url)
    assert await differences(database_url) == []
    await ledger.check(check())
    assert await database.fetchval("select count(*) from limit_alerts") == 1


async def test_a_watch_that_would_miss_a_threshold_is_found(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    await ledger.set_up(limit("images", maximum=4, thresholds=[50, 75]))
    await ledger.check(check())
    await database.execute("update counters set warn_at = 3")
    [found] = await differences(database_url)
    assert found.columns == ("warn_at",)
    await rebuilt(database_url)
    assert await database.fetchval("select warn_at from counters") == 2


async def test_what_was_put_right_is_what_a_running_ledger_decides_by(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    """Overrides are remembered by processes: they read them again."""
    await ledger.set_up(limit("images", maximum=1))
    answer = await ledger.http.put("/v1/accounts/acme/limits/images", json={"maximum": 5})
    assert answer.status_code == 200
    await ledger.check(check())
    await database.execute("update limit_overrides set \"limit\" = replace(\"limit\"::text, '5', '0')::json")
    await database.execute("update accounts set limits_version = limits_version + 1")
    assert not (await ledger.check(check()))["allowed"]
    await rebuilt(database_url)
    assert (await ledger.check(check()))["allowed"]


# --- beside ingest and checks


class Traffic:
    """Callers who check, finish, release and check again, until they are told to stop."""

    def __init__(self, ledger: Client, accounts: list[str]) -> None:
        self._ledger = ledger
        self._accounts = accounts
        self.operations = 0
        self.slowest_seconds = 0.0

    async def caller(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        for index in range(10**6):
            body = check(account_id=self._accounts[(index + number) % len(self._accounts)], estimated_cost="0.01")
            begin = loop.time()
            decision = await self._ledger.check(body)
            events = [(completed, failed)[index % 3 == 0](body) for _ in range(1)]
            if decision["allowed"] and index % 7 == 0:
                await self._ledger.release(body["operation_id"])
            if index % 5:
                await self._ledger.send(*events, completed(account_id=body["account_id"]))
            self.slowest_seconds = max(self.slowest_seconds, loop.time() - begin)
            self.operations += 1

    @asynccontextmanager
    async def running(self, callers: int) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.caller(number)) for number in range(callers)]
        try:
            yield
            assert not any(task.done() for task in tasks), "a caller was told something wrong"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


DAMAGE = """
update counters set settled = settled + 3, held = held - 1;
update usage_summary set calls = calls + 100 where operation = 'generate';
delete from usage_summary where account_id = 'busy-1';
delete from usage_log where ctid in (select ctid from usage_log limit 20);
update usage_log set cost_nanos = 1, counted_at = counted_at - interval '40 days'
where ctid in (select ctid from usage_log order by ctid desc limit 20);
delete from decisions where ctid in (select ctid from decisions where state = 'held' limit 5);
update decisions set state = 'settled', closed_at = null
where ctid in (select ctid from decisions where state = 'held' limit 5);
"""


async def test_while_ingest_and_checks_run_it_ends_as_the_log_says(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    accounts = [f"busy-{number}" for number in range(4)]
    await ledger.put_plan(limit("calls", maximum=10**6), limit("spend", meter="cost", maximum="10", window="day"))
    for account_id in accounts:
        await ledger.put_account(account_id)
    traffic = Traffic(ledger, accounts)
    async with traffic.running(callers=6):
        await eventually(lambda: traffic.operations > 60, "there is something to damage")
        for _ in range(2):
            assert await differences(database_url) == [], "while all is right, nothing is found, whatever runs"
            await _damage(database)
            done = await rebuilt(database_url)
            assert done.left == {}
            assert done.replaced.total() > 40
        assert await differences(database_url) == []
    assert await differences(database_url) == []
    await assert_projections_agree(database, await replayed(database, set(accounts)), set(accounts))


async def _damage(database: "Database[asyncpg.Record]") -> None:
    for _ in range(20):
        try:
            await database.execute(DAMAGE)
        except asyncpg.DeadlockDetectedError:
            continue  # it takes its rows in no order
        return
    raise AssertionError("the damage could not be done")


async def test_an_outcome_that_comes_between_comparing_and_replacing_is_not_undone(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    """The rebuild waits for the account's lock, with what it found, while the operation is settled."""
    await ledger.set_up(limit("images", maximum=5))
    body, other = check(), check()
    await ledger.check(body)
    await ledger.check(other)
    await database.execute("update decisions set estimated_cost_nanos = 5")
    await database.execute("update counters set held = held + 10, settled = settled + 20")
    await database.execute("update usage_summary set calls = 7")
    holder = await asyncpg.connect(database_url)
    async with holder.transaction():
        await holder.execute("select from accounts for update")
        rebuilding = asyncio.create_task(rebuilt(database_url))
        await eventually(lambda: _waits(database, "ledger-rebuild"), "the rebuild waits for the account")
        settling = asyncio.create_task(ledger.send(completed(body), completed()))
        await eventually(lambda: _waits(database, "ledger-background"), "so does the outcome")
        assert not rebuilding.done()
    await holder.close()
    await settling
    assert (await rebuilding).left == {}
    assert await differences(database_url) == []
    limits = await ledger.limit()
    assert (limits["settled"], limits["held"]) == (2, 1)


async def _waits(database: "Database[asyncpg.Record]", application: str) -> bool:
    return bool(
        await database.fetchval(
            "select exists (select from pg_stat_activity where application_name = $1 and wait_event_type = 'Lock')",
            application,
        )
    )


async def test_a_second_rebuild_is_refused_while_one_runs(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    await ledger.set_up(limit())
    await ledger.check(check())
    await database.execute("update counters set held = 7")
    async with database.transaction():
        await database.execute("select from accounts for update")
        first = asyncio.create_task(rebuilt(database_url))
        await eventually(lambda: _waits_from(database_url, "ledger-rebuild"), "the first waits for a lock")
        with pytest.raises(RebuildRefusedError, match="another rebuild"):
            await rebuilt(database_url)
        process = await ledger_command(database_url, "rebuild")
        _, said = await process.communicate()
        assert (process.returncode, b"another rebuild of this database is running" in said) == (1, True)
    assert (await first).left == {}


async def _waits_from(database_url: str, application: str) -> bool:
    connection = await asyncpg.connect(database_url)
    try:
        return await _waits(connection, application)
    finally:
        await connection.close()


# --- killed


async def ledger_command(database_url: str, *arguments: str) -> Process:
    return await create_subprocess_exec(
        sys.executable, "-m", "ledger_service.cli", *arguments, stdout=PIPE, stderr=PIPE,
        env={**os.environ, "LEDGER_DATABASE_URL": database_url},
    )  # fmt: skip


#: Where it is killed → what it waits for there: locked by somebody else.
STEPS = {
    "reading the log": "lock table event_log",
    "before anything is replaced": "select from usage_summary for update",
    "with the summary replaced, before the accounts": "select from accounts for update",
    "with all but the sources replaced": "select from sources for update",
}


@pytest.mark.parametrize("step", STEPS)
async def test_killed_at_any_step_it_leaves_all_as_it_was_and_the_next_one_puts_it_right(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str, step: str
) -> None:
    await ledger.set_up(limit("images", maximum=5))
    await ledger.check(check())
    await ledger.send(completed(source="journal", sourcesequence=1), completed(source="journal", sourcesequence=2))
    good = await everything(database)
    await database.execute(
        "update usage_summary set calls = 9; update usage_log set cost_nanos = 9; update counters set held = 9;"
        "update sources set recorded = '{[1,2)}'"
    )
    wrong = await everything(database)
    holder = await asyncpg.connect(database_url)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute(STEPS[step])
    process = await ledger_command(database_url, "rebuild")
    role = "ledger-verify" if step == "reading the log" else "ledger-rebuild"
    await eventually(lambda: _waits_from(database_url, role), f"it waits {step}")
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await transaction.rollback()
    await holder.close()
    await eventually(lambda: _no_trace(database), "nothing of it is left")
    assert await everything(database) == wrong
    assert (await rebuilt(database_url)).left == {}
    assert await everything(database) == good


async def _no_trace(database: "Database[asyncpg.Record]") -> bool:
    return not await database.fetchval(
        "select exists (select from pg_stat_activity where application_name in ('ledger-verify', 'ledger-rebuild')) "
        "or exists (select from pg_locks where locktype = 'advisory') "
        "or exists (select from pg_class where relpersistence = 'u')"
    )


# --- the commands


async def answered(database_url: str, *arguments: str) -> tuple[int | None, str, str]:
    process = await ledger_command(database_url, *arguments)
    out, said = await process.communicate()
    return process.returncode, out.decode(), said.decode()


async def test_the_commands_say_what_differs_and_what_was_done(
    ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    await ledger.set_up(limit("images", maximum=5))
    body = check()
    await ledger.check(body)
    # With all its digits, as PostgreSQL leaves out zeros at the end.
    event = completed(body, cost="0.04", time=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}.123456+00:00")
    await ledger.send(event)
    code, out, said = await answered(database_url, "verify")
    assert (code, out) == (0, "")
    assert f"no differences in {len(PROJECTIONS)} projections" in said
    assert "not compared: prices, changed_in" in said
    await database.execute("update usage_log set cost_nanos = 39; delete from usage_summary")

    code, out, said = await answered(database_url, "verify")
    assert code == 1
    row = next(line for line in out.splitlines() if "cost_nanos" in line and "usage_log" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "usage_log", f"acme {event['time']} {body['operation_id']}", "cost_nanos", "39", "40000000",
    ]  # fmt: skip
    assert "no such row" in out
    assert "2 rows are not what the log says: usage_log 1, usage_summary 1" in said

    code, out, _ = await answered(database_url, "verify", "--json")
    result = json.loads(out)
    assert (code, result["rows"]) == (1, {"usage_log": 1, "usage_summary": 1})
    assert {
        "projection": "usage_log",
        "kind": "changed",
        "key": {"account_id": "acme", "occurred_at": event["time"], "operation_id": body["operation_id"]},
        "columns": [{"column": "cost_nanos", "live": 39, "recomputed": 40000000}],
    } in result["differences"]
    assert "changed_in" in result["trusted"]["prices"]

    code, _, said = await answered(database_url, "rebuild", "--account", "acme", "--projection", "usage_log")
    assert code == 0
    assert "replaced 1 rows" in said
    code, out, _ = await answered(database_url, "rebuild", "--json")
    result = json.loads(out)
    assert (code, result["replaced"], result["left"]) == (0, {"usage_summary": {"missing": 1}}, {})


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["verify", "--projection", "nothing"], 2, "there is no projection nothing"),
        (["rebuild", "--projection", "plans", "--account", "acme"], 2, "plans is about no account"),
        (["verify", "--account", "nobody"], 1, "the ledger has nothing of account nobody"),
        (["verify", "--jobs", "0"], 2, "--jobs"),
    ],
)
async def test_what_cannot_be_done_is_said(database_url: str, arguments: list[str], code: int, words: str) -> None:
    found = await answered(database_url, *arguments)
    assert (found[0], words in found[2]) == (code, True), found
