"""Which events of each producer are committed, as ranges of its sequence numbers."""

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from contracts.events import RecordedRanges
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


async def add_sequences(connection: "Connection", sequences: Iterable[tuple[str, int]]) -> list[RecordedRanges]:
    """Marks (source, sequence) pairs as committed with this transaction. Answers all that is known of each source."""
    ranges = list(_ranges(sequences))
    if not ranges:
        return []
    return _recorded(await connection.fetch(SQL["add"], *zip(*ranges, strict=True)))


async def active_sources(connection: "Connection", within_seconds: float) -> list[RecordedRanges]:
    """The sources of which something was committed lately."""
    return _recorded(await connection.fetch(SQL["active"], within_seconds))


async def list_sources(
    connection: "Connection", after: str | None, with_holes: bool, rows_max: int, ranges_max: int
) -> "list[asyncpg.Record]":
    """By name, after that one; each with the first ``ranges_max`` ranges of what is committed of it."""
    return await connection.fetch(SQL["page"], after, with_holes, rows_max, ranges_max)


def _ranges(sequences: Iterable[tuple[str, int]]) -> Iterable[tuple[str, int, int]]:
    """Neighbouring numbers as one inclusive range, which keeps the statement small."""
    by_source: dict[str, set[int]] = defaultdict(set)
    for source, sequence in sequences:
        by_source[source].add(sequence)
    for source, numbers in by_source.items():
        ordered = sorted(numbers)
        first = previous = ordered[0]
        for number in ordered[1:]:
            if number != previous + 1:
                yield source, first, previous
                first = number
            previous = number
        yield source, first, previous


def _recorded(rows: "list[asyncpg.Record]") -> list[RecordedRanges]:
    # PostgreSQL keeps integer ranges half-open; the contract's are inclusive.
    return [
        RecordedRanges(source=row["source"], recorded=[(part.lower, part.upper - 1) for part in row["recorded"]])
        for row in rows
    ]
