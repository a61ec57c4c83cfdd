"""Accounts and plans, and the lock on an account under which everything about it is decided."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from contracts.limits import Account, AccountStored, Plan, PlanStored
from ledger_service.domain.decide import Terms
from ledger_service.domain.periods import Calendar
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


class PlanCache:
    """Parsed plans by id and version. A version never changes, so an entry is never stale; old ones are dropped."""

    _ENTRIES_MAX: Final = 10_000

    def __init__(self) -> None:
        self._plans: dict[str, PlanStored] = {}

    async def get(self, connection: "Connection", plan_id: str | None, version: int | None) -> Plan | None:
        """The plan of that version, or a newer one that came meanwhile; None where there is no plan by that id.

        A version of None asks again: the plan may have come after the statement that looked for it began.
        """
        if plan_id is None:
            return None
        cached = self._plans.get(plan_id)
        if cached is None or version is None or cached.version < version:
            cached = await find_plan(connection, plan_id)
            if cached is None:
                return None
            if len(self._plans) >= self._ENTRIES_MAX:
                self._plans.clear()
            self._plans[plan_id] = cached
        return cached


async def lock_accounts(connection: "Connection", account_ids: Collection[str]) -> None:
    """Locks accounts (unique ids) until the transaction ends. Those never seen before get a row first."""
    wanted = sorted(account_ids)
    if await connection.fetchval(SQL["lock"], wanted) < len(wanted):
        await connection.execute(SQL["add_seen"], wanted)
        await connection.execute(SQL["lock"], wanted)


async def lock_terms(
    connection: "Connection", account_ids: Collection[str], plans: PlanCache, default_plan_id: str | None
) -> dict[str, Terms]:
    """As lock_accounts, and the terms of each; the default plan's where an account was never registered."""
    wanted = sorted(account_ids)
    rows = await connection.fetch(SQL["lock_terms"], wanted, default_plan_id)
    if len(rows) < len(wanted):
        await connection.execute(SQL["add_seen"], wanted)
        rows = await connection.fetch(SQL["lock_terms"], wanted, default_plan_id)
    return await _terms(connection, rows, plans)


async def read_terms(
    connection: "Connection", account_ids: Collection[str], plans: PlanCache, default_plan_id: str | None
) -> dict[str, Terms]:
    """The same without a lock: to show, not to decide on."""
    return await _terms(connection, await connection.fetch(SQL["terms"], list(account_ids), default_plan_id), plans)


async def _terms(connection: "Connection", rows: "list[asyncpg.Record]", plans: PlanCache) -> dict[str, Terms]:
    return {
        row["account_id"]: Terms(
            row["plan_id"],
            await plans.get(connection, row["plan_id"], row["plan_version"]),
            Calendar(row["time_zone"], row["billing_anchor"]),
        )
        for row in rows
    }


async def put_account(connection: "Connection", account_id: str, account: Account) -> AccountStored:
    """Creates or replaces an account; its version grows by one."""
    version = await connection.fetchval(
        SQL["put_account"], account_id, account.plan_id, account.time_zone, account.billing_anchor
    )
    return AccountStored(account_id=account_id, version=version, **account.model_dump())


async def find_account(connection: "Connection", account_id: str) -> "asyncpg.Record | None":
    """The account's row; version 0 and no plan where it was only ever seen in events or checks."""
    return await connection.fetchrow(SQL["find_account"], account_id)


async def put_plan(connection: "Connection", plan_id: str, plan: Plan) -> PlanStored:
    """Creates a plan or its next version."""
    version = await connection.fetchval(SQL["put_plan"], plan_id, plan.model_dump_json())
    return PlanStored(plan_id=plan_id, version=version, **plan.model_dump())


async def find_plan(connection: "Connection", plan_id: str) -> PlanStored | None:
    row = await connection.fetchrow(SQL["find_plan"], plan_id)
    if row is None:
        return None
    plan = Plan.model_validate_json(row["body"])
    return PlanStored.model_construct(plan_id=plan_id, version=row["version"], name=plan.name, limits=plan.limits)
