"""The rows of the log beside their seals, a stretch at a time: what a verifier's processes run."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, TypeVar

from ledger_service.domain.leaves import Key, LeafError, identity_of, unpack_identities
from ledger_service.domain.merkle import HASH_BYTES, leaf_hashes
from ledger_service.domain.seal_differences import Difference, Hashed, Kind, compare_rows
from ledger_service.store import seals as store
from ledger_service.store.pool import Connection

#: The database may be busy with others.
_STRETCH_SECONDS_MAX: Final = 600

Result = TypeVar("Result")


@dataclass(frozen=True)
class Stretch:
    """Some seals of a chain, and the rows that they are over: after ``after`` and up to ``through``."""

    from_size: int
    to_size: int
    after: Key
    through: Key


@dataclass(frozen=True)
class HashedStretch:
    """The rows that are there: how many, and SHA-256 over the hashes of their leaves."""

    rows: int
    digest: bytes


def hash_rows(database_url: str, stretch: Stretch) -> HashedStretch:
    """Hashes what is there. Nothing is believed of the database but the rows themselves."""

    async def work(connection: Connection) -> HashedStretch:
        digest, rows = sha256(), 0

        async def take(leaves: list[bytes]) -> None:
            nonlocal rows
            digest.update(b"".join(leaf_hashes(leaves)))
            rows += len(leaves)

        await store.read_within(connection, stretch.after, stretch.through, take)
        return HashedStretch(rows, digest.digest())

    return _run(database_url, work)


def compare_with_seals(
    database_url: str, origin: str, stretch: Stretch, differences_max: int
) -> tuple[list[Difference], int]:
    """Names what differs in a stretch that does not fit its seals, up to a bound, and counts the rest."""

    async def work(connection: Connection) -> tuple[list[Difference], int]:
        found: list[Hashed] = []

        async def take(leaves: list[bytes]) -> None:
            found.extend(map(Hashed, map(identity_of, leaves), leaf_hashes(leaves)))

        await store.read_within(connection, stretch.after, stretch.through, take)
        sealed: list[Hashed] = []
        damaged: list[Difference] = []
        for seal in await store.identities_between(connection, origin, stretch.from_size, stretch.to_size):
            count = seal["size"] - seal["previous_size"]
            hashes = seal["leaf_hashes"]
            try:
                identities = unpack_identities(seal["leaf_identities"], count)
            except LeafError as error:
                damaged.append(Difference(Kind.CHECKPOINT, f"the seal of {seal['size']} rows is damaged: {error}"))
                continue
            cut = (hashes[place : place + HASH_BYTES] for place in range(0, count * HASH_BYTES, HASH_BYTES))
            sealed.extend(map(Hashed, identities, cut))
        # Without the names of what was sealed, every row of that seal would look inserted.
        differences = damaged or compare_rows(sealed, found)
        return differences[:differences_max], max(0, len(differences) - differences_max)

    return _run(database_url, work)


def _run(database_url: str, work: Callable[[Connection], Coroutine[None, None, Result]]) -> Result:
    async def connected() -> Result:
        connection = await store.connect(database_url, _STRETCH_SECONDS_MAX)
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(connected())
