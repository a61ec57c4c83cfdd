"""Prepaid credit of accounts."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from contracts.credits import CreditGrant, CreditGrants, CreditGrantStored
from contracts.identifiers import Name
from ledger_service.api.access import LedgerRoute
from ledger_service.api.bodies import refuse_ambiguous
from ledger_service.api.moments import Demanded, reading, writing
from ledger_service.credit_granting import change_grant, credit_claims, end_grant, grant_states
from ledger_service.services import Services, services
from ledger_service.standings import balances_for, make_missing
from ledger_service.store.credit_grants import list_grants
from ledger_service.store.terms import read_terms

router = APIRouter(
    route_class=LedgerRoute,
    prefix="/v1/accounts/{account_id}/credit-grants",
    tags=["limits of an account"],
    dependencies=[Depends(refuse_ambiguous)],
)

Wired = Annotated[Services, Depends(services)]


@router.put("/{grant_id}")
async def write_grant(
    account_id: Name, grant_id: Name, grant: CreditGrant, wired: Wired, response: Response
) -> CreditGrantStored:
    """Gives credit on a limit with ``credit``, or changes a grant. It counts from the next limit check on.

    The same grant again changes nothing. A change works from the grant's beginning on; to stop a grant and leave what
    was used as it was, delete it.
    """
    async with writing(wired.reads, response) as connection:
        return await change_grant(connection, account_id, grant_id, grant, wired.default_plan_id)


@router.get("")
async def read_grants(account_id: Name, wired: Wired, demand: Demanded, response: Response) -> CreditGrants:
    """All grants, past and future ones too, each with what of it was used, is left and was lost."""
    async with reading(wired, demand) as read:
        terms = await read_terms(read.known, [account_id], read.terms, wired.default_plan_id)
        claims = credit_claims(account_id, terms[account_id], read.now)
        balances = await balances_for(read.known, claims, is_past=read.as_of is not None)
        stored = await list_grants(read.known, account_id)
    await make_missing(wired.reads, account_id, balances)
    read.tell(response)
    return CreditGrants(grants=grant_states(stored, claims, balances.of))


@router.delete("/{grant_id}")
async def delete_grant(account_id: Name, grant_id: Name, wired: Wired, response: Response) -> CreditGrantStored:
    """Ends a grant now, for good: what was used of it stays used, what is left is lost. Ended again: no change."""
    async with writing(wired.reads, response) as connection:
        return await end_grant(connection, account_id, grant_id, wired.default_plan_id)
