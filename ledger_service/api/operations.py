"""Operations as they happen: the latest, and a stream of what comes."""

from itertools import islice
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from contracts.access.guard import principal_of_request
from contracts.access.principal import ANYBODY
from contracts.http_bounds import at_shutdown
from contracts.http_documents import EVENT_STREAM, component, event_stream
from contracts.identifiers import Name, OperationType
from contracts.in_doubt import Doubt, DoubtfulOperation, DoubtfulOperations
from contracts.live import Happening, LiveOperation, RecentOperations
from contracts.money import format_nanos
from contracts.problems import broken_rule
from contracts.provider_calls import read_calls
from ledger_service.api.access import LedgerRoute
from ledger_service.live import STREAM_SECONDS_MAX, TYPES, Listener, Live, Watched, live_operations
from ledger_service.page_cursors import decode_row_cursor, encode_cursor
from ledger_service.services import Services, services
from ledger_service.store.in_doubt import read_doubtful
from ledger_service.store.live import BEGINNING, Place, newest_place, read_recent

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["operations"])

#: So many rows of the log are looked at: what is older stands in the usage log.
LOOKED_AT_MAX: Final = 1_000
#: Without a filter fewer: between two rows about operations there are hardly more others.
ROWS_AN_OPERATION: Final = 4
#: Most operations take seconds; what is open after that is worth a look.
DOUBT_SECONDS: Final = 900.0
_AS_STORED: Final = ("account_id", "user_id", "operation", "provider", "model", "began_at", "ended_at", "message")
_PLACE: Final = r"^[0-9]{1,19}-[0-9]{1,18}$"
_INT8_MAX: Final = 2**63 - 1

_SKIPPED: Final = {"type": "object", "properties": {"reason": {"type": "string"}}, "required": ["reason"]}

Wired = Annotated[Services, Depends(services)]
Several = Query(max_length=100, description="several times: any of them")


async def watched(
    account_id: Name | None = None,
    operation: Annotated[list[OperationType] | None, Several] = None,
    provider: Annotated[list[Name] | None, Several] = None,
    what: Annotated[list[Happening] | None, Several] = None,
) -> Watched:
    """FastAPI dependency: what somebody wants to see."""
    return Watched(account_id, frozenset(operation or ()), frozenset(provider or ()), frozenset(what or ()))


Chosen = Annotated[Watched, Depends(watched)]


@router.get("/operations:recent")
async def read_recent_operations(
    wired: Wired, chosen: Chosen, limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> RecentOperations:
    """What happened last: requests, outcomes and denials, newest first, as far as it is among the log's newest rows.

    For all that ever happened there is the usage log; for what happens from now on, `GET /v1/operations:stream`, with
    ``last_id`` as its ``after``.
    """
    async with wired.reads.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        rows_max = LOOKED_AT_MAX if chosen.narrows else min(LOOKED_AT_MAX, limit * ROWS_AN_OPERATION)
        rows = await read_recent(connection, TYPES, rows_max, chosen.account_id)
        newest = await newest_place(connection)
    items = [*islice(live_operations(rows, chosen), limit)]
    return RecentOperations(items=items, last_id=None if newest == BEGINNING else str(newest))


@router.get(
    "/operations:stream",
    response_model=None,
    response_class=Response,
    responses={200: {"content": event_stream(operation=component(LiveOperation), skipped=_SKIPPED)}},
)
async def stream_operations(
    request: Request,
    wired: Wired,
    chosen: Chosen,
    after: Annotated[str | None, Query(pattern=_PLACE, description="an id that came before: goes on after it")] = None,
    seconds: Annotated[float, Query(gt=0, le=STREAM_SECONDS_MAX, description="when it ends")] = STREAM_SECONDS_MAX,
    last_event_id: Annotated[str | None, Header(description="the same, as browsers send it", max_length=100)] = None,
) -> StreamingResponse:
    """Server-sent events: ``operation``, with what happened, and ``skipped``, where too much happened to tell it all.

    Each has its place in the log as its id; whoever comes again with it (``Last-Event-ID``) gets what came meanwhile,
    up to a bound. A stream ends after some minutes, and where its reader does not keep up: come again. Comments are
    sent while nothing happens.
    """
    live = wired.live
    after_place = _place("header.last-event-id", last_event_id) or _place("query.after", after)
    listener = await live.join(chosen, after_place, _holder(request))
    at_shutdown(request.scope, listener.end)
    return _Stream(live, listener, seconds)


def _holder(request: Request) -> str | None:
    """Whose streams are counted together: an account's, whichever of its tokens they come with."""
    principal = principal_of_request(request)
    if principal is ANYBODY:
        return None
    return f"caller {principal.key}" if principal.account_id is None else f"account {principal.account_id}"


class _Stream(StreamingResponse):
    """Leaves, however it ends: also where its reader is gone before it begins."""

    def __init__(self, live: Live, listener: Listener, seconds: float) -> None:
        super().__init__(live.stream(listener, seconds), media_type=EVENT_STREAM, headers={"Cache-Control": "no-store"})
        self._live, self._listener = live, listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._live.leave(self._listener)


@router.get("/operations:in-doubt")
async def read_operations_in_doubt(
    wired: Wired,
    doubt: Doubt,
    account_id: Name | None = None,
    older_than_seconds: Annotated[
        float, Query(ge=0, le=366 * 86_400, description="of open ones: admitted so long ago")
    ] = DOUBT_SECONDS,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> DoubtfulOperations:
    """Operations of which the ledger does not know what they came to. For each kind another thing is to be done:

    ``outcome_unknown``: their provider may have billed them. They stand at what was held; `ledger reconcile` compares
    them with its invoice, and a correction takes them out of this list. ``open``: they still run, or their producer is
    gone: its ``GET /v1/in-doubt`` says. ``expired``: no outcome came in time, and nothing is held for them any more; an
    outcome that still comes counts.
    """
    after = decode_row_cursor(cursor) if cursor else None
    async with wired.reads.acquire() as connection:
        rows = await read_doubtful(connection, doubt, account_id, limit, after, older_than_seconds)
    items = [
        DoubtfulOperation(
            doubt=doubt,
            cost=format_nanos(row["cost_nanos"]),
            operation_id=UUID(bytes=row["operation_id"].bytes),
            job_ids=[job for call in read_calls(row["calls"]) for job in call.job_ids],
            **{name: row[name] for name in _AS_STORED},
        )
        for row in rows
    ]
    more = encode_cursor(items[-1].ended_at, items[-1].operation_id) if len(items) == limit else None
    return DoubtfulOperations(items=items, next_cursor=more)


def _place(field: str, text: str | None) -> Place | None:
    if not text:
        return None
    transaction_id, _, position = text.partition("-")
    if not all(part.isascii() and part.isdigit() and int(part) <= _INT8_MAX for part in (transaction_id, position)):
        raise broken_rule(field, "place", "not an id of this stream")
    return Place(int(transaction_id), int(position))
