"""Whether the log is what was sealed, and the seals are what was published.

Believed are the public keys, and the rows as the database hands them out; every hash, root, signature and link between
checkpoints is computed again.
"""

import asyncio
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Final

from ledger_service.domain.checkpoints import Checkpoint, CheckpointError, VerifierKey, open_note
from ledger_service.domain.leaves import BEGINNING, Key
from ledger_service.domain.merkle import HASH_BYTES, Frontier, Node
from ledger_service.domain.seal_differences import Difference, Kind, join_moves
from ledger_service.published_checkpoints import CheckpointDigests, PublishedCheckpoints
from ledger_service.seal_rows import HashedStretch, Stretch, compare_with_seals, hash_rows
from ledger_service.store import seals as store
from ledger_service.store.pool import Connection

#: Of a stretch that one process hashes at a time; with the seal that it ends with, it may have a few more.
STRETCH_ROWS: Final = 131_072
#: Of differences that are named one by one, and held of one stretch; a table that was emptied has millions.
DIFFERENCES_MAX: Final = 1_000
_SEALS_READ_MAX: Final = 32

Progress = Callable[[int, int], None]
"""Told how many rows are done, of how many."""


@dataclass
class SealReport:
    """What was found. ``differences`` empty: everything that was sealed is there, unchanged."""

    checkpoints: int = 0
    rows: int = 0
    #: Rows that no checkpoint is over yet; whoever writes to the database could still change them unseen.
    unsealed: int = 0
    #: By place: how many published checkpoints are the database's.
    published: dict[str, int] = field(default_factory=dict)
    #: By place: how many texts there were that no trusted key has signed.
    foreign: dict[str, int] = field(default_factory=dict)
    #: By place: why it could not be read, though it was to be compared.
    unread: dict[str, str] = field(default_factory=dict)
    last: Checkpoint | None = None
    differences: list[Difference] = field(default_factory=list)
    #: Beyond DIFFERENCES_MAX.
    unnamed: int = 0

    @property
    def holds(self) -> bool:
        return not self.differences

    @property
    def proves(self) -> bool:
        """It holds, there is something that was sealed, and all was compared that was to be."""
        return self.holds and self.checkpoints > 0 and not self.unread

    def add(self, differences: Iterable[Difference]) -> None:
        for one in differences:
            if len(self.differences) < DIFFERENCES_MAX:
                self.differences.append(one)
            else:
                self.unnamed += 1


@dataclass
class _Chain:
    """The database's chain as far as it was read."""

    frontier: Frontier = field(default_factory=Frontier)
    last: Checkpoint | None = None
    texts: CheckpointDigests = field(default_factory=CheckpointDigests)
    nodes: dict[Node, bytes] = field(default_factory=dict)


def hashing_processes(processes: int) -> Executor:
    """An executor for verify_seals: hashing is bound by the processor, so threads would share one."""
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))


async def verify_seals(
    database_url: str,
    origin: str,
    keys: Sequence[VerifierKey],
    published: Mapping[str, PublishedCheckpoints],
    executor: Executor,
    progress: Progress = lambda _, __: None,
) -> SealReport:
    """Verifies the chain of ``origin`` against ``keys``, every row under it, and what was ``published``, by place.

    Reads the whole log; rows are hashed by the executor, see hashing_processes. Changes nothing, and never delays
    writers. Raises what the database's driver does where it is away.
    """
    report = SealReport()
    connection = await store.connect(database_url)
    try:
        bounds = await store.bounds(connection, origin, STRETCH_ROWS)
        report.rows = bounds[-1].size if bounds else 0
        loop, stretches = asyncio.get_running_loop(), list(_stretches(bounds))
        hashing = [loop.run_in_executor(executor, hash_rows, database_url, stretch) for stretch in stretches]
        _report_progress(hashing, stretches, progress)
        try:
            chain, sealed = await _verify_chain(connection, origin, keys, stretches, report)
            _compare_published(chain, published, report)
            found = await asyncio.gather(*hashing)
        finally:
            for future in hashing:
                future.cancel()
        wrong = [stretch for stretch, one in zip(stretches, found, strict=True) if one != sealed[stretch]]
        naming = [
            loop.run_in_executor(executor, compare_with_seals, database_url, origin, one, DIFFERENCES_MAX)
            for one in wrong
        ]
        named = await asyncio.gather(*naming)
        await _name(connection, (rows for rows, _ in named), report)
        report.unnamed += sum(more for _, more in named)
        report.add(_nameless(stretch) for stretch, (rows, _) in zip(wrong, named, strict=True) if not rows)
        await _look_behind(connection, bounds[-1].through if bounds else BEGINNING, report)
        return report
    finally:
        await connection.close()


def _stretches(bounds: list[store.Bound]) -> Iterator[Stretch]:
    last = store.Bound(0, BEGINNING)
    for bound in bounds:
        yield Stretch(last.size, bound.size, last.through, bound.through)
        last = bound


def _report_progress(
    hashing: "list[asyncio.Future[HashedStretch]]", stretches: list[Stretch], progress: Progress
) -> None:
    done = 0

    def on_done(future: "asyncio.Future[HashedStretch]", rows: int) -> None:
        nonlocal done
        if not future.cancelled():
            done += rows
            progress(done, stretches[-1].to_size)

    for future, stretch in zip(hashing, stretches, strict=True):
        future.add_done_callback(partial(on_done, rows=stretch.to_size - stretch.from_size))


