"""A long log and its projections, as the ledger writes them, but in large batches: ten million events in minutes.

Of three operations nine tenths were checked, some denied; most were requested and have an outcome,
some of them a failure.
The log's rows are made by SQL; usage log, usage summary and counters are written by the statements of ingest itself.
"""

from collections.abc import Callable
from typing import Final

import asyncpg

from ledger_service.projections import PROJECTIONS
from ledger_service.store.event_log import SQL as EVENT_LOG
from tests.bench.workload import ACCOUNTS

OPERATIONS_PER_BATCH: Final = 50_000
EVENTS_PER_OPERATION: Final = 2.8
_SCOPES = 4

_MORE_COUNTERS: Final = """
    insert into counters (account_id, scope_key, period_end, period_start, counter_id, meter, settled, held)
    select account_id, 'user:user-' || n, period_end, period_start, counter_id, meter, 0, 0
    from counters cross join generate_series(1, 4) as n
    where scope_key = 'user:user-0'
    on conflict do nothing
"""

_OPERATIONS: Final = """
    create temp table operations on commit drop as
    select n, 'account-4-' || lpad((n::bigint * 7919 % $3::bigint)::text, 5, '0') as account_id,
    uuidv7() as operation_id,
           'user-' || n % 5 as user_id, 'project-' || n % 2 as project_id, 'key-' || n % 2 as api_key_id,
           (array ['generate', 'edit', 'upscale'])[n % 3 + 1] as operation,
           (array ['small-1', 'large-1'])[n % 2 + 1] as model,
           date_trunc('second', now()) - n % 1000000 * interval '1 second' as at,
           n % 10 <> 7 as checked, n % 20 = 19 as denied, n % 50 = 0 as open, n % 20 = 3 as failed
    from generate_series($1::bigint, $2::bigint) as n
"""

_CHECKS: Final = """
    with checks as (
        select o.*, uuidv7() as event_id, at + interval '1 minute' as expires_at,
               json_build_object('operation_id', operation_id, 'account_id', account_id, 'user_id', user_id,
                   'project_id', project_id, 'api_key_id', api_key_id, 'operation', operation, 'provider', 'local',
                   'model', model, 'quantity', 1, 'estimated_cost', '0.040000000', 'dry_run', false) as "check"
        from operations o where checked
    ),
    logged as (
        insert into event_log (account_id, event_id, type, operation_id, terminal, source, occurred_at, body)
        select account_id, event_id,
               case when denied then 'ledger.check.denied.v1' else 'ledger.reservation.placed.v1' end, operation_id,
               false, 'ledger', at,
               json_build_object('specversion', '1.0', 'id', event_id, 'type',
                   case when denied then 'ledger.check.denied.v1' else 'ledger.reservation.placed.v1' end,
                   'source', 'ledger', 'subject', account_id, 'time', at, 'data', json_build_object(
                       'check', "check",
                       'decision', json_build_object('operation_id', operation_id, 'allowed', not denied, 'reservation',
                           case when not denied then json_build_object('expires_at', expires_at) end, 'denial', null,
                           'limits', limits.states, 'decided_at', at, 'plan_id', 'bench-4', 'plan_version', 1,
                           'estimated_cost', '0.040000000')))
        from checks
        cross join (
            select json_agg(json_build_object('limit_id', 'limit-' || n, 'scope', 'account', 'meter', 'cost', 'window',
                'billing_period', 'mode', 'hard', 'period', '2026-11-01/2026-12-01', 'maximum', '1000000.000000000',
                'settled', '123.456000000', 'held', '0.040000000', 'available', '999876.504000000')) as states
            from generate_series(1, 4) as n
        ) limits
    )
    insert into decisions (account_id, operation_id, event_id, request_digest, state, user_id, project_id, api_key_id,
                           operation, provider, model, quantity, estimated_cost_nanos, decided_at, expires_at)
    select account_id, operation_id, event_id, substring(sha256(convert_to("check"::text, 'UTF8')) for 16),
           case when denied then 'denied' else 'held' end, user_id, project_id, api_key_id, operation, 'local',
           model, 1,
           40000000, at, case when not denied then expires_at end
    from checks
"""

_HELD: Final = """
    update counters c set held = c.held + h.amount
    from (
        select t.account_id, t.scope_key, t.period_end, t.period_start, t.counter_id,
               sum(meter_amount(t.meter, 1, 1, 40000000)) as amount
        from operations o
        cross join lateral touched_counters(o.account_id, o.user_id, o.project_id, o.api_key_id, o.operation, 'local',
                                            o.model, o.at) t
        where checked and not denied
        group by 1, 2, 3, 4, 5
    ) h
    where c.account_id = h.account_id and c.scope_key = h.scope_key and c.period_end = h.period_end
      and c.period_start = h.period_start and c.counter_id = h.counter_id
"""

