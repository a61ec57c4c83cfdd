"""Accounts and plans, and the lock on an account under which everything about it is decided."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from contracts.administration import PlanListed
from contracts.limits import Account, AccountStored, Plan, PlanStored
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


async def lock_accounts(connection: "Connection", account_ids: Collection[str]) -> None:
    """Locks accounts (unique ids) until the transaction ends. Those never seen before get a row first."""
    wanted = sorted(account_ids)
    if await connection.fetchval(SQL["lock"], wanted) < len(wanted):
        await add_seen(connection, wanted)
        await connection.execute(SQL["lock"], wanted)


async def lock_known_accounts(connection: "Connection", account_ids: Collection[str]) -> None:
    """Locks those of the accounts that have a row."""
    await connection.execute(SQL["lock"], sorted(account_ids))


async def add_seen(connection: "Connection", account_ids: list[str]) -> None:
    """Gives accounts (sorted) that were never seen before a row."""
    await connection.execute(SQL["add_seen"], account_ids)


async def put_account(connection: "Connection", account_id: str, account: Account) -> AccountStored:
    """Creates or replaces an account; its version grows by one."""
    version = await connection.fetchval(
        SQL["put_account"], account_id, account.plan_id, account.time_zone, account.billing_anchor
    )
    return AccountStored(account_id=account_id, version=version, **account.model_dump())


async def find_account(connection: "Connection", account_id: str) -> "asyncpg.Record | None":
    """The account's row; version 0 and no plan where it was only ever seen in events or checks."""
    return await connection.fetchrow(SQL["find_account"], account_id)


async def list_accounts(connection: "Connection", prefix: str, after: str, rows_max: int) -> "list[asyncpg.Record]":
    """Accounts whose name begins so, after the one of this name, in the order of their names."""
    return await connection.fetch(SQL["page"], prefix, after, rows_max)


async def put_plan(connection: "Connection", plan_id: str, plan: Plan) -> PlanStored:
    """Creates a plan or its next version."""
    version = await connection.fetchval(SQL["put_plan"], plan_id, plan.model_dump_json())
    return PlanStored.model_construct(plan_id=plan_id, version=version, **dict(plan))


async def find_plan(connection: "Connection", plan_id: str) -> PlanStored | None:
    row = await connection.fetchrow(SQL["find_plan"], plan_id)
    if row is None:
        return None
    plan = Plan.model_validate_json(row["body"])
    return PlanStored.model_construct(plan_id=plan_id, version=row["version"], **dict(plan))


async def list_plans(connection: "Connection", after: str, rows_max: int) -> list[PlanListed]:
    """Plans after the one of this name, in the order of their names, each with how many accounts it has."""
    plans = []
    for row in await connection.fetch(SQL["plans_page"], after, rows_max):
        kept = {"plan_id": row["plan_id"], "version": row["version"], "accounts": row["accounts"]}
        plan = Plan.model_validate_json(row["body"])
        plans.append(PlanListed.model_construct(**kept, recorded_at=row["recorded_at"], **dict(plan)))
    return plans


async def change_limits(connection: "Connection", account_id: str) -> int:
    """Locks an account whose overrides or grants are about to change, and answers their new version."""
    version: int = await connection.fetchval(SQL["change_limits"], account_id)
    return version
