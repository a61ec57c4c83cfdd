"""Producers with journals: what came of each, and what is missing."""

from itertools import pairwise
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query

from contracts.sources import Sources, SourceState
from ledger_service.api.access import LedgerRoute
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
        rows = await list_sources(connection, cursor, holes, limit, HOLES_MAX + 1)
    items = []
    for row in rows:
        # PostgreSQL keeps integer ranges half-open.
        ranges = [(part.lower, part.upper) for part in row["ranges"]]
        gaps = [(before[1], after[0] - 1) for before, after in pairwise(ranges)]
        items.append(
            SourceState(
                source=row["source"],
                account_id=row["account_id"] or None,
                first_sequence=row["first"],
                contiguous_until=ranges[0][1] - 1,
                last_sequence=row["last"],
                missing=int(row["missing"]),
                holes=gaps,
                more_holes=row["holes"] - len(gaps),
                holes_since=row["holes_since"],
                last_seen_at=row["updated_at"],
            )
        )
    return Sources(items=items, next_cursor=items[-1].source if len(items) == limit else None)
