"""Each role of deploy/postgres does its own job in the database, and nothing else, whatever it tries."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import TypeAlias

import asyncpg
import pytest

from deploy.postgres.roles import AUDITOR, FINANCE, OWNER, ROLES, SERVICE, make_roles
from ledger_service.store.migrations import migrate
from ledger_service.store.privileges import READERS, let_read, let_serve
from tests.builders import completed, limit
from tests.servers import PASSWORDS, Ledger, as_role, as_service

Database: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

#: Keys that tokens and leases are made with, and what tokens are known by.
SECRET = {"signing_keys", "service_tokens", "webhook_secrets"}
CHANGES = (
    "insert into {} overriding system value select * from {}",
    "delete from {}",
    "truncate {}",
    "select * from {} for update",
    "drop table {}",
    "alter table {} add column extra integer",
    "lock table {} in access exclusive mode",
    "copy {} to program 'true'",
)
#: How PostgreSQL says that it is no table.
REFUSED_AS_VIEW = re.compile(r": .*(is not a table|insert into (view|column)|delete from view)")
#: What needs no right to a table.
ATTEMPTS = [
    "update public.accounts set plan_id = 'free'",
    "update public.usage_log set cost_nanos = 0",
    "create table elsewhere (id integer)",
    "create temporary table elsewhere (id integer)",
    "create schema elsewhere",
    "create view elsewhere as select 1",
    "drop extension plpgsql",
    "create role elsewhere superuser",
    f"alter role {FINANCE} superuser",
    f"alter role {SERVICE} password 'known'",
    f"grant {OWNER} to {FINANCE}",
    *(f"set role {role}" for role in ("postgres", OWNER, SERVICE)),
    "set session authorization postgres",
    *(f"select public.{function}('{role}')" for role, function in (*READERS.items(), (FINANCE, "let_serve"))),
    "select * from pg_authid",
    "select pg_read_file('PG_VERSION')",
    "select pg_ls_dir('.')",
    "select lo_from_bytea(0, 'x')",
    "select lo_create(0)",
    "set log_statement = 'none'",
    "set session_replication_role = replica",
    "select pg_reload_conf()",
    "select pg_terminate_backend(pid) from pg_stat_activity where usename <> current_user",
    "notify anybody",
]
#: It may ask, and PostgreSQL answers with nothing or a warning.
HARMLESS = {"notify anybody", "select pg_terminate_backend(pid) from pg_stat_activity where usename <> current_user"}
ADVISORY = [
    "select pg_advisory_lock(7205759403792794)",
    "select pg_try_advisory_lock(7205759403792796)",
    "select pg_advisory_xact_lock(1, 2)",
]


@pytest.fixture
async def connect(database_url: str) -> AsyncIterator[Callable[[str], "asyncio.Future[Database]"]]:
    async with AsyncExitStack() as stack:

        async def connect(role: str) -> Database:
            connection = await asyncpg.connect(as_role(database_url, role))
            stack.push_async_callback(connection.close)
            return connection

        yield connect  # type: ignore[misc]  # a coroutine function is what is awaited


async def tables(database: Database, schema: str = "public") -> set[str]:
    rows = await database.fetch("select relname from pg_class where relnamespace = $1::text::regnamespace "
                                "and relkind in ('r', 'p', 'v', 'm')", schema)  # fmt: skip
    return {row[0] for row in rows}


async def allowed(connection: Database, attempts: list[str]) -> list[str]:
    """Those that were not refused for want of a right."""
    found = []
    for attempt in attempts:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(attempt)
        except asyncpg.InsufficientPrivilegeError:
            continue
        except asyncpg.PostgresError as error:
            found.append(f"{attempt}: {error}")
        else:
            found.append(attempt)
        finally:
            await transaction.rollback()
    return found


async def test_finance_reads_what_it_is_for_and_changes_nothing(
    ledger: Ledger, database: Database, connect: Callable
) -> None:
    await ledger.set_up(limit())
    await ledger.send(completed(), completed())
    finance = await connect(FINANCE)
    assert await finance.fetchval("select count(*) from usage_log") == 2
    every = {f"public.{table}" for table in await tables(database)}
    views = {f"finance.{view}" for view in await tables(database, "finance")}
    assert {"public.usage_log", "public.event_log", *(f"public.{table}" for table in SECRET)} <= every
    assert len(views) >= 14
    readable = {table for table in every | views if await allowed(finance, [f"select * from {table} limit 1"])}
    assert readable == views
    # Its transactions begin read-only; what holds where it says otherwise are its rights.
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await finance.execute("create table elsewhere (id integer)")
    await finance.execute("set default_transaction_read_only = off")
    changes = [change.replace("{}", table) for table in sorted(every) for change in CHANGES]
    assert await allowed(finance, changes) == []
    # Of a view some are refused for what it is, before anybody's right to it is looked at: the answer says so.
    changes = [change.replace("{}", view) for view in sorted(views) for change in CHANGES]
    assert [one for one in await allowed(finance, changes) if not REFUSED_AS_VIEW.search(one)] == []
    tried = await allowed(finance, [*ATTEMPTS, *ADVISORY])
    assert {attempt for attempt in tried if attempt not in HARMLESS} == set()
    assert await finance.fetchval("select count(*) from usage_log") == 2


async def test_an_auditor_reads_all_but_secrets_and_changes_nothing(
    ledger: Ledger, database: Database, connect: Callable
) -> None:
    await ledger.set_up(limit())
    await ledger.send(completed())
    auditor = await connect(AUDITOR)
    every = await tables(database)
    assert every > SECRET
    readable = {table for table in every if await allowed(auditor, [f"select * from {table} limit 1"])}
    assert readable == every - SECRET
    await auditor.execute("set default_transaction_read_only = off")
    changes = [change.replace("{}", table) for table in sorted(every) for change in CHANGES]
    assert await allowed(auditor, changes) == []
    tried = await allowed(auditor, [attempt.replace(FINANCE, AUDITOR) for attempt in ATTEMPTS])
    assert {attempt for attempt in tried if attempt not in HARMLESS} == set()


async def test_an_auditor_verifies_with_the_command(ledger: Ledger, database_url: str) -> None:
    await ledger.set_up(limit())
    await ledger.send(completed(), completed())
    environment = {**os.environ, "LEDGER_DATABASE_URL": as_role(database_url, AUDITOR)}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "ledger_service.cli", "verify"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no differences" in done.stderr


async def test_the_owner_owns_and_administers_nothing_else(database: Database, connect: Callable) -> None:
    owner = await connect(OWNER)
    foreign = await database.fetch(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relowner <> $1::regrole", OWNER
    )
    assert [row[0] for row in foreign] == []
    attempts = [attempt for attempt in ATTEMPTS if attempt.split()[0] in ("alter", "grant", "set")]
    assert await allowed(owner, [one for one in attempts if OWNER not in one.split()[-1:]]) == []
    assert await allowed(owner, ["select pg_read_file('PG_VERSION')", "select * from pg_authid"]) == []


async def test_no_role_has_powers_a_way_round_its_password_or_more_than_its_connections(
    database: Database, database_url: str
) -> None:
    rows = await database.fetch("select * from pg_authid where rolname = any ($1)", list(ROLES))
    assert {row["rolname"] for row in rows} == set(ROLES)
    for row in rows:
        assert row["rolpassword"].startswith("SCRAM-SHA-256$")
        assert 0 < row["rolconnlimit"] < 100
        for power in ("rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls"):
            assert not row[power], (row["rolname"], power)
        assert await database.fetchval("select count(*) from pg_auth_members where member = $1", row["oid"]) == 0
    for role in ROLES:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(as_role(database_url, role).replace(PASSWORDS[role], "guessed"))


async def test_a_reader_cannot_take_all_connections_nor_run_for_ever(database_url: str, database: Database) -> None:
    limit = await database.fetchval("select rolconnlimit from pg_roles where rolname = $1", FINANCE)
    async with AsyncExitStack() as stack:
        connections = [await asyncpg.connect(as_role(database_url, FINANCE)) for _ in range(limit)]
        for connection in connections:
            stack.push_async_callback(connection.close)
        with pytest.raises(asyncpg.TooManyConnectionsError):
            await asyncpg.connect(as_role(database_url, FINANCE))
        assert await connections[0].fetchval("show statement_timeout") == "1min"
        assert await connections[0].fetchval("show default_transaction_read_only") == "on"
        assert await connections[0].fetchval("show idle_in_transaction_session_timeout") == "1min"
        assert await connections[0].fetchval("show idle_session_timeout") == "30min"


async def test_rights_given_by_hand_are_gone_with_the_next_migration(
    database: Database, database_url: str, connect: Callable
) -> None:
    for given in (
        f"usage on schema public to {FINANCE}",
        f"select on service_tokens to {FINANCE}",
        f"delete on usage_log to {AUDITOR}",
    ):
        await database.execute(f"grant {given}")
    finance, auditor = await connect(FINANCE), await connect(AUDITOR)
    assert await allowed(finance, ["select * from public.service_tokens"])
    assert await let_read(as_role(database_url, OWNER)) == [FINANCE, AUDITOR]
    # What a superuser granted is the owner's grant, as it owns the table.
    assert await allowed(finance, ["select * from public.service_tokens"]) == []
    await auditor.execute("set default_transaction_read_only = off")
    assert await allowed(auditor, ["delete from usage_log"]) == []


async def test_a_database_of_another_owner_is_taken_over(empty_database_url: str) -> None:
    """As usage-stack migrated it before there were roles; and each step may be done again, by several at once."""
    await migrate(empty_database_url)
    assert await let_read(empty_database_url) == [], "roles by these names are somebody else's where nobody made them"
    await asyncio.gather(*(make_roles(empty_database_url, PASSWORDS) for _ in range(4)))
    owner = as_role(empty_database_url, OWNER)
    assert await migrate(owner) == []
    await let_serve(owner, as_service(empty_database_url))
    await let_read(owner)
    connection = await asyncpg.connect(owner)
    try:
        owned = await connection.fetch(
            "select distinct relowner::regrole::text from pg_class where relnamespace = 'public'::regnamespace "
            "union select proowner::regrole::text from pg_proc where pronamespace = 'public'::regnamespace "
            "union select typowner::regrole::text from pg_type where typnamespace = 'public'::regnamespace "
            "union select relowner::regrole::text from pg_class where relnamespace = 'finance'::regnamespace "
            "union select nspowner::regrole::text from pg_namespace where nspname = 'finance'"
        )
        assert [row[0] for row in owned] == [OWNER]
        await connection.execute("alter table usage_log add column later text; create schema reports")
    finally:
        await connection.close()
    service = await asyncpg.connect(as_service(empty_database_url))
    assert await service.fetchval("select count(*) from event_log") == 0
    await service.close()


async def test_a_role_that_may_more_than_it_should_is_refused(database: Database, database_url: str) -> None:
    await database.execute(f"alter role {FINANCE} createrole")
    try:
        with pytest.raises(asyncpg.RaiseError, match="finance has powers"):
            await make_roles(database_url, PASSWORDS)
    finally:
        await database.execute(f"alter role {FINANCE} nocreaterole")
    await database.execute(f"grant pg_read_all_data to {FINANCE}")
    try:
        with pytest.raises(asyncpg.RaiseError, match="finance is a member"):
            await make_roles(database_url, PASSWORDS)
    finally:
        await database.execute(f"revoke pg_read_all_data from {FINANCE}")
