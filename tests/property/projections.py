"""The ledger's tables, compared with the oracle: with what a test told it, or with what the log alone says."""

from typing import TYPE_CHECKING, TypeAlias

import asyncpg
import orjson

from contracts.money import format_nanos
from tests.oracle import Body, Correction, Oracle, held_at, is_failed, moment, nanos

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
else:
    Connection = asyncpg.Connection

PLACED, MOVED, DENIED = "ledger.reservation.placed.v1", "ledger.reservation.moved.v1", "ledger.check.denied.v1"
ENDED = {"ledger.reservation.released.v1": "released", "ledger.reservation.expired.v1": "expired"}


async def replayed(database: Connection, account_ids: set[str]) -> Oracle:
    """An oracle that was told of these accounts what the event log says, and nothing else."""
    oracle = Oracle()
    rows = await database.fetch(
        "select type, body::text from event_log where account_id = any ($1::text[]) order by transaction_id, position",
        sorted(account_ids),
    )
    for row in rows:
        event = orjson.loads(row["body"])
        data = event["data"]
        if row["type"].startswith("usage."):
            assert oracle.event(event) == "accepted"
        elif row["type"] in (PLACED, MOVED, DENIED):
            check = held_at(data["check"], data["decision"])
            oracle.decided(check, row["type"] != DENIED, data["decision"]["decided_at"])
        elif row["type"] == "ledger.adjustment.recorded.v1":
            assert oracle.adjustment(data["request"], moment(event["time"])) == "recorded"
        elif row["type"] in ENDED:
            oracle.closed(data["account_id"], data["operation_id"], ENDED[row["type"]])
    return oracle


async def assert_projections_agree(database: Connection, oracle: Oracle, account_ids: set[str]) -> None:
    """usage_log, usage_summary, decisions and counters of these accounts are what the oracle says."""
    for account_id in sorted(account_ids):
        await _usage_log_agrees(database, oracle, account_id)
        await _usage_summary_agrees(database, oracle, account_id)
        await _decisions_agree(database, oracle, account_id)
        await counters_agree(database, oracle, account_id)


async def _usage_log_agrees(database: Connection, oracle: Oracle, account_id: str) -> None:
    rows = await database.fetch(
        """
        select event_id::text, operation_id::text, outcome, user_id, project_id, api_key_id, operation, provider,
               requested_provider, model, quantity, cost_nanos, occurred_at, counted_at, error_code
        from usage_log where account_id = $1 and outcome <> 'adjustment' order by occurred_at desc, operation_id desc
        """,
        account_id,
    )
    assert [dict(row) for row in rows] == [_usage_log_row(oracle, event) for event in oracle.usage_log(account_id)]
    rows = await database.fetch(
        """
        select operation_id::text, user_id, project_id, api_key_id, operation, provider, model, occurred_at, counted_at,
               adjusted_calls as calls, quantity as units, adjusted_failures as failures, cost_nanos as cost,
               adjustment ->> 'kind' as kind, adjustment ->> 'reason' as reason
        from usage_log where account_id = $1 and outcome = 'adjustment' order by position, operation_id
        """,
        account_id,
    )
    found = {row["operation_id"]: dict(row) for row in rows}
    assert found == {one.asked["adjustment_id"]: _adjustment_row(one) for one in oracle.corrected(account_id)}


def _adjustment_row(one: Correction) -> Body:
    return {
        "operation_id": one.asked["adjustment_id"],
        "kind": one.asked["kind"],
        "reason": one.asked["reason"],
        **{name: one.facts.get(name) for name in ("user_id", "project_id", "api_key_id")},
        **{name: one.facts[name] for name in ("operation", "provider", "model")},
        **one.adds,
        "occurred_at": one.occurred_at,
        "counted_at": one.counted_at,
    }


def _usage_log_row(oracle: Oracle, event: Body) -> Body:
    data = event["data"]
    operation = oracle.operations[data["account_id"], data["operation_id"]]
    return {
        "event_id": event["id"],
        "operation_id": data["operation_id"],
        "outcome": "failed" if is_failed(event) else "completed",
        "user_id": data["user_id"],
        "project_id": data.get("project_id"),
        "api_key_id": data.get("api_key_id"),
        "operation": data["operation"],
        "provider": data["actual_provider"],
        "requested_provider": data["provider"],
        "model": data["model"],
        "quantity": data["quantity"],
        "cost_nanos": nanos(data["cost"]),
        "occurred_at": moment(event["time"]),
        "counted_at": operation.counted_at,
        "error_code": data.get("error", {}).get("code"),
    }


async def _usage_summary_agrees(database: Connection, oracle: Oracle, account_id: str) -> None:
    rows = await database.fetch(
        """
        select to_char(period, 'YYYY-MM') as month, operation, provider, model, calls, units, cost_nanos, failures
        from usage_summary where account_id = $1
        """,
        account_id,
    )
    found = {tuple(row[:4]): dict(row.items()) for row in rows}
    cells = {
        (f"{moment(event['time']):%Y-%m}", data["operation"], data["actual_provider"], data["model"])
        for event in oracle.usage_log(account_id)
        for data in (event["data"],)
    } | {
        (f"{one.occurred_at:%Y-%m}", one.facts["operation"], one.facts["provider"], one.facts["model"])
        for one in oracle.corrected(account_id)
    }
    assert set(found) == cells
    for month, operation, provider, model in cells:
        expected = oracle.totals(account_id, month, operation=operation, provider=provider, model=model)
        row = found[month, operation, provider, model]
        assert {name: row[name] for name in expected} == expected


async def _decisions_agree(database: Connection, oracle: Oracle, account_id: str) -> None:
    rows = await database.fetch(
        "select operation_id::text, state, decided_at from decisions where account_id = $1", account_id
    )
    expected = {
        operation_id: (oracle.state(account_id, operation_id), operation.decided_at)
        for (account, operation_id), operation in list(oracle.operations.items())
        if account == account_id and operation.check is not None
    }
    assert {row["operation_id"]: (row["state"], row["decided_at"]) for row in rows} == expected


async def counters_agree(database: Connection, oracle: Oracle, account_id: str) -> None:
    """Every counter that exists has settled and held what the oracle counts for it."""
    for row in await database.fetch("select * from counters where account_id = $1", account_id):
        selector = {"operation": row["operations"], "provider": row["providers"], "model": row["models"]}
        expected = oracle.counter(
            account_id, row["scope_key"], row["meter"], selector, row["period_start"], row["period_end"]
        )
        assert (row["settled"], row["held"]) == expected, dict(row.items())


def totals_view(oracle: Oracle, account_id: str, month: str, **only: str) -> Body:
    """The totals as the query API writes them."""
    totals = oracle.totals(account_id, month, **only)
    cost = totals.pop("cost_nanos")
    return {**totals, "cost": format_nanos(cost)}
