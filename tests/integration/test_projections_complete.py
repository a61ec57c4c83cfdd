"""Nothing is forgotten: every table is the log, or says how it follows from it, and so does every column."""

import asyncpg

from contracts.events import EVENT_MODELS
from ledger_service.projections import NO_PROJECTIONS, PROJECTIONS, facts
from ledger_service.store.tables import read_tables
from tests.integration.test_queries import RELATIONS_OF_REBUILDS


async def test_every_table_is_a_projection_or_says_why_it_is_none(
    database: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    rows = await database.fetch(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')"
    )
    projections = {one.name for one in PROJECTIONS}
    assert {row["relname"] for row in rows} == projections | set(NO_PROJECTIONS)
    assert not projections & set(NO_PROJECTIONS)


async def test_every_column_is_rebuilt_or_said_to_be_untold(database: "asyncpg.Connection[asyncpg.Record]") -> None:
    await database.execute(RELATIONS_OF_REBUILDS)
    tables = await read_tables(database, (one.name for one in PROJECTIONS))
    for one in PROJECTIONS:
        prepared = await database.prepare(f"select * from rebuilt_{one.name}")
        rebuilt = [attribute.name for attribute in prepared.get_attributes()]
        columns = [column.strip('"') for column in tables[one.name].columns]
        assert sorted(rebuilt) == sorted(set(columns) - set(one.untold)), one.name
        assert set(one.untold) <= set(one.trusted), f"{one.name} does not say why"
        named = {*one.sums, *one.json_by_meaning, *one.untold}
        assert named <= set(columns), one.name
        if one.by_account:
            assert "account_id" in columns, one.name


def test_every_version_of_an_outcome_is_read() -> None:
    outcomes = {name for name, model in EVENT_MODELS.items() if model.outcome is not None}
    assert outcomes == facts.OUTCOME_TYPES
