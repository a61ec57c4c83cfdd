"""Holes of sources: numbers that are missing for longer than the way of an event takes."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from ledger_service.domain.holes import Hole
from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


async def read_gaps(connection: "Connection", gaps_max: int) -> list[Hole]:
    """What is missing now, and was not found before."""
    return [Hole(row["source"], row["first"], row["last"]) for row in await connection.fetch(SQL["gaps"], gaps_max)]


async def add_holes(connection: "Connection", holes: Sequence[tuple[Hole, datetime]]) -> int:
    """Keeps holes with the time since when they are missing; answers how many were new. Idempotent."""
    rows = [(hole.source, hole.first, hole.last, since) for hole, since in holes]
    return len(await connection.fetch(SQL["add"], *zip(*rows, strict=True)))
