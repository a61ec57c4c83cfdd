"""One seal: the rows that are new in commit order, appended to the tree, and the checkpoint over all of it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ledger_service.domain.checkpoints import (
    Checkpoint,
    CheckpointError,
    SignedCheckpoint,
    SigningKey,
    VerifierKey,
    open_note,
)
from ledger_service.domain.leaves import BEGINNING, IdentityPacker, Key, key_of
from ledger_service.domain.merkle import Frontier, Node, leaf_hashes, peaks_of
from ledger_service.domain.transaction_ids import how_to_raise
from ledger_service.store import seals as store
from ledger_service.store.pool import Connection

#: Of one seal. What is waiting beyond it gets the next one.
SEAL_LEAVES_MAX: Final = 32_768


class SealsDivergedError(Exception):
    """What was sealed and published before does not go on in this database: nothing may be signed over it."""


@dataclass(frozen=True)
class SealChain:
    """Whose chain it is: the key that signs, and all whose checkpoints are believed."""

    key: SigningKey
    trusted: tuple[VerifierKey, ...] = ()

    @property
    def origin(self) -> str:
        return self.key.name

    @property
    def believed(self) -> tuple[VerifierKey, ...]:
        return (self.key.verifier, *self.trusted)


class _Portion:
    """The tree with the new rows, as far as they were read."""

    def __init__(self, frontier: Frontier) -> None:
        self.frontier = Frontier(frontier.size, dict(frontier.peaks))
        self.hashes: list[bytes] = []
        self.nodes: dict[Node, bytes] = {}
        self.identities = IdentityPacker()
        self.through: Key | None = None

    async def take(self, leaves: list[bytes]) -> None:
        hashes = leaf_hashes(leaves)
        self.hashes += hashes
        self.nodes |= self.frontier.extend(hashes)
        self.identities.add(leaves)
        self.through = key_of(leaves[-1])
        # Limit checks run on the same loop: let them in between two of these small parts.
        await asyncio.sleep(0)


class Sealing:
    """Seals for one chain; several processes may, one of them at a time does."""

    def __init__(self, chain: SealChain, leaves_max: int = SEAL_LEAVES_MAX) -> None:
        self._chain = chain
        self.leaves_max = leaves_max
        self._last: SignedCheckpoint | None = None
        self._frontier = Frontier()

    async def must_go_on_from(self, connection: Connection, published: Sequence[SignedCheckpoint]) -> None:
        """What was published outside of the database has to be in its chain, which after a restored backup it is not.

        Raises SealsDivergedError: then nothing may be signed, for it would contradict what was signed before.
        """
        last = await self._find_last(connection)
        for one in published:
            await self._must_go_on(connection, one, last)

    async def seal(self, connection: Connection) -> int:
        """Seals what is new, up to the bound, in one transaction; answers how many rows. 0 also where another process
        is at it. Raises SealsDivergedError."""
        async with connection.transaction():
            if not await store.try_lock(connection):
                return 0
            last = await self._find_last(connection)
            frontier = await self._frontier_of(connection, last)
            portion = _Portion(frontier)
            after = last.checkpoint.through if last else BEGINNING
            await self._must_be_before_now(connection, after)
            await store.read_unsealed(connection, after, self.leaves_max, portion.take)
            if portion.through is None:
                return 0
            sealed = self._sign(portion, portion.through, last)
            identities = await asyncio.to_thread(portion.identities.packed)
            checkpoint = sealed.checkpoint
            await store.add_seal(
                connection,
                store.NewSeal(
                    origin=checkpoint.origin,
                    size=checkpoint.size,
                    previous_size=frontier.size,
                    root=checkpoint.root,
                    through=checkpoint.through,
                    note=sealed.note,
                    leaf_hashes=b"".join(portion.hashes),
                    leaf_identities=identities,
                    sealed_at=checkpoint.sealed_at,
                    nodes=portion.nodes,
                ),
            )
        self._last, self._frontier = sealed, portion.frontier
        return len(portion.hashes)

    def _sign(self, portion: _Portion, through: Key, last: SignedCheckpoint | None) -> SignedCheckpoint:
        checkpoint = Checkpoint(
            origin=self._chain.origin,
            size=portion.frontier.size,
            root=portion.frontier.root,
            previous=last.checkpoint.digest if last else None,
            through=through,
            sealed_at=datetime.now(UTC),
        )
        key = self._chain.key
        return SignedCheckpoint(checkpoint, key.sign(checkpoint.text), key.verifier)

    async def _find_last(self, connection: Connection) -> SignedCheckpoint | None:
        row = await store.find_last(connection, self._chain.origin)
        if row is None:
            return None
        if self._last is not None and row["note"] == self._last.note:
            return self._last
        try:
            last = open_note(row["note"], self._chain.believed)
        except CheckpointError as error:
            raise SealsDivergedError(
                f"the database's last checkpoint, of size {row['size']}, is not one of this ledger: {error}. Where the "
                "key was changed, the old public key belongs into LEDGER_SEALS_TRUSTED_KEYS."
            ) from None
        if last.checkpoint.size != row["size"]:
            raise SealsDivergedError(f"the seal of size {row['size']} holds the note of another one")
        if last.checkpoint.origin != self._chain.origin:
            raise SealsDivergedError(f"the seal of size {row['size']} is one of the chain {last.checkpoint.origin}")
        return last

    async def _must_go_on(
        self, connection: Connection, published: SignedCheckpoint, last: SignedCheckpoint | None
    ) -> None:
        size = published.checkpoint.size
        if last is None or size > last.checkpoint.size:
            have = last.checkpoint.size if last else 0
            raise SealsDivergedError(
                f"a checkpoint of {size} rows was published, and the database's chain ends at {have}: it is an older "
                "state. Nothing is sealed until it is the right one, or LEDGER_SEALS_ORIGIN names a new chain."
            )
        note = await store.find_note(connection, self._chain.origin, size)
        if note != published.note:
            raise SealsDivergedError(
                f"the published checkpoint of {size} rows is not the database's: the history was rewritten. "
                "`ledger seals verify` says more."
            )

    async def _frontier_of(self, connection: Connection, last: SignedCheckpoint | None) -> Frontier:
        """The right edge of the tree, for nothing if we sealed last; else from the stored hashes, which must fit."""
        if last is None:
            return Frontier()
        if last is self._last:
            return self._frontier
        size = last.checkpoint.size
        try:
            hashes = await store.node_hashes(connection, self._chain.origin, size, peaks_of(size))
        except store.MissingHashesError as error:
            raise SealsDivergedError(f"{error}, of the tree of {size} rows") from None
        frontier = Frontier(size, {node.level: found for node, found in hashes.items()})
        if frontier.root != last.checkpoint.root:
            raise SealsDivergedError(f"the stored hashes do not give the root that was signed over {size} rows")
        return frontier

    async def _must_be_before_now(self, connection: Connection, after: Key) -> None:
        if after.transaction_id >= await store.next_transaction(connection):
            raise SealsDivergedError(
                "the database's transaction ids begin anew, as after a dump that was loaded into a new cluster: rows "
                "that come now would seem older than sealed ones. Raise them: "
                f"{how_to_raise(max(after.transaction_id, await store.last_transaction(connection)))}"
            )
