"""Every query fits the schema, and every table about accounts can be sharded by account."""

from collections.abc import Iterator

import asyncpg
import pytest

from ledger_service.projections import PROJECTIONS, facts
from ledger_service.store import archives, event_log
from ledger_service.store.queries import every_query
from tests.servers import Databases

#: Small reference tables, the same on every shard.
ABOUT_NO_ACCOUNT = {
    "plans",
    "sources",
    "dead_letters",
    "dead_letter_actions",
    "schema_migrations",
    "prices",
    "price_catalogue",
    "signing_keys",
    "seals",
    "seal_nodes",
    "outcome_effects",
    "service_tokens",
    "stream_marks",
    "stream_gaps",
    "usage_hourly_all",
    "usage_daily_all",
    "denials_hourly",
    "denials_counted",
    "usage_archives",
    "source_accounts",
    "source_holes",
    "notification_cursors",
}
QUERIES = dict(every_query())
#: What verification.compose() puts before the queries of a rebuild.
RELATIONS_OF_REBUILDS = ";".join(
    [
        "create temp view events as select * from event_log",
        *(f"create temp view {name} as {sql}" for name, sql in facts.RELATIONS.items()),
        *(
            f"create temp view live_{one.name} as select * from {one.name};"
            f"create temp view rebuilt_{one.name} as {one.rebuild_sql}"
            for one in PROJECTIONS
        ),
    ]
)


@pytest.fixture(scope="module")
def database_url(databases: Databases) -> Iterator[str]:
    """One for all: nothing here leaves anything behind that its connection does not take along."""
    with databases.cloned() as url:
        yield url


@pytest.mark.parametrize("name", QUERIES)
async def test_every_query_is_prepared_against_the_migrated_schema(
    name: str, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await event_log.prepare_connection(database)
    await database.execute(archives.SQL["restored_table"])
    if name.startswith("ledger_service.projections."):
        await database.execute(RELATIONS_OF_REBUILDS)
    await database.prepare(QUERIES[name])


async def test_account_id_leads_every_unique_key_of_tables_about_accounts(
    database: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    keys = await database.fetch(
        """
        select t.relname as table, i.indexrelid::regclass::text as key, a.attname as first
        from pg_index i
        join pg_class t on t.oid = i.indrelid
        join pg_attribute a on a.attrelid = t.oid and a.attnum = i.indkey[0]
        where t.relnamespace = 'public'::regnamespace and i.indisunique
        """
    )
    about_accounts = [key for key in keys if key["table"] not in ABOUT_NO_ACCOUNT]
    assert {key["table"] for key in about_accounts} >= {"accounts", "event_log", "usage_log", "counters", "decisions"}
    assert [key["key"] for key in about_accounts if key["first"] != "account_id"] == []


async def test_every_table_about_accounts_has_a_primary_key_and_the_account_in_it(
    database: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    without = await database.fetch(
        """
        select t.relname
        from pg_class t
        left join pg_index i on i.indrelid = t.oid and i.indisprimary
        where t.relnamespace = 'public'::regnamespace and t.relkind in ('r', 'p') and i.indexrelid is null
        """
    )
    assert [row["relname"] for row in without] == []