async def _verify_chain(
    connection: Connection, origin: str, keys: Sequence[VerifierKey], stretches: list[Stretch], report: SealReport
) -> tuple[_Chain, dict[Stretch, HashedStretch]]:
    """Each checkpoint: its signature, its link, its root. Answers also what the rows of each stretch must hash to."""
    chain, sealed = _Chain(), {}
    for stretch in stretches:
        digest, rows, size = sha256(), 0, stretch.from_size
        while size < stretch.to_size:
            seals = await store.seals_between(connection, origin, size, stretch.to_size, _SEALS_READ_MAX)
            for seal in seals:
                report.add(_verify_seal(seal, chain, origin, keys))
                digest.update(seal.leaf_hashes)
                rows += len(seal.leaf_hashes) // HASH_BYTES
                report.checkpoints += 1
                await asyncio.sleep(0)
            size = seals[-1].size if seals else stretch.to_size
        sealed[stretch] = HashedStretch(rows, digest.digest())
    if await store.all_nodes(connection, origin, report.rows) != chain.nodes:
        report.add([Difference(Kind.CHECKPOINT, "the nodes that are kept for proofs are not those of the tree")])
    report.last = chain.last
    return chain, sealed


def _verify_seal(
    seal: store.StoredSeal, chain: _Chain, origin: str, keys: Sequence[VerifierKey]
) -> Iterable[Difference]:
    def wrong(detail: str) -> Difference:
        return Difference(Kind.CHECKPOINT, f"of {seal.size} rows: {detail}")

    hashes = [seal.leaf_hashes[place : place + HASH_BYTES] for place in range(0, len(seal.leaf_hashes), HASH_BYTES)]
    if seal.previous_size != chain.frontier.size:
        yield wrong(f"it follows one of {seal.previous_size} rows, which is not the one before it")
    if len(seal.leaf_hashes) != (seal.size - seal.previous_size) * HASH_BYTES:
        yield wrong("it has hashes of another number of rows")
    chain.nodes |= chain.frontier.extend(hashes)
    try:
        checkpoint = open_note(seal.note, keys).checkpoint
    except CheckpointError as error:
        yield wrong(str(error))
        return
    if checkpoint.origin != origin:  # of one that was given up, and whose key is still believed
        yield wrong(f"it is one of the chain {checkpoint.origin}")
    if (checkpoint.size, checkpoint.root, checkpoint.through) != (seal.size, seal.root, seal.through):
        yield wrong("its columns are not what was signed")
    if (checkpoint.size, checkpoint.root) != (chain.frontier.size, chain.frontier.root):
        yield wrong("its hashes do not give the root that was signed")
    if checkpoint.previous != (chain.last.digest if chain.last else None):
        yield wrong("what it names as its predecessor is not the checkpoint before it")
    chain.last = checkpoint
    chain.texts.add(seal.size, checkpoint.digest)


def _compare_published(chain: _Chain, published: Mapping[str, PublishedCheckpoints], report: SealReport) -> None:
    end = chain.last.size if chain.last else 0
    for place, found in published.items():
        report.published[place], report.foreign[place] = 0, found.foreign
        for size, digest in found.digests:
            own = chain.texts.find(size)
            if own == digest:
                report.published[place] += 1
            elif size > end:
                detail = f"a checkpoint of {size} rows, and the database's chain ends at {end}: its end was cut off"
                report.add([Difference(Kind.PUBLISHED, f"in {place} there is {detail}")])
            else:
                detail = "no checkpoint of that size" if own is None else "another checkpoint of that size"
                report.add(
                    [
                        Difference(
                            Kind.PUBLISHED,
                            f"in {place} there is a checkpoint of {size} rows, and the database has {detail}: "
                            "its history was rewritten",
                        )
                    ]
                )


async def _name(connection: Connection, found: Iterable[list[Difference]], report: SealReport) -> None:
    differences = [one for stretch in found for one in stretch]
    missing = [one.row for one in differences if one.kind is Kind.MISSING and one.row][:DIFFERENCES_MAX]
    elsewhere = await store.find_rows(connection, [(row.account_id, row.event_id) for row in missing])
    report.add(join_moves(differences, elsewhere))


def _nameless(stretch: Stretch) -> Difference:
    """Its hash decides whether a stretch is as it was sealed; names only say where it is not."""
    detail = f"of {stretch.to_size} rows: the rows after the first {stretch.from_size} are not what was sealed"
    return Difference(Kind.CHECKPOINT, f"{detail}, and none of them can be named")


async def _look_behind(connection: Connection, through: Key, report: SealReport) -> None:
    """What is not sealed: rows that will be, and rows of transactions that nobody began."""
    report.unsealed, unborn = await store.count_unsealed(connection, through)
    if unborn:
        named = {one.row.event_id for one in report.differences if one.row}
        unborn_rows = await store.unborn_rows(connection, through, DIFFERENCES_MAX)
        rows = [row for row in unborn_rows if row.event_id not in named]
        report.add(Difference(Kind.INSERTED, "nobody has begun its transaction", row) for row in rows)
