"""The newest checkpoint in the database, and what was published of the chain."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from ledger_service.domain.checkpoints import CheckpointError, SignedCheckpoint, open_note
from ledger_service.domain.doctor.facts import Seals, Unknown
from ledger_service.seal_publishing import CheckpointFile
from ledger_service.sealing import SealChain, SealsDivergedError


class DatabaseSeals(NamedTuple):
    """``note``: the newest checkpoint, as it was signed; None: nothing is sealed."""

    note: str | None
    unsealed_events: int
    unsealed_seconds: float


#: The newest checkpoint in a place; None: it has none. A text: why it cannot be believed.
Published = SignedCheckpoint | None | str | Unknown


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
    return Seals(
        size=own.checkpoint.size if own else None,
        sealed_seconds_ago=(datetime.now(UTC) - own.checkpoint.sealed_at).total_seconds() if own else None,
        unsealed_events=found.unsealed_events,
        unsealed_seconds=found.unsealed_seconds,
        published=_sizes(places),
    )


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
