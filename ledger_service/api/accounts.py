"""Administration of plans and accounts."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from contracts.identifiers import Name
from contracts.limits import Account, AccountStored, Plan, PlanStored
from contracts.problems import NOT_FOUND, ProblemError
from ledger_service.administration import change_account, change_plan
from ledger_service.api.access import LedgerRoute
from ledger_service.api.bodies import refuse_ambiguous
from ledger_service.api.moments import Demanded, reading, writing
from ledger_service.services import Services, services
from ledger_service.store.accounts import find_account, find_plan

router = APIRouter(
    route_class=LedgerRoute, prefix="/v1", tags=["administration"], dependencies=[Depends(refuse_ambiguous)]
)

Wired = Annotated[Services, Depends(services)]


@router.put("/plans/{plan_id}")
async def write_plan(plan_id: Name, plan: Plan, wired: Wired, response: Response) -> PlanStored:
    """Creates a plan, or its next version, which holds from the next limit check on."""
    async with writing(wired.reads, response) as connection:
        return await change_plan(connection, plan_id, plan)


@router.get("/plans/{plan_id}")
async def read_plan(plan_id: Name, wired: Wired, demand: Demanded, response: Response) -> PlanStored:
    """The plan's newest version, or the one that it had at ``as_of``."""
    async with reading(wired, demand) as read:
        plan = await find_plan(read.known, plan_id)
    read.tell(response)
    if plan is None:
        raise ProblemError(NOT_FOUND, f"there is no plan {plan_id}")
    return plan


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
