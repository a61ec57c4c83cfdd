"""Administration of plans and accounts."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import StringConstraints

from contracts.administration import AccountList, AccountListed, PlanList
from contracts.identifiers import Name
from contracts.limits import Account, AccountStored, Plan, PlanStored
from contracts.problems import NOT_FOUND, ProblemError
from ledger_service.administration import change_account, change_plan
from ledger_service.api.access import LedgerRoute
from ledger_service.api.bodies import refuse_ambiguous
from ledger_service.api.moments import Demanded, reading, writing
from ledger_service.services import Services, services
from ledger_service.store.accounts import find_account, find_plan, list_accounts, list_plans

router = APIRouter(
    route_class=LedgerRoute, prefix="/v1", tags=["administration"], dependencies=[Depends(refuse_ambiguous)]
)

Wired = Annotated[Services, Depends(services)]
#: The beginning of a name; of none there is, where it breaks the rule of names.
Prefix = Annotated[str, StringConstraints(max_length=128, pattern=r"^[^\x00]*$")]
#: Where the page before ended: the last name on it.
Cursor = Annotated[Prefix, Query(description="goes on where the page before ended")]


@router.put("/plans/{plan_id}")
async def write_plan(
    plan_id: Name,
    plan: Plan,
    wired: Wired,
    response: Response,
    if_version: Annotated[
        int | None, Query(ge=0, le=2**31 - 1, description="only where this is its version; 0: there is none yet")
    ] = None,
) -> PlanStored:
    """Creates a plan, or its next version, which holds from the next limit check on.

    With ``if_version``, what somebody else saved meanwhile is not overwritten: 409.
    """
    async with writing(wired.reads, response) as connection:
        return await change_plan(connection, plan_id, plan, if_version)


@router.get("/plans")
async def read_plans(
    wired: Wired,
    demand: Demanded,
    response: Response,
    cursor: Cursor = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> PlanList:
    """Every plan's newest version, by plan_id, and how many accounts are registered with it."""
    async with reading(wired, demand) as read:
        items = await list_plans(read.known, cursor, limit)
    read.tell(response)
    return PlanList(items=items, next_cursor=items[-1].plan_id if len(items) == limit else None)


@router.get("/plans/{plan_id}")
async def read_plan(plan_id: Name, wired: Wired, demand: Demanded, response: Response) -> PlanStored:
    """The plan's newest version, or the one that it had at ``as_of``."""
    async with reading(wired, demand) as read:
        plan = await find_plan(read.known, plan_id)
    read.tell(response)
    if plan is None:
        raise ProblemError(NOT_FOUND, f"there is no plan {plan_id}")
    return plan


@router.get("/accounts")
async def read_accounts(
    wired: Wired,
    demand: Demanded,
    response: Response,
    prefix: Annotated[Prefix, Query(description="how their names begin")] = "",
    cursor: Cursor = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> AccountList:
    """Accounts by account_id, those also that were only ever seen in checks or events."""
    async with reading(wired, demand) as read:
        rows = await list_accounts(read.known, prefix, cursor, limit)
    read.tell(response)
    items = [AccountListed.model_validate(dict(row)) for row in rows]
    return AccountList(items=items, next_cursor=items[-1].account_id if len(items) == limit else None)


@router.put("/accounts/{account_id}")
async def write_account(account_id: Name, account: Account, wired: Wired, response: Response) -> AccountStored:
    """Registers an account, or changes its plan or calendar.

    The plan may come later: until then its limit checks are denied as unknown_plan.
    """
    async with writing(wired.reads, response) as connection:
        return await change_account(connection, account_id, account)


@router.get("/accounts/{account_id}")
async def read_account(account_id: Name, wired: Wired, demand: Demanded, response: Response) -> AccountStored:
    """The account as it is registered, or was at ``as_of``."""
    async with reading(wired, demand) as read:
        row = await find_account(read.known, account_id)
    read.tell(response)
    if row is None or row["plan_id"] is None:
        raise ProblemError(NOT_FOUND, f"account {account_id} is not registered")
    return AccountStored.model_validate(dict(row))
