"""What the benchmarks send: events and checks of many accounts, on plans with one limit and with four."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import asyncpg
import orjson

from contracts.identifiers import uuid7
from contracts.limits import Account, Limit, LimitCheck, Meter, Plan, Scope, Window
from contracts.subjects import subject_of
from ledger_service.administration import change_account, change_plan
from ledger_service.domain.decide import claims_of
from ledger_service.store.counters import read_balances
from ledger_service.store.terms import TermsCache, lock_terms

ACCOUNTS = 10_000
CALLERS_OF_HOT = 50
PLANS = {
    1: Plan(name="One", limits=[Limit(limit_id="calls", meter=Meter.CALLS, window=Window.MONTH, maximum=10**9)]),
    4: Plan(
        name="Four",
        limits=[
            Limit(limit_id="spend", meter=Meter.COST, window=Window.BILLING_PERIOD, maximum="1000000"),
            Limit(limit_id="calls", meter=Meter.CALLS, scope=Scope.USER, window=Window.DAY, maximum=10**9),
            Limit(limit_id="units", meter=Meter.UNITS, scope=Scope.PROJECT, window=Window.MONTH, maximum=10**9),
            Limit(limit_id="key", meter=Meter.COST, scope=Scope.API_KEY, window=Window.MONTH, maximum="1000000"),
        ],
    ),
}
_OPERATIONS, _MODELS = ("generate", "edit", "upscale"), ("small-1", "large-1")


def plan_id(scopes: int) -> str:
    return f"bench-{scopes}"


def account_id(index: int, scopes: int = 1) -> str:
    return f"account-{scopes}-{index % ACCOUNTS:05d}"


def hot_account(scopes: int) -> str:
    return f"hot-{scopes}"


async def make_accounts(database_url: str, count: int = ACCOUNTS) -> None:
    """Accounts on plans with one and with four limits, whose counters exist as in normal operation."""
    connection = await asyncpg.connect(database_url)
    try:
        for scopes, plan in PLANS.items():
            await change_plan(connection, plan_id(scopes), plan)
            names = [hot_account(scopes), *(account_id(index, scopes) for index in range(count))]
            async with connection.transaction():
                for name in names:
                    await change_account(connection, name, Account(plan_id=plan_id(scopes)))
                terms, now = await lock_terms(connection, names, TermsCache(), None)
                checks = [LimitCheck.model_validate(one) for one in _first_checks(names, hot_account(scopes))]
                claims = [claim for check in checks for claim in claims_of(check, terms[check.account_id], now)]
                await read_balances(connection, claims)
        await connection.execute("analyze")
    finally:
        await connection.close()


def _first_checks(names: list[str], hot: str) -> Iterator[dict[str, object]]:
    """One of each caller whose counters are to exist."""
    for name in names:
        yield _check(name, 0)
    for index in range(CALLERS_OF_HOT):
        yield _check(hot, index)


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


def make_check(index: int, hot: bool, scopes: int = 1) -> tuple[str, bytes]:
    """Path and body of a new limit check."""
    name = hot_account(scopes) if hot else account_id(index * 7919, scopes)
    return "/v1/limit-checks", orjson.dumps(_check(name, index if hot else 0))


def make_check_body(index: int, hot: bool, scopes: int) -> bytes:
    return make_check(index, hot, scopes)[1]


def _check(name: str, index: int) -> dict[str, object]:
    caller = index % CALLERS_OF_HOT
    return {
        "operation_id": str(uuid7()), "account_id": name, "user_id": f"user-{caller}",
        "project_id": f"project-{caller % 5}", "api_key_id": f"key-{caller % 10}", "operation": "generate",
        "provider": "local", "model": "small-1", "estimated_cost": "0.04",
    }  # fmt: skip
