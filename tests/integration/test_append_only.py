"""The role that the ledger runs under appends to its log, and can do nothing else to it, whatever it tries."""

from collections.abc import AsyncIterator
from typing import TypeAlias

import asyncpg
import pytest

from deploy.postgres.roles import OWNER
from ledger_service.config import Settings
from ledger_service.store.migrations import MigrationError, migrate
from ledger_service.store.privileges import let_serve, may_rewrite
from tests.builders import completed
from tests.servers import SERVICE_ROLE, Ledger, as_service

Database: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

LOG_TABLES = ("event_log", "outcome_effects", "seals", "seal_nodes")
ATTEMPTS = [
    *(
        statement.format(table)
        for table in LOG_TABLES
        for statement in (
            "delete from {}",
            "truncate {}",
            "truncate {} cascade",
            "drop table {}",
            "alter table {} disable trigger all",
            "alter table {} add column extra integer",
            "alter table {} owner to current_user",
            "create trigger quiet before insert on {} execute function suppress_redundant_updates_trigger()",
            "create rule quiet as on insert to {} do instead nothing",
            "do $$ begin lock table {} in access exclusive mode; end $$",
            "select * from {} for update",
        )
    ),
    "update event_log set source = 'forged'",
    "update event_log set body = '{}' where false",
    "update seals set note = ''",
    "update seal_nodes set hash = ''",
    """
    insert into event_log (account_id, event_id, type, terminal, source, occurred_at, body)
    select account_id, event_id, type, terminal, source, occurred_at, body from event_log
    on conflict (account_id, event_id) do update set source = 'forged'
    """,
    "merge into event_log e using event_log o on e.event_id = o.event_id when matched then delete",
    "with gone as (delete from event_log returning *) select * from gone",
    "alter sequence event_log_position_seq restart",
    "drop index event_log_one_outcome",
    "drop schema public cascade",
    "create table elsewhere (id integer)",
    "insert into schema_migrations (name, digest) values ('9999', '')",
    "delete from schema_migrations",
    "set session_replication_role = replica",
    "set role postgres",
    "set session authorization postgres",
    f"alter role {SERVICE_ROLE} superuser",
    f"select let_serve('{SERVICE_ROLE}')",
    "select pg_read_file('PG_VERSION')",
    "copy event_log to program 'true'",
]


#: PostgreSQL answers these with a warning, and does nothing.
IGNORED = [
    statement.format(table)
    for table in LOG_TABLES
    for statement in ("grant all on {} to current_user", "vacuum full {}", "revoke all on {} from public")
]


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Database]:
    connection = await asyncpg.connect(as_service(database_url))
    yield connection
    await connection.close()


async def test_the_services_role_cannot_rewrite_the_log(service: Database, database: Database, ledger: Ledger) -> None:
    """With the ledger at work under that role."""
    await ledger.set_up()
    await ledger.send(completed(), completed())
    before = await database.fetch("select * from event_log order by position")
    allowed = []
    for attempt in ATTEMPTS:
        try:
            await service.execute(attempt)
        except asyncpg.InsufficientPrivilegeError:
            continue
        except asyncpg.PostgresError as error:
            allowed.append(f"{attempt}: {error}")
        else:
            allowed.append(attempt)
    assert allowed == []
    for attempt in IGNORED:
        await service.execute(attempt)
    assert not await may_rewrite(service)
    assert await database.fetch("select * from event_log order by position") == before
    assert len(before) > 2
    assert await service.fetchval("select count(*) from event_log") == len(before)


async def test_the_services_role_has_no_other_way(database: Database) -> None:
    role = await database.fetchrow("select * from pg_roles where rolname = $1", SERVICE_ROLE)
    assert role is not None
    assert role["rolcanlogin"]
    for power in ("rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls"):
        assert not role[power], power
    assert await database.fetchval("select count(*) from pg_auth_members where member = $1", role["oid"]) == 0
    owned = "select count(*) from pg_class where relowner = $1"
    assert await database.fetchval(owned, role["oid"]) == 0


async def test_a_ledger_says_whether_it_could_rewrite_the_log(service: Database, database: Database) -> None:
    assert not await may_rewrite(service)
    assert await may_rewrite(database)
    await database.execute(f"grant truncate on seals to {SERVICE_ROLE}")
    assert await may_rewrite(service)
    await database.fetchval("select let_serve($1)", SERVICE_ROLE)
    assert not await may_rewrite(service), "every migration brings it back to what it should be"


async def test_what_the_owner_makes_later_can_be_used(service: Database, database: Database) -> None:
    await database.execute(f"set role {OWNER}")
    await database.execute("create table rebuilt (id bigint generated always as identity, note text)")
    await service.execute("insert into rebuilt (note) values ('x'); update rebuilt set note = 'y'; delete from rebuilt")


async def test_a_role_that_is_none_or_the_owner_is_refused(empty_database_url: str) -> None:
    await migrate(empty_database_url)
    with pytest.raises(MigrationError, match="the same role"):
        await let_serve(empty_database_url, empty_database_url)
    with pytest.raises(MigrationError, match="names no role"):
        await let_serve(empty_database_url, "postgresql://localhost/ledger")
    with pytest.raises(MigrationError, match="no password"):
        await let_serve(empty_database_url, "postgresql://nobody_yet@localhost/ledger")
    await let_serve(empty_database_url, as_service(empty_database_url))
    await let_serve(empty_database_url, as_service(empty_database_url))
    assert Settings().owner_database_url is None
