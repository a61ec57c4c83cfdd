"""What customers are charged, for margins; the ledger itself bills nobody."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from contracts.identifiers import ModelName, Name, OperationType
from contracts.resale_prices import ResalePrice, ResalePrices, ResalePriceStored
from ledger_service.api.access import LedgerRoute
from ledger_service.api.bodies import json_body, read_model
from ledger_service.api.moments import Demanded, reading, writing
from ledger_service.calls import CHECK_BYTES_MAX
from ledger_service.resale import change_resale_price, require_account
from ledger_service.services import Services, services
from ledger_service.store.resale_prices import list_resale_prices

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["prices"])

Wired = Annotated[Services, Depends(services)]


@router.put("/resale-prices/{operation}/{model:path}", openapi_extra=json_body(ResalePrice))
async def write_resale_price(
    operation: OperationType, model: ModelName, request: Request, wired: Wired, response: Response
) -> ResalePriceStored:
    """What all customers are charged for a unit from ``valid_from`` on, until the next such price. It changes margins
    alone, of usage of before it was put too. The same body again changes nothing."""
    return await _write(wired, None, operation, model, request, response)


@router.put("/accounts/{account_id}/resale-prices/{operation}/{model:path}", openapi_extra=json_body(ResalePrice))
async def write_own_resale_price(
    account_id: Name, operation: OperationType, model: ModelName, request: Request, wired: Wired, response: Response
) -> ResalePriceStored:
    """The same for one account: it goes before the price for all."""
    return await _write(wired, account_id, operation, model, request, response)


async def _write(
    wired: Services, account_id: str | None, operation: str, model: str, request: Request, response: Response
) -> ResalePriceStored:
    price = await read_model(request, ResalePrice, CHECK_BYTES_MAX)
    async with writing(wired.reads, response) as connection:
        return await change_resale_price(connection, account_id, operation, model, price)


@router.get("/resale-prices")
async def read_resale_prices(wired: Wired, demand: Demanded, response: Response) -> ResalePrices:
    """The prices for all accounts without one of their own."""
    async with reading(wired, demand) as read:
        items = await list_resale_prices(read.known, None)
    read.tell(response)
    return ResalePrices(items=items)


@router.get("/accounts/{account_id}/resale-prices")
async def read_own_resale_prices(account_id: Name, wired: Wired, demand: Demanded, response: Response) -> ResalePrices:
    """An account's own prices."""
    async with reading(wired, demand) as read:
        await require_account(read.known, account_id)
        items = await list_resale_prices(read.known, account_id)
    read.tell(response)
    return ResalePrices(items=items)
