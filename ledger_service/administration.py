"""Plans and accounts: each change is an event in the log, in the same transaction."""

from datetime import UTC, datetime

from pydantic import BaseModel

from contracts.identifiers import uuid7
from contracts.limits import Account, AccountStored, Plan, PlanStored
from contracts.problems import VERSION_CHANGED, ProblemError, broken_rule
from ledger_service.authorship import author_now
from ledger_service.domain.counters import too_much_selected
from ledger_service.domain.ledger_events import ACCOUNT_CHANGED, NO_ACCOUNT, PLAN_CHANGED, ledger_event
from ledger_service.store.accounts import lock_accounts, put_account, put_plan
from ledger_service.store.event_log import append_one
from ledger_service.store.pool import Connection


async def change_plan(connection: Connection, plan_id: str, plan: Plan, if_version: int | None = None) -> PlanStored:
    """Creates a plan or its next version; holds that are open stay as they are.

    ``if_version``: only where that is the version it has, 0 = none yet; else raises ProblemError (version_changed).
    Raises ProblemError too where a limit selects more than can be counted.
    """
    for place, limit in enumerate(plan.limits):
        if wrong := too_much_selected(limit):
            raise broken_rule(f"limits[{place}].selector", "too_long", wrong)
    async with connection.transaction():
        stored = await put_plan(connection, plan_id, plan)
        if if_version is not None and stored.version != if_version + 1:
            message = f"plan {plan_id} has the version {stored.version - 1} by now, and not {if_version}"
            raise ProblemError(VERSION_CHANGED, message)
        await log_change(connection, PLAN_CHANGED, NO_ACCOUNT, stored)
    return stored


async def change_account(connection: Connection, account_id: str, account: Account) -> AccountStored:
    """Creates an account or changes its plan or calendar."""
    async with connection.transaction():
        await lock_accounts(connection, [account_id])
        stored = await put_account(connection, account_id, account)
        await log_change(connection, ACCOUNT_CHANGED, account_id, stored)
    return stored


async def log_change(connection: Connection, event_type: str, account_id: str, stored: BaseModel) -> None:
    """An administrative change as an event in the log; to be called within the change's own transaction."""
    event_id, now = uuid7(), datetime.now(UTC)
    author = await author_now(connection)
    body = ledger_event(event_id, event_type, account_id, now, stored.model_dump(mode="json"), author)
    await append_one(connection, account_id, event_id, event_type, None, now, body)
