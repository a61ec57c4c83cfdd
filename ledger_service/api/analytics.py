"""Analytics: usage by time, and by whatever an operation has."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.dependencies.models import Dependant

from contracts.access.guard import bound_account
from contracts.access.rules import not_your_account
from contracts.identifiers import Name
from contracts.problems import NOT_FOUND, ProblemError, broken_rule
from contracts.usage_reports import UsageDimensions, UsageReport
from ledger_service.analytics import planned
from ledger_service.analytics_views import ARROW, arrow_stream, csv_bytes, json_bytes
from ledger_service.api.access import LedgerRoute
from ledger_service.api.moments import Demanded, reading
from ledger_service.domain.buckets import Interval
from ledger_service.domain.usage_answers import Answer
from ledger_service.domain.usage_queries import TOP_MAX, Dimension
from ledger_service.services import Services, services
from ledger_service.store.accounts import find_account
from ledger_service.store.moments import Demand
from ledger_service.usage_questions import (
    ACCOUNTS_OWN,
    Asked,
    confined,
    dimensions,
    read_filters,
    read_question,
    read_zone,
)

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["analytics"])

Wired = Annotated[Services, Depends(services)]
_TEXT_MAX: Final = 16_384
_Listed = Annotated[str, Query(max_length=_TEXT_MAX)]


class Format(StrEnum):
    JSON = "json"
    CSV = "csv"
    ARROW = "arrow"


_FORMS: Final[Mapping[Format, tuple[Callable[[Answer], bytes], str]]] = {
    Format.JSON: (json_bytes, "application/json"),
    Format.CSV: (csv_bytes, "text/csv"),
    Format.ARROW: (arrow_stream, ARROW),
}
_ACCEPTED: Final = {media_type: form for form, (_, media_type) in _FORMS.items()}


@router.get(
    "/usage",
    response_model=UsageReport,
    responses={200: {"content": {"text/csv": {}, ARROW: {}}, "description": "The answer"}},
)
async def read_analytics(
    request: Request,
    wired: Wired,
    demand: Demanded,
    start: Annotated[
        str, Query(alias="from", max_length=64, description="occurred_at, inclusive: a date, or RFC 3339")
    ],
    end: Annotated[
        str | None, Query(alias="to", max_length=64, description="exclusive; default: the end of the interval of now")
    ] = None,
    interval: Interval = Interval.NONE,
    time_zone: Annotated[str, Query(max_length=64, description="IANA, or account: that of account_id")] = "UTC",
    group_by: Annotated[list[_Listed] | None, Query(description="dimensions, set apart by commas")] = None,
    filters: Annotated[
        list[_Listed] | None,
        Query(alias="filter", description="DIMENSION:VALUE,VALUE; several times: all of them. No value: what has none"),
    ] = None,
    measures: Annotated[list[_Listed] | None, Query(description="measures, set apart by commas")] = None,
    order_by: Annotated[str | None, Query(max_length=64, description="a measure; default: cost")] = None,
    top: Annotated[int | None, Query(ge=1, le=TOP_MAX, description="so many groups; the others as one")] = None,
    compare: Annotated[Literal["previous"] | None, Query(description="beside the period before")] = None,
    groups: Annotated[
        bool, Query(description="also each group over the whole time, and compare these alone: in JSON only")
    ] = False,
    account_id: Name | None = None,
    wanted: Annotated[Format | None, Query(alias="format", description="json, csv, or arrow; else as Accept")] = None,
) -> Response:
    """Usage by hour, day, week or month of a time zone, and by up to four dimensions: account, user, project, api_key,
    operation, provider, model, outcome, endpoint, and declared keys of metadata (metadata.KEY).

    Measures: calls, units, cost, failures, and duration_p50, _p90, _p95, _p99 in milliseconds (duration: all four).
    ``served_from`` says which table had the answer: a rollup by hours, or the usage log where no rollup has it, with
    the reasons. Rows are of what is not empty.
    """
    _refuse_unknown(request)
    asked = Asked(
        start, end, interval, time_zone, group_by or (), filters or (), measures or (), order_by, top,
        compare is not None, groups, demand.as_of,
    )  # fmt: skip
    form = wanted or _accepted(request)
    if groups and form is not Format.JSON:
        raise broken_rule("query.groups", "format", "groups stand beside the rows in JSON alone: ask for interval=none")
    analytics = wired.analytics
    chosen = read_filters(asked, analytics.metadata_keys)
    only = bound_account(request)
    if only is not None and chosen.get(Dimension.ACCOUNT, frozenset()) - {only}:
        raise not_your_account()
    for account in filter(None, (account_id, only)):
        chosen = confined(chosen, account)
    accounts = chosen.get(Dimension.ACCOUNT)
    zone = read_zone(time_zone, await _zone_of(wired, demand, time_zone, accounts))
    query = read_question(asked, chosen, zone, analytics.metadata_keys, demand.as_of or datetime.now(UTC))
    planned(query)
    if demand.as_of is not None or demand.min_position is not None:
        async with reading(wired, demand):
            pass  # whoever waits for it takes nobody's turn
    async with analytics.turn(), reading(wired, demand, analytics.pool) as read:
        answer = await analytics.answer(read.connection, query)
    write, media_type = _FORMS[form]
    # Of a hundred thousand rows that takes a second: not for the event loop.
    written = await asyncio.to_thread(write, answer)
    return read.tell(Response(written, media_type=media_type))


@router.get("/usage/dimensions")
async def list_dimensions(wired: Wired) -> UsageDimensions:
    """What usage is grouped and filtered by: of every operation, and the keys of metadata that this ledger declares."""
    return UsageDimensions(dimensions=dimensions(wired.analytics.metadata_keys))


async def _zone_of(wired: Services, demand: Demand, time_zone: str, accounts: Collection[str] | None) -> str | None:
    """The account's zone, as of the moment that is asked about."""
    if time_zone != ACCOUNTS_OWN or accounts is None or len(accounts) != 1:
        return None
    [account_id] = accounts
    async with reading(wired, demand) as read:
        account = await find_account(read.known, account_id)
    if account is None:
        raise ProblemError(NOT_FOUND, f"nothing is known of account {account_id}")
    zone: str = account["time_zone"]
    return zone


def _accepted(request: Request) -> Format:
    """The first that Accept names and that there is; JSON where there is none."""
    for part in request.headers.get("accept", "").split(","):
        if found := _ACCEPTED.get(part.partition(";")[0].strip().lower()):
            return found
    return Format.JSON


def _refuse_unknown(request: Request) -> None:
    """A misspelt filter must not answer for everything."""
    known = _parameters(request.scope["route"].dependant)
    for name in request.query_params:
        if name not in known:
            raise broken_rule(
                f"query.{name[:64]}", "unknown", f"no such parameter; there are {', '.join(sorted(known))}"
            )


def _parameters(dependant: Dependant) -> set[str]:
    return {one.alias for one in dependant.query_params}.union(*(_parameters(one) for one in dependant.dependencies))
