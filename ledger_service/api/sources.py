"""Producers with journals: what came of each, and what is missing."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request

from contracts.sources import GiveUp, NumbersGivenUp, Sources, SourceState
from ledger_service.api.access import LedgerRoute
from ledger_service.api.bodies import json_body, read_model
from ledger_service.calls import CHECK_BYTES_MAX
from ledger_service.giving_up import give_up
from ledger_service.services import Services, services
from ledger_service.store.sources import list_sources

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["health"])

#: Of one source; somebody who looks into more of them looks into its journal.
HOLES_MAX: Final = 50


@router.get("/sources")
async def read_sources(
    wired: Annotated[Services, Depends(services)],
    holes: Annotated[bool, Query(description="only those with missing numbers")] = False,
    cursor: Annotated[str | None, Query(max_length=1000, pattern=r"^[^\x00]*$")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Sources:
    """Which numbers of each producer's journal are committed, and which are missing though later ones came.

    A producer keeps what was not confirmed and sends it again, so a hole closes by itself, within seconds where both
    run. Where it stays, its runbook is deploy/runbooks/EventsMissing.md.
    """
    async with wired.reads.acquire() as connection:
        rows = await list_sources(connection, cursor, holes, limit, HOLES_MAX)
    items = []
    for row in rows:
        # PostgreSQL keeps integer ranges half-open.
        holes_shown = [(part.lower, part.upper - 1) for part in row["holes"]]
        items.append(
            SourceState(
                source=row["source"],
                account_id=row["account_id"] or None,
                first_sequence=row["first"],
                contiguous_until=holes_shown[0][0] - 1 if holes_shown else row["last"],
                last_sequence=row["last"],
                missing=int(row["missing"]),
                given_up=int(row["given_up"]),
                holes=holes_shown,
                more_holes=row["holes_count"] - len(holes_shown),
                holes_since=row["holes_since"],
                last_seen_at=row["updated_at"],
            )
        )
    return Sources(items=items, next_cursor=items[-1].source if len(items) == limit else None)


@router.post("/sources:give-up", openapi_extra=json_body(GiveUp))
async def give_up_missing_numbers(request: Request, wired: Annotated[Services, Depends(services)]) -> NumbersGivenUp:
    """Says that missing numbers of a producer never will arrive: they are no holes any more, and nobody is
    told of them.

    Nothing else changes: its producer is not told that they came, and one that arrives after all is recorded as any
    other. Again is no change.
    """
    wanted = await read_model(request, GiveUp, CHECK_BYTES_MAX)
    async with wired.writes.acquire() as connection:
        return await give_up(connection, wanted)
