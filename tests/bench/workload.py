"""What the benchmarks send: events and checks of many accounts, all on a plan with limits."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import asyncpg
import orjson

from contracts.identifiers import uuid7
from contracts.limits import Account, Limit, Meter, Plan, Window
from contracts.subjects import subject_of
from ledger_service.administration import change_account, change_plan
from ledger_service.domain.decide import claims_of_account
from ledger_service.store.accounts import PlanCache, lock_terms
from ledger_service.store.counters import read_balances

ACCOUNTS = 10_000
PLAN_ID = "bench"
HOT_ACCOUNT = "hot"
_OPERATIONS, _MODELS = ("generate", "edit", "upscale"), ("small-1", "large-1")


def account_id(index: int) -> str:
    return f"account-{index % ACCOUNTS:05d}"


async def make_accounts(database_url: str, count: int = ACCOUNTS) -> None:
    """Accounts on a plan with a limit on calls and one on cost, whose counters exist as in normal operation."""
    plan = Plan(
        name="Bench",
        limits=[
            Limit(limit_id="calls", meter=Meter.CALLS, window=Window.MONTH, maximum=10**9),
            Limit(limit_id="spend", meter=Meter.COST, window=Window.BILLING_PERIOD, maximum="1000000"),
        ],
    )
    connection = await asyncpg.connect(database_url)
    try:
        await change_plan(connection, PLAN_ID, plan)
        names = [HOT_ACCOUNT, *(account_id(index) for index in range(count))]
        async with connection.transaction():
            for name in names:
                await change_account(connection, name, Account(plan_id=PLAN_ID))
            terms, now = await lock_terms(connection, names, PlanCache(), None), datetime.now(UTC)
            claims = [claim for name in names for claim in claims_of_account(name, terms[name], now)]
            await read_balances(connection, claims)
        await connection.execute("analyze")
    finally:
        await connection.close()


def make_events(count: int, seed: int, accounts: int = ACCOUNTS) -> Iterator[tuple[str, bytes]]:
    """(subject, body) of operations that were requested and completed, in a stable random mix; both count."""
    chance = random.Random(seed)
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=10)
    for sequence in range(0, count, 2):
        account, moment = account_id(chance.randrange(accounts)), begin + timedelta(milliseconds=sequence)
        operation = {
            "operation_id": str(uuid7()), "account_id": account, "user_id": f"user-{chance.randrange(50)}",
            "operation": chance.choice(_OPERATIONS), "provider": "local", "model": chance.choice(_MODELS),
            "quantity": 1, "request_bytes": 300,
        }  # fmt: skip
        outcome = {
            "cost": "0.040000000", "requested_at": moment.isoformat(), "duration_ms": chance.randrange(5000),
            "actual_provider": "local", "status_code": 200, "retry_count": 0, "response_bytes": 200_000,
        }  # fmt: skip
        for offset, kind, data in (
            (1, "requested", {**operation, "estimated_cost": "0.04"}),
            (2, "completed", {**operation, **outcome}),
        ):
            event_type = f"usage.operation.{kind}.v1"
            event = {
                "specversion": "1.0", "id": str(uuid7()), "type": event_type, "source": f"bench-{seed}",
                "subject": account, "time": moment.isoformat(), "sourcesequence": sequence + offset, "data": data,
            }  # fmt: skip
            yield subject_of(event_type), orjson.dumps(event)


def make_check(index: int, hot: bool) -> tuple[str, bytes]:
    """Path and body of a new limit check."""
    check = {
        "operation_id": str(uuid7()), "account_id": HOT_ACCOUNT if hot else account_id(index * 7919),
        "user_id": f"user-{index % 50}", "operation": "generate", "provider": "local", "model": "small-1",
        "estimated_cost": "0.04",
    }  # fmt: skip
    return "/v1/limit-checks", orjson.dumps(check)
