"""Where one account is asked for, views of finance go through an index, also where the log is long."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import orjson
import pytest

from deploy.postgres.roles import FINANCE
from tests.servers import as_role

GUIDE: Final = (Path(__file__).parents[2] / "deploy/guides/finance-sql.md").read_text()
BLOCKS: Final = dict(re.findall(r"^```sql\n-- name: (\w+)\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL))
LARGE: Final = {"usage_log", "usage_summary", "decisions", "event_log"}
#: 50 accounts, 18 months; as many decisions. Written straight into the tables, as only plans are looked at.
FILL: Final = """
insert into accounts (account_id) select 'acme' || n from generate_series(0, 49) n;
insert into usage_log (account_id, operation_id, event_id, outcome, user_id, operation, provider, requested_provider,
                       model, quantity, cost_nanos, requested_at, occurred_at, counted_at, recorded_at, duration_ms,
                       retry_count, request_bytes, held_cost_nanos)
select 'acme' || n % 50, gen_random_uuid(), gen_random_uuid(), case when n % 9 = 0 then 'failed' else 'completed' end,
       'user-' || n % 700, 'generate', 'local', 'local', 'model-' || n % 7, 1, n, t, t, t, t, 1, 0, 1, n
from generate_series(1, 50000) n
cross join lateral (select timestamptz '2025-05-01 00:00Z' + n * interval '15.6 minutes' as t) at;
insert into usage_summary
select account_id, period, operation, provider, model || '-' || n, 1, 1, 1, 1
from (select distinct account_id, own_period(occurred_at) as period, operation, provider, model from usage_log) s
cross join generate_series(1, 5) n;
insert into decisions (account_id, operation_id, event_id, request_digest, state, user_id, operation, provider, model,
                       quantity, estimated_cost_nanos, decided_at)
select account_id, operation_id, event_id, 'x', 'settled', user_id, operation, provider, model, 1, 1, counted_at
from usage_log where occurred_at > '2026-05-01';
insert into event_log (account_id, event_id, type, operation_id, terminal, source, occurred_at, body)
select account_id, event_id, 'usage.operation.completed.v1', operation_id, true, 'tests', occurred_at, '{}'
from usage_log where occurred_at > '2026-05-01';
analyze usage_log, usage_summary, decisions, event_log, accounts;
"""
MONTH: Final = "occurred_at >= '2026-09-01 00:00Z' and occurred_at < '2026-10-01 00:00Z'"
#: Of one account: the query, and a column that it finds rows of a large table by.
QUERIES: Final = {
    f"select month_local, sum(cost) from usage_log where account_id = 'acme7' and {MONTH} group by 1": "occurred_at",
    f"select model, sum(margin) from margin where account_id = 'acme7' and {MONTH} group by 1": "occurred_at",
    # Few rows are corrections: an index of those alone is as good.
    f"select sum(cost) from corrections where account_id = 'acme7' and {MONTH}": "account_id",
    "select sum(cost) from usage_log where account_id = 'acme7' and booked_month = '2026-09-01'": "account_id",
    "select sum(cost) from usage_summary where account_id = 'acme7' and booked_month = '2026-09-01'": "period",
    "select state, sum(difference) from holds where account_id = 'acme7' group by 1": "account_id",
    "select count(*) from decisions where account_id = 'acme7' and denial_code = 'limit_exceeded'": "account_id",
    BLOCKS["cost_by_local_day"].replace("'acme'", "'acme7'"): "occurred_at",
    BLOCKS["failed_but_billed"].replace("where u.", "where u.account_id = 'acme7' and u."): "occurred_at",
}


@pytest.fixture
async def finance(database_url: str, database: "asyncpg.Connection[asyncpg.Record]") -> AsyncIterator[Any]:
    await database.execute(FILL)
    connection = await asyncpg.connect(as_role(database_url, FINANCE))
    yield connection
    await connection.close()


async def test_one_account_and_month_are_found_by_an_index(finance: "asyncpg.Connection[asyncpg.Record]") -> None:
    for query, column in QUERIES.items():
        plan = orjson.loads(await finance.fetchval(f"explain (analyze, format json) {query}"))[0]["Plan"]
        scans = [node for node in _nodes(plan) if node.get("Relation Name") in LARGE]
        assert scans, query
        assert [node for node in scans if node["Node Type"] == "Seq Scan"] == [], query
        conditions = " ".join(node.get("Index Cond", "") for node in _nodes(plan))
        assert "account_id" in conditions, query
        assert column in conditions, query


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for part in plan.get("Plans", []) for node in _nodes(part))]