_REQUESTED: Final = """
    insert into event_log (account_id, event_id, type, operation_id, terminal, source, source_sequence, occurred_at,
    body)
    select account_id, event_id, 'usage.operation.requested.v1', operation_id, false, 'bench', 2 * n + 1, at,
           json_build_object('specversion', '1.0', 'id', event_id, 'type', 'usage.operation.requested.v1', 'source',
               'bench', 'subject', account_id, 'time', at, 'sourcesequence', 2 * n + 1, 'data', json_build_object(
                   'operation_id', operation_id, 'account_id', account_id, 'user_id', user_id, 'project_id', project_id,
                   'api_key_id', api_key_id, 'operation', operation, 'provider', 'local', 'model', model, 'quantity', 1,
                   'request_bytes', 300, 'estimated_cost', '0.04'))
    from (select o.*, uuidv7() as event_id from operations o where not denied) r
"""

_OUTCOMES: Final = """
    insert into incoming (ordinal, account_id, event_id, type, operation_id, outcome, source, source_sequence,
                          occurred_at, body, user_id, project_id, api_key_id, operation, provider, requested_provider,
                          model, quantity, cost_nanos, requested_at, duration_ms, status_code, retry_count,
                          request_bytes, response_bytes, error_code, error_message, has_metadata)
    select 0, account_id, event_id, type, operation_id, case when failed then 'failed' else 'completed' end, 'bench',
           2 * n + 2, ended_at,
           json_build_object('specversion', '1.0', 'id', event_id, 'type', type, 'source', 'bench', 'subject',
               account_id, 'time', ended_at, 'sourcesequence', 2 * n + 2, 'data', json_build_object(
                   'operation_id', operation_id, 'account_id', account_id, 'user_id', user_id, 'project_id', project_id,
                   'api_key_id', api_key_id, 'operation', operation, 'provider', 'local', 'model', model, 'quantity', 1,
                   'cost', case when failed then '0' else '0.040000000' end, 'requested_at', at, 'duration_ms',
                   n % 5000,
                   'actual_provider', 'local', 'status_code', 200, 'retry_count', 0, 'request_bytes', 300,
                   'metadata', json_build_object('batch', n % 100),
                   case when failed then 'error' else 'response_bytes' end,
                   case when failed then '{"code": "provider_error", "message": "no"}'::json else '200000'::json end)),
           user_id, project_id, api_key_id, operation, 'local', 'local', model, 1,
           case when failed then 0 else 40000000 end, at, n % 5000, 200, 0, 300,
           case when not failed then 200000 end, case when failed then 'provider_error' end,
           case when failed then 'no' end, true
    from (
        select o.*, uuidv7() as event_id, at + interval '3 seconds' as ended_at,
               'usage.operation.' || case when failed then 'failed' else 'completed' end || '.v1' as type
        from operations o where not denied and not open
    ) finished
"""

_LOGGED: Final = """
    insert into event_log
        (account_id, event_id, type, operation_id, terminal, source, source_sequence, occurred_at, body)
    select account_id, event_id, type, operation_id, true, source, source_sequence, occurred_at, body
    from incoming order by account_id, event_id
"""

_SEQUENCES: Final = """
    insert into sources as s (source, recorded)
    select source, range_agg(int8range(source_sequence, source_sequence, '[]'))
    from event_log where source = 'bench' group by source
    on conflict (source) do update set recorded = excluded.recorded
"""


async def fill_log(database_url: str, events: int, report: Callable[[int], None] = lambda done: None) -> None:
    """Adds about so many events of the accounts that make_accounts() made. ``report`` is told how many there are."""
    connection = await asyncpg.connect(database_url, server_settings={"jit": "off", "work_mem": "64MB"})
    operations = int(events / EVENTS_PER_OPERATION)
    try:
        await connection.execute(EVENT_LOG["incoming_table"])
        await connection.execute(_MORE_COUNTERS)
        for first in range(0, operations, OPERATIONS_PER_BATCH):
            last = min(first + OPERATIONS_PER_BATCH, operations) - 1
            async with connection.transaction():
                await connection.execute(_OPERATIONS, first, last, ACCOUNTS)
                for statement in (_CHECKS, _HELD, _REQUESTED, _OUTCOMES, _LOGGED):
                    await connection.execute(statement)
                await connection.execute("analyze incoming")
                for projection in PROJECTIONS:
                    if projection.apply_sql:
                        await connection.execute(projection.apply_sql)
            report(int((last + 1) * EVENTS_PER_OPERATION))
        await connection.execute(_SEQUENCES)
        await connection.execute("vacuum analyze")
        await connection.execute("checkpoint")
    finally:
        await connection.close()
