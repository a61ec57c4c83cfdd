"""Limits of single accounts: overrides of their plan, and alerts that thresholds raised."""

from datetime import timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel

from contracts.explained_answers import RaisedAlerts
from contracts.identifiers import Name
from contracts.limits import LimitOverride, LimitOverrideStored
from contracts.moments import Moment
from ledger_service.api.access import LedgerRoute
from ledger_service.api.bodies import refuse_ambiguous
from ledger_service.api.moments import Demanded, reading, writing
from ledger_service.overrides import change_override, remove_override
from ledger_service.services import Services, services
from ledger_service.store.alerts import list_alerts
from ledger_service.store.overrides import list_overrides
from ledger_service.usage_views import alerts_view, json_response

router = APIRouter(
    route_class=LedgerRoute,
    prefix="/v1/accounts/{account_id}",
    tags=["limits of an account"],
    dependencies=[Depends(refuse_ambiguous)],
)

Wired = Annotated[Services, Depends(services)]
ALERTS_SINCE: Final = timedelta(days=31)


class Overrides(BaseModel):
    overrides: list[LimitOverrideStored]


@router.put("/limits/{limit_id}")
async def write_override(
    account_id: Name, limit_id: Name, override: LimitOverride, wired: Wired, response: Response
) -> LimitOverrideStored:
    """A limit for this account, or for one user, project or key of it, that adds to the plan or replaces its limit.

    Holds from the next limit check on, while it is valid. One with the same ``scope_id`` and ``valid_from`` is
    replaced; one whose time overlaps is refused.
    """
    async with writing(wired.reads, response) as connection:
        return await change_override(connection, account_id, limit_id, override, wired.default_plan_id)


@router.get("/limits")
async def read_overrides(account_id: Name, wired: Wired, demand: Demanded, response: Response) -> Overrides:
    """The account's overrides, past and future ones too. How limits stand is part of the usage summary."""
    async with reading(wired, demand) as read:
        found = await list_overrides(read.known, account_id)
    read.tell(response)
    return Overrides(overrides=found)


@router.delete("/limits/{limit_id}")
async def delete_override(
    account_id: Name,
    limit_id: Name,
    wired: Wired,
    response: Response,
    scope_id: Annotated[Name | None, Query()] = None,
) -> Overrides:
    """Takes back the overrides of a limit (those for ``scope_id``, where given); answers what was taken back."""
    async with writing(wired.reads, response) as connection:
        return Overrides(overrides=await remove_override(connection, account_id, limit_id, scope_id))


@router.get("/alerts", response_model=RaisedAlerts)
async def read_alerts(
    account_id: Name,
    wired: Wired,
    demand: Demanded,
    start: Annotated[Moment | None, Query(alias="from", description="default: 31 days ago")] = None,
    end: Annotated[Moment | None, Query(alias="to", description="exclusive; default: now")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Thresholds of limits that were reached, newest first: each once a window."""
    async with reading(wired, demand) as read:
        until = end or read.now
        rows = await list_alerts(read.known, account_id, start or until - ALERTS_SINCE, until, limit)
    return read.tell(json_response(alerts_view(rows)))
