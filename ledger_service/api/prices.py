"""The price catalogue: what operations cost, from when on, and what a check would be held at."""

from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from contracts.identifiers import ModelName, Name, OperationType
from contracts.moments import UtcMoment
from contracts.prices import (
    Price,
    PriceHistory,
    PriceKey,
    PriceList,
    PriceStored,
    RateAnswer,
    RatedPrice,
    RatedVariant,
    RateQuery,
)
from contracts.problems import NOT_FOUND, ProblemError
from ledger_service.api.access import LedgerRoute
from ledger_service.api.bodies import json_body, read_model
from ledger_service.api.moments import Demanded, reading, writing
from ledger_service.calls import CHECK_BYTES_MAX
from ledger_service.domain.rating import Catalogue, CostTooLargeError, PriceVersion, Rated, worst_case
from ledger_service.page_cursors import decode_cursor, encode_cursor
from ledger_service.price_changes import change_price, cost_problem, key_of
from ledger_service.services import Services, services
from ledger_service.store.prices import Place, PriceFilter, find_changes, find_price, list_prices

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["prices"])

PRICE_BYTES_MAX: Final = 1024 * 1024
Wired = Annotated[Services, Depends(services)]
Now = Annotated[UtcMoment | None, Query(description="in force at that time")]


@router.put("/prices/{provider}/{operation}/{model:path}", openapi_extra=json_body(Price))
async def write_price(
    provider: Name, operation: OperationType, model: ModelName, request: Request, wired: Wired, response: Response
) -> PriceStored:
    """Creates the version of a price that begins at ``valid_from``, or changes it. Open holds stay as they are.

    It is in force until its ``valid_until``, or the next version's ``valid_from``. The same body again changes
    nothing; one that overlaps with another version is refused.
    """
    price = await read_model(request, Price, PRICE_BYTES_MAX)
    key = PriceKey(provider=provider, operation=operation, model=model)
    async with writing(wired.reads, response) as connection:
        return await change_price(connection, key, price)


@router.get("/prices/{provider}/{operation}/{model:path}")
async def read_price(
    provider: Name,
    operation: OperationType,
    model: ModelName,
    wired: Wired,
    demand: Demanded,
    response: Response,
    changes: Annotated[bool, Query(description="also every form that a version ever had")] = False,
) -> PriceHistory:
    """All versions of one price, oldest first, and which of them is in force."""
    key = PriceKey(provider=provider, operation=operation, model=model)
    async with reading(wired, demand) as read:
        versions = await find_price(read.known, key_of(key))
        earlier = await find_changes(read.known, key_of(key)) if changes else None
    read.tell(response)
    if not versions:
        raise ProblemError(NOT_FOUND, f"there is no price for {key}")
    now = read.now
    holding = [one.valid_from for one in versions if one.valid_from <= now and not _is_over(one, now)]
    return PriceHistory(**dict(key), in_force=holding[-1] if holding else None, versions=versions, changes=earlier)


def _is_over(version: PriceStored, now: datetime) -> bool:
    return version.in_force_until is not None and version.in_force_until <= now


@router.get("/prices")
async def read_prices(
    wired: Wired,
    demand: Demanded,
    response: Response,
    provider: Name | None = None,
    operation: OperationType | None = None,
    at: Now = None,
    cursor: Annotated[str | None, Query(max_length=1000)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> PriceList:
    """The versions of all prices, in the order of provider, operation, model and valid_from."""
    after = decode_cursor(cursor, _place) if cursor else None
    async with reading(wired, demand) as read:
        items = await list_prices(read.known, PriceFilter(provider, operation, at), after, limit)
    read.tell(response)
    last = items[-1] if len(items) == limit else None
    more = encode_cursor(last.valid_from, last.provider, last.operation, last.model) if last else None
    return PriceList(items=items, next_cursor=more)


def _place(valid_from: datetime, provider: str, operation: str, model: str) -> Place:
    return provider, operation, model, valid_from


@router.post("/prices:rate", openapi_extra=json_body(RateQuery))
async def rate(request: Request, wired: Wired) -> RateAnswer:
    """What a check without ``estimated_cost`` would be held at, and why. Holds nothing."""
    query = await read_model(request, RateQuery, CHECK_BYTES_MAX)
    now = query.at or datetime.now(UTC)
    async with wired.reads.acquire() as connection:
        catalogue = await wired.prices.get(connection)
    try:
        rated = worst_case(catalogue, query, now)
    except CostTooLargeError as error:
        raise cost_problem(error) from None
    return (
        _answer(query, catalogue.in_force(key_of(query), now), rated, now)
        if rated
        else _unpriced(query, catalogue, now)
    )


def _answer(query: RateQuery, version: PriceVersion | None, rated: Rated, now: datetime) -> RateAnswer:
    assert version is not None
    attributes = query.attributes or {}
    return RateAnswer(
        provider=query.provider,
        operation=query.operation,
        model=query.model,
        quantity=query.quantity,
        at=now,
        estimated_cost=rated.cost_nanos,
        price=RatedPrice(
            version=rated.version,
            valid_from=rated.valid_from,
            unit=version.price.unit,
            unit_price=rated.unit_price_nanos,
        ),
        variants=[
            RatedVariant.model_construct(
                when=variant.when,
                price=variant.price,
                index=index,
                assumed=sorted(variant.when.keys() - attributes.keys()),
                dearest=variant.price == rated.unit_price_nanos,
            )
            for index, variant in version.variants_for(attributes)
        ],
    )


def _unpriced(query: RateQuery, catalogue: Catalogue, now: datetime) -> RateAnswer:
    version = catalogue.in_force(key_of(query), now)
    if key_of(query) not in catalogue.prices:
        reason = f"there is no price for {PriceKey.__str__(query)}"
    elif version is None:
        reason = f"no price for {PriceKey.__str__(query)} is in force at {now.isoformat()}"
    else:
        reason = f"none of the {len(version.price.variants)} variants fits these attributes"
    return RateAnswer(
        provider=query.provider,
        operation=query.operation,
        model=query.model,
        quantity=query.quantity,
        at=now,
        estimated_cost=None,
        price=None,
        variants=[],
        reason=reason,
    )
