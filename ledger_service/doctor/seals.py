"""The newest checkpoint in the database, and what was published of the chain."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from ledger_service.domain.checkpoints import CheckpointError, SignedCheckpoint, open_note
from ledger_service.domain.doctor.facts import Seals, Unknown
from ledger_service.seal_publishing import CheckpointFile
from ledger_service.sealing import SealChain, SealsDivergedError
from ledger_service.store import seals as store
from ledger_service.store.figures import read_unsealed
from ledger_service.store.pool import Connection


class Beside(NamedTuple):
    """The database's chain beside the newest checkpoint of a place. ``note``: the database's of that size, None: it has
    none; ``next_note``: the one after it, which is not published there yet."""

    note: str | None
    next_note: str | None


class DatabaseSeals(NamedTuple):
    """``note``: the newest checkpoint, as it was signed; None: nothing is sealed. ``beside``: by place."""

    note: str | None
    unsealed_events: int
    unsealed_seconds: float
    beside: Mapping[str, Beside]


#: The newest checkpoint in a place; None: it has none. A text: why it cannot be believed.
Published = SignedCheckpoint | None | str | Unknown


async def read_seals(connection: Connection, chain: SealChain, places: Mapping[str, Published]) -> DatabaseSeals:
    row = await store.find_last(connection, chain.origin)
    unsealed = await read_unsealed(connection, chain.origin)
    beside = {}
    for place, size in _sizes(places).items():
        note = await store.find_note(connection, chain.origin, size)
        later = await store.notes_after(connection, chain.origin, size, 1)
        beside[place] = Beside(note, later[0][1] if later else None)
    return DatabaseSeals(None if row is None else str(row["note"]), unsealed.events, unsealed.seconds, beside)


def seals_of(
    chain: SealChain | Unknown | None, found: DatabaseSeals | Unknown, places: Mapping[str, Published]
) -> Seals | Unknown | None:
    """None where this ledger does not seal. ``places``: where checkpoints are published."""
    if chain is None or isinstance(chain, Unknown):
        return chain
    if isinstance(found, Unknown):
        return found
    own: SignedCheckpoint | None = None
    if found.note is not None:
        try:
            own = open_note(found.note, chain.believed)
        except CheckpointError as error:
            return Seals(f"the newest checkpoint in the database is not one of ours: {error}")
    for place, head in places.items():
        if isinstance(head, str):
            return Seals(f"{place}: {head}")
        if isinstance(head, SignedCheckpoint) and own is not None and _is_another(head, own, found.beside.get(place)):
            return Seals(
                f"{place}: the published checkpoint of {head.checkpoint.size:,} rows is not the database's: "
                "the history was rewritten"
            )
    return Seals(
        size=own.checkpoint.size if own else None,
        sealed_seconds_ago=(datetime.now(UTC) - own.checkpoint.sealed_at).total_seconds() if own else None,
        unsealed_events=found.unsealed_events,
        unsealed_seconds=found.unsealed_seconds,
        published=_sizes(places),
        unpublished_seconds=_waiting(chain, found.beside),
    )


def _is_another(head: SignedCheckpoint, own: SignedCheckpoint, beside: Beside | None) -> bool:
    """Of one that reaches further than the database, its size says enough."""
    return head.checkpoint.size <= own.checkpoint.size and beside is not None and beside.note != head.note


def _waiting(chain: SealChain, beside: Mapping[str, Beside]) -> dict[str, float]:
    found = {}
    for place, one in beside.items():
        if one.next_note is not None:
            with suppress(CheckpointError):  # which the ledger does not publish, and says why
                signed_at = open_note(one.next_note, chain.believed).checkpoint.sealed_at
                found[place] = (datetime.now(UTC) - signed_at).total_seconds()
    return found


def _sizes(places: Mapping[str, Published]) -> dict[str, int]:
    return {
        place: 0 if head is None else head.checkpoint.size
        for place, head in places.items()
        if head is None or isinstance(head, SignedCheckpoint)
    }


async def head_in(file: Path | None, chain: SealChain | None) -> dict[str, Published]:
    """The newest checkpoint in the file that they are published to, by its path; nothing where there is none."""
    if file is None or chain is None:
        return {}
    try:
        return {str(file): await CheckpointFile(file, chain).head()}
    except SealsDivergedError as error:
        return {str(file): str(error)}
    except OSError as error:
        return {str(file): Unknown(str(error))}
