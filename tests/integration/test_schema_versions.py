"""A schema that is newer than the ledger: which ones it works with, and what it does where it cannot."""

import asyncio
from functools import partial

import asyncpg
import pytest
from nats.aio.client import Client

from contracts.subjects import subject_of
from contracts.version import VERSION
from deploy.postgres.roles import AUDITOR, OWNER
from ledger_service.store.migrations import MigrationError, check_schema, known_to_sessions, migrate, migrations
from ledger_service.store.pool import Connection, open_pool
from ledger_service.store.schema_record import FIRST_RELEASE, note_applied
from tests import builders
from tests.builders import completed, limit
from tests.commands import ledger_command
from tests.servers import Ledger, as_role, as_service, eventually

NEWER = "9999_of_tomorrow.sql"


async def apply(database: Connection, works_with: str) -> None:
    """As `ledger migrate` of version 99.0.0 does."""
    async with database.transaction():
        await note_applied(database, NEWER, "digest", works_with)
        await database.execute("update ledger_schema.additions set version = '99.0.0'")


@pytest.mark.parametrize("role", [None, AUDITOR])
async def test_a_newer_schema_that_leaves_this_version_at_work_is_worked_with(
    database: Connection, database_url: str, role: str | None
) -> None:
    await apply(database, works_with=FIRST_RELEASE)
    connection = await asyncpg.connect(as_role(database_url, role) if role else as_service(database_url))
    try:
        assert await check_schema(connection) == [NEWER]
    finally:
        await connection.close()
    assert await migrate(database_url) == []


async def test_commands_that_work_with_whole_tables_want_the_version_that_knows_them(
    database: Connection, database_url: str
) -> None:
    await apply(database, works_with=FIRST_RELEASE)
    for command in ("verify", "rebuild"):
        done = await ledger_command(as_service(database_url), command)
        assert done.exit_code == 1
        assert NEWER in done.output
        assert "run this command with the version that applied them" in " ".join(done.output.split())
    assert (await ledger_command(as_service(database_url), "tokens", "list")).exit_code == 0


async def test_a_ledger_starts_on_it_and_serves(database: Connection, ledger: Ledger) -> None:
    await apply(database, works_with=migrations()[-1].number)
    assert (await ledger.http.get("/readyz")).json() == {"status": "ready", "database": "ok", "nats": "ok"}
    await ledger.set_up(limit())
    assert (await ledger.check(builders.check()))["allowed"]
    assert await ledger.send(completed()) == {"accepted": 1, "duplicates": 0, "rejected": []}


async def test_versions_that_know_only_their_own_record_do_not_see_what_they_can_work_with(
    database: Connection,
) -> None:
    """0.1.0 refuses whatever stands in schema_migrations and is not its own: so only what it must not meet does."""
    await apply(database, works_with=FIRST_RELEASE)
    assert not await database.fetchval("select count(*) from schema_migrations where name = $1", NEWER)
    await database.execute("delete from ledger_schema.additions where name = $1", NEWER)
    await apply(database, works_with="9999")
    assert await database.fetchval("select count(*) from schema_migrations where name = $1", NEWER) == 1


async def test_one_that_does_not_is_refused_with_what_to_do(database: Connection, database_url: str) -> None:
    await apply(database, works_with="9999")
    for attempt in (partial(check_schema, database), partial(migrate, database_url)):
        with pytest.raises(
            MigrationError, match=rf"{NEWER}, which version {VERSION} .*start version 99\.0\.0 or newer"
        ):
            await attempt()


async def test_a_running_ledger_writes_nothing_beside_what_it_would_not_keep_up(
    database: Connection, ledger: Ledger, nats_client: Client
) -> None:
    """Else a new projection would lack its events, and nobody would know. They wait for a ledger that is new enough."""
    await ledger.set_up(limit())
    held = builders.check()
    assert (await ledger.check(held))["allowed"]
    rows = await database.fetchval("select count(*) from event_log")
    await apply(database, works_with="9999")

    ready = await ledger.http.get("/readyz")
    assert (ready.status_code, ready.json()["database"]) == (503, "too new")
    refused = await ledger.http.post("/v1/limit-checks", json=builders.check())
    assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
    assert (await ledger.send_one(completed(held))).status_code == 503
    event = completed(held)
    await nats_client.jetstream().publish(subject_of(event["type"]), builders.to_bytes(event))
    await asyncio.sleep(0.5)
    assert await database.fetchval("select count(*) from event_log") == rows
    assert await database.fetchval("select count(*) from dead_letters") == 0

    # A ledger that knows it goes on with what is there.
    await database.execute("drop trigger ledger_fence on event_log")
    await eventually(lambda: database.fetchval("select count(*) from usage_log"), "the event is taken in")
    assert await database.fetchval("select state from decisions") == "settled"


async def test_sessions_that_know_the_schema_pass_the_fence(database: Connection, database_url: str) -> None:
    number = known_to_sessions()["ledger.schema"]
    assert number == migrations()[-1].number
    await apply(database, works_with="0019")
    fenced = await database.fetchval("select pg_get_triggerdef(oid) from pg_trigger where tgname = 'ledger_fence'")
    assert "fence('0019')" in fenced
    pool = await open_pool(as_service(database_url), 1)
    async with pool.acquire() as connection:
        assert await connection.fetchval("select current_setting('ledger.schema')") == number
    await pool.close()


async def test_the_highest_fence_stays(database: Connection) -> None:
    await apply(database, works_with="9998")
    async with database.transaction():
        await note_applied(database, "9999_that_needs_less.sql", "digest", "0020")
    fenced = await database.fetchval("select pg_get_triggerdef(oid) from pg_trigger where tgname = 'ledger_fence'")
    assert "fence('9998')" in fenced


async def test_nobody_but_the_owner_writes_the_record_or_takes_the_fence_away(
    database: Connection, database_url: str
) -> None:
    await apply(database, works_with="9999")
    service = await asyncpg.connect(as_service(database_url))
    try:
        for attempt in (
            "insert into ledger_schema.additions (name, digest, works_with, version) values ('x', 'x', 'x', 'x')",
            "delete from ledger_schema.additions",
            "drop trigger ledger_fence on event_log",
            "alter table event_log disable trigger ledger_fence",
            "create or replace function ledger_schema.fence() returns trigger language sql as ''",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await service.execute(attempt)
    finally:
        await service.close()


async def test_an_owner_who_may_not_make_schemas_is_told_what_to_run(empty_database_url: str) -> None:
    admin = await asyncpg.connect(empty_database_url)
    try:
        await admin.execute(f"grant create on schema public to {OWNER}")
        with pytest.raises(MigrationError, match=rf"create schema ledger_schema authorization {OWNER}"):
            await migrate(as_role(empty_database_url, OWNER))
        await admin.execute(f"create schema ledger_schema authorization {OWNER}")
        await admin.execute(f"create schema finance authorization {OWNER}")
    finally:
        await admin.close()
    assert len(await migrate(as_role(empty_database_url, OWNER))) == len(migrations())
