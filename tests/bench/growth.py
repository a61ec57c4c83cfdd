"""The cost of a limit check as the log, the accounts and the open holds grow a thousandfold."""

import asyncio
from functools import partial

import asyncpg

from contracts.subjects import LIMITS_CHECK
from tests.bench.load import Measured
from tests.bench.machine import Servers, service
from tests.bench.nats_load import NatsLoad, run_nats_load
from tests.bench.report import Figure, Report
from tests.bench.workload import make_check_body, plan_id

CALLERS = 64
SCOPES = 4
#: Rows as the ledger writes them, but by SQL alone: a million checks would take minutes. Each account has a hold.
_FILL = (
    """
    insert into accounts (account_id, plan_id, version)
    select 'filler-' || number, $1, 1 from generate_series($2::bigint, $3::bigint) as number
    """,
    """
    insert into decisions (account_id, operation_id, event_id, request_digest, state, user_id, operation, provider,
                           model, quantity, estimated_cost_nanos, decided_at, expires_at)
    select 'filler-' || number, gen_random_uuid(), gen_random_uuid(), '', 'held', 'user-0', 'generate', 'local',
           'small-1', 1, 40000000, now(), now() + interval '1 day'
    from generate_series($2::bigint, $3::bigint) as number where $1 <> ''
    """,
    """
    insert into event_log (account_id, event_id, type, operation_id, terminal, source, occurred_at, body)
    select 'filler-' || number, gen_random_uuid(), 'ledger.reservation.placed.v1', gen_random_uuid(), false, 'ledger',
           now(), '{}'
    from generate_series($2::bigint, $3::bigint) as number where $1 <> ''
    """,
    """
    insert into counters (account_id, scope_key, period_end, counter_id, period_start, meter, settled, held)
    select 'filler-' || number, 'account', '9999-01-01', 'calls account lifetime', '1970-01-01', 'calls', 0, 1
    from generate_series($2::bigint, $3::bigint) as number where $1 <> ''
    """,
)


def measure_growth(made: Servers, report: Report, small: int, large: int, requests: int, repeats: int) -> None:
    """Checks on accounts that were there before, with ``small`` and with ``large`` more of everything."""
    asyncio.run(_fill(made, 1, small))
    few = _measure(made, requests, repeats)
    asyncio.run(_fill(made, small + 1, large))
    many = _measure(made, requests, repeats)
    name = (
        f"limit checks over NATS, {CALLERS} at once, {SCOPES} scopes, {large:,} accounts, log rows, holds and counters"
    )
    report.add(Figure(name, many.per_second, "/s", None, f"the same with {small:,}", few.per_second, (">=", 0.8)))


def _measure(made: Servers, requests: int, repeats: int) -> Measured:
    with service("ledger_service", "LEDGER_PORT", made.environment()):
        make_body = partial(make_check_body, hot=False, scopes=SCOPES)
        load = NatsLoad(made.nats_url, LIMITS_CHECK, CALLERS, requests, make_body)
        runs = sorted((run_nats_load(load) for _ in range(repeats)), key=lambda run: run.per_second)
        return runs[len(runs) // 2]


async def _fill(made: Servers, first: int, last: int) -> None:
    connection = await asyncpg.connect(made.database_url, command_timeout=600)
    try:
        for statement in _FILL:
            await connection.execute(statement, plan_id(SCOPES), first, last)
        await connection.execute("vacuum analyze")
        await connection.execute("checkpoint")
    finally:
        await connection.close()
