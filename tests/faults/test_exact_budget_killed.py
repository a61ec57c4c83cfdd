"""Ledgers killed again and again while a hundred callers rush at a budget; and a window that ends with holds open."""

import asyncio
import os
import secrets
from datetime import UTC, datetime

import asyncpg
import pytest

from tests.builders import ACCOUNT, check, completed, limit
from tests.e2e.budget import Database, StartProcess, assert_log_is_right
from tests.e2e.budget_killed import rounds_with_kills
from tests.servers import Ledger

pytestmark = pytest.mark.faults

ROUNDS = int(os.environ.get("BUDGET_ROUNDS", "30"))


async def test_thirty_kills_admit_nineteen_each_time(
    ledger_process: StartProcess, database: "Database[asyncpg.Record]", nats_url: str
) -> None:
    seed = int(os.environ.get("BUDGET_SEED") or secrets.randbelow(10**6))
    print(f"BUDGET_SEED={seed}")
    await rounds_with_kills([ledger_process() for _ in range(3)], database, nats_url, ROUNDS, seed)


async def test_a_hold_settles_in_the_minute_in_which_it_was_placed(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    """Waits for the end of a real minute. What is settled after it leaves the new minute alone."""
    minute, hour = (limit(window, meter="cost", maximum="1", window=window) for window in ("minute", "lifetime"))
    await ledger.set_up(minute, hour)
    if datetime.now(UTC).second > 50:  # too near its end
        await asyncio.sleep(12)
    first = check(estimated_cost="0.6")
    decision = await ledger.check(first)
    await asyncio.sleep(61 - datetime.now(UTC).second)
    later = await ledger.check(check(estimated_cost="0.4"))
    assert [(state["limit_id"], state["held"]) for state in later["limits"]] == [
        ("minute", "0.400000000"),
        ("lifetime", "1.000000000"),
    ]
    assert later["limits"][0]["period"] != decision["limits"][0]["period"]
    await ledger.send(completed(first, cost="0.9"))
    state = await ledger.limit("minute")
    assert (state["settled"], state["held"], state["available"]) == ("0.000000000", "0.400000000", "0.600000000")
    state = await ledger.limit("lifetime")
    assert (state["settled"], state["held"], state["available"]) == ("0.900000000", "0.400000000", "-0.300000000")
    await assert_log_is_right(database, ACCOUNT, minute, hour, strict=False)
