"""What differs between rows that were sealed and rows that are there."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from ledger_service.domain.leaves import Identity, Key


class Kind(StrEnum):
    """What is wrong."""

    CHANGED = "changed"
    MISSING = "missing"
    INSERTED = "inserted"
    #: Of checkpoints: the chain, a signature, or the hashes under it.
    CHECKPOINT = "checkpoint"
    #: What was published is not what the database has.
    PUBLISHED = "published"


class Hashed(NamedTuple):
    """A row by its name and the hash of its leaf."""

    identity: Identity
    hash: bytes


@dataclass(frozen=True)
class Difference:
    """``row`` as it was sealed, or as it is now where it was not; None where no single row is meant."""

    kind: Kind
    detail: str
    row: Identity | None = None


def compare_rows(sealed: Iterable[Hashed], found: Iterable[Hashed]) -> list[Difference]:
    """Every row that was changed, is missing, or was not there when the rows around it were sealed."""
    places: dict[Key, tuple[list[Hashed], list[Hashed]]] = defaultdict(lambda: ([], []))
    for side, rows in enumerate((sealed, found)):
        for row in rows:
            places[row.identity.key][side].append(row)
    return [difference for key in sorted(places) for difference in _compare_place(*places[key])]


def _compare_place(sealed: list[Hashed], found: list[Hashed]) -> Iterator[Difference]:
    """One place of the log. It holds one row, unless somebody made it hold two."""
    gone, new = _without(sealed, found), _without(found, sealed)
    for was in gone:
        # The row of the same event if there is one, else whatever stands there now.
        now = next((one for one in new if _event(one) == _event(was)), new[0] if new else None)
        if now is None:
            yield Difference(Kind.MISSING, "", was)
            continue
        new.remove(now)
        yield Difference(Kind.CHANGED, "" if _event(now) == _event(was) else f"it is now {describe(now)}", was)
    for one in new:
        yield Difference(Kind.INSERTED, "", one)


def _without(rows: list[Hashed], others: list[Hashed]) -> list[Identity]:
    """Those that have no counterpart: of a row that stands there twice, one."""
    left = Counter(row.hash for row in others)
    alone = []
    for row in rows:
        if left[row.hash]:
            left[row.hash] -= 1
        else:
            alone.append(row.identity)
    return alone


def join_moves(differences: list[Difference], elsewhere: dict[tuple[str, str], Key]) -> list[Difference]:
    """A row that is missing in one place and stands in another was moved, which is a change of the row.

    ``elsewhere``: where rows of (account, event) stand now.
    """
    inserted = {_event(one.row): one for one in differences if one.kind is Kind.INSERTED and one.row}
    joined, moved = [], set()
    for one in differences:
        if one.kind is Kind.MISSING and one.row:
            name = _event(one.row)
            there = inserted[name].row if name in inserted else None
            key = there.key if there else elsewhere.get(name)
            if key is not None:
                moved.add(name)
                detail = f"it was moved to transaction {key.transaction_id}, position {key.position}"
                joined.append(replace(one, kind=Kind.CHANGED, detail=detail))
                continue
        joined.append(one)
    return [one for one in joined if not (one.kind is Kind.INSERTED and one.row and _event(one.row) in moved)]


def _event(identity: Identity) -> tuple[str, str]:
    return identity.account_id, str(identity.event_id)


def describe(identity: Identity) -> str:
    """A row in words."""
    account = f"of account {identity.account_id}" if identity.account_id else "of no account"
    return (
        f"event {identity.event_id} {account} "
        f"(transaction {identity.key.transaction_id}, position {identity.key.position})"
    )
