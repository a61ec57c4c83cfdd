"""Who changed what: administration, read from the log."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Query, Response

from contracts.changes import Change, Changes
from contracts.identifiers import Name
from contracts.problems import broken_rule
from ledger_service.api.access import LedgerRoute
from ledger_service.api.moments import Demanded, reading
from ledger_service.domain.authors import author_in
from ledger_service.domain.ledger_events import ADMINISTRATIVE, NO_ACCOUNT
from ledger_service.services import Services, services
from ledger_service.store.changes import read_changes

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["administration"])

_POSITION_MAX = 2**63 - 1


@router.get("/changes")
async def list_changes(
    wired: Annotated[Services, Depends(services)],
    demand: Demanded,
    response: Response,
    account_id: Annotated[Name | None, Query(description="default: what is about none: plans, prices, tokens")] = None,
    type: Annotated[list[str] | None, Query(description="several times: any of them", max_length=100)] = None,  # noqa: A002
    cursor: Annotated[str | None, Query(max_length=20)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Changes:
    """Changes of plans, accounts, overrides, credit, prices, tokens, webhooks and dead letters, newest first, each with
    who made it and what was stored by it."""
    unknown = sorted(set(type or ()) - set(ADMINISTRATIVE))
    if unknown:
        raise broken_rule("query.type", "enum", f"one of {', '.join(ADMINISTRATIVE)}")
    before = None
    if cursor is not None:
        if not (cursor.isascii() and cursor.isdigit() and int(cursor) <= _POSITION_MAX):
            raise broken_rule("query.cursor", "cursor", "not a cursor of an earlier page")
        before = int(cursor)
    async with reading(wired, demand) as read:
        rows = await read_changes(read.known, account_id or NO_ACCOUNT, type or ADMINISTRATIVE, before, limit)
    read.tell(response)
    items = []
    for row in rows:
        event = orjson.loads(row["body"])
        items.append(
            Change(
                event_id=row["event_id"],
                type=row["type"],
                account_id=row["account_id"] or None,
                occurred_at=row["occurred_at"],
                recorded_at=row["recorded_at"],
                author=author_in(event),
                data=event["data"],
            )
        )
    return Changes(items=items, next_cursor=str(rows[-1]["position"]) if len(rows) == limit else None)
