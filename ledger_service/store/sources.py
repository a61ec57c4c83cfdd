"""Which events of each producer are committed, as ranges of its sequence numbers."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from contracts.events import RecordedRanges
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)

#: Of one source, with each batch. What is lost of it, or left out, is told by active_sources().
RANGES_TOLD_MAX: Final = 100
#: Of a source whose numbers no token that is bound to an account may send.
NO_ACCOUNT: Final = ""


async def add_sequences(
    connection: "Connection",
    sequences: Iterable[tuple[str, int]],
    trusted: Mapping[str, str] = MappingProxyType({}),
) -> list[RecordedRanges]:
    """Marks (source, sequence) pairs as committed with this transaction. Answers all that is known of each source; of
    one with many holes, the ranges of these numbers and the last, by which a journal knows whether they are its own.

    ``trusted``: of sources that whoever may write for any account has written: the only account of those events, or
    NO_ACCOUNT.
    """
    ranges = [(*span, trusted.get(span[0])) for span in _ranges(sequences)]
    if not ranges:
        return []
    return _recorded(await connection.fetch(SQL["add"], *zip(*ranges, strict=True), RANGES_TOLD_MAX))


async def claim_sources(connection: "Connection", wanted: Mapping[str, str]) -> dict[str, str]:
    """Of each source whose it is: the account that wants it, where it was nobody's before. Idempotent."""
    found = {row["source"]: row["account_id"] for row in await connection.fetch(SQL["accounts"], [*wanted])}
    new = {source: account_id for source, account_id in wanted.items() if source not in found}
    if new:
        rows = await connection.fetch(SQL["claim"], [*new], [*new.values()])
        found.update((row["source"], row["account_id"]) for row in rows)
    return found


async def active_sources(connection: "Connection", within_seconds: float) -> list[RecordedRanges]:
    """The sources of which something was committed lately."""
    return _recorded(await connection.fetch(SQL["active"], within_seconds))


async def list_sources(
    connection: "Connection", after: str | None, with_holes: bool, rows_max: int, holes_max: int
) -> "list[asyncpg.Record]":
    """By name, after that one; each with the first ``holes_max`` ranges of what is missing of it."""
    return await connection.fetch(SQL["page"], after, with_holes, rows_max, holes_max)


async def give_up_numbers(
    connection: "Connection", source: str, first: int, last: int, ranges_max: int
) -> tuple[int, list[tuple[int, int]]] | None:
    """Those of a source's numbers (inclusive) that are missing are so no more: answers the last number that came, and
    which these were, as ranges with both ends. Nothing is changed where ``last`` is behind that one, or there are more
    than ``ranges_max`` of them. None: no such source. Its row is locked."""
    found = await connection.fetchrow(SQL["give_up"], source, first, last, ranges_max)
    return None if found is None else (found["last"], [(part.lower, part.upper - 1) for part in found["ranges"]])


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
