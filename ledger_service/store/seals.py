"""Seals, the nodes of their tree, and the rows of the log in the order in which they are sealed."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import asyncpg

from ledger_service.domain.leaves import CopyReader, Identity, Key, Row
from ledger_service.domain.merkle import (
    HASH_BYTES,
    STORED_LEVELS_STEP,
    Node,
    Range,
    complete_root,
    complete_subtrees,
    fold,
    kept_below,
)
from ledger_service.store.connections import SEALER
from ledger_service.store.forgotten_connections import make_pool
from ledger_service.store.pool import COMMAND_TIMEOUT_SECONDS, CONNECT_TIMEOUT_SECONDS, SILENT_CLIENTS
from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection, Pool

SQL: Final = load(__name__)

#: Whoever seals holds it: any number that nobody else uses in this database.
LOCK: Final = 7_205_759_403_792_795
_BLOCK_LEAVES: Final = 1 << STORED_LEVELS_STEP
#: Rows are read through the index that has them in order: plans for few rows stay right for many.
_SETTINGS: Final = {
    "application_name": "ledger-seals",
    "jit": "off",
    "enable_seqscan": "off",
    "max_parallel_workers_per_gather": "0",
}
#: Between two statements of a transaction a stretch of the log is hashed.
_HASHES: Final = {"idle_in_transaction_session_timeout": "60s"}


class Bound(NamedTuple):
    """Where a seal ends."""

    size: int
    through: Key


class StoredSeal(NamedTuple):
    """A seal as the database has it; nothing in it is verified."""

    size: int
    previous_size: int
    root: bytes
    through: Key
    note: str
    leaf_hashes: bytes


class NewSeal(NamedTuple):
    origin: str
    size: int
    previous_size: int
    root: bytes
    through: Key
    note: str
    leaf_hashes: bytes
    leaf_identities: bytes
    sealed_at: datetime
    nodes: dict[Node, bytes]


class MissingHashesError(Exception):
    """The database has not all hashes of a tree that it should have."""


async def connect(database_url: str, command_timeout_seconds: float = COMMAND_TIMEOUT_SECONDS) -> "Connection":
    """A connection of the sealer's or a verifier's own."""
    return await asyncpg.connect(
        database_url,
        timeout=CONNECT_TIMEOUT_SECONDS,
        command_timeout=command_timeout_seconds,
        server_settings=_SETTINGS,
    )


async def open_pool(database_url: str) -> "Pool":
    """The sealer's own connection, opened again whenever it was lost."""
    return await make_pool(
        database_url,
        min_size=1,
        max_size=SEALER,
        timeout=CONNECT_TIMEOUT_SECONDS,
        command_timeout=COMMAND_TIMEOUT_SECONDS,
        server_settings={**_SETTINGS, **SILENT_CLIENTS, **_HASHES},
    )


async def try_lock(connection: "Connection") -> bool:
    """Whether this transaction is the one that seals, of all processes."""
    return bool(await connection.fetchval(SQL["lock"], LOCK))


async def find_last(connection: "Connection", origin: str) -> "asyncpg.Record | None":
    """The newest seal: size, note, root, transaction_id, position."""
    return await connection.fetchrow(SQL["last"], origin)


async def next_transaction(connection: "Connection") -> int:
    """No transaction with this id or a higher one has begun."""
    return int(await connection.fetchval(SQL["next_transaction"]))


async def last_transaction(connection: "Connection") -> int:
    """The highest that wrote a row of the log; 0: the log is empty."""
    return int(await connection.fetchval(SQL["last_transaction"]) or 0)


async def read_unsealed(
    connection: "Connection", after: Key, rows_max: int, take: Callable[[list[bytes]], Awaitable[None]]
) -> None:
    """Hands over the leaves after ``after``, in order, a few at a time, as far as nothing can come before them."""
    await _copy(connection, SQL["unsealed"], (str(after.transaction_id), after.position, rows_max), take)


async def read_within(
    connection: "Connection", after: Key, through: Key, take: Callable[[list[bytes]], Awaitable[None]]
) -> None:
    """Hands over the leaves after ``after`` and up to ``through``, in order, a few at a time."""
    arguments = (str(after.transaction_id), after.position, str(through.transaction_id), through.position)
    await _copy(connection, SQL["rows_within"], arguments, take)


async def _copy(
    connection: "Connection", query: str, arguments: tuple[object, ...], take: Callable[[list[bytes]], Awaitable[None]]
) -> None:
    reader = CopyReader()

    async def on_data(data: bytes) -> None:
        leaves = reader.feed(data)
        if leaves:
            await take(leaves)

    await connection.copy_from_query(query, *arguments, output=on_data, format="binary")
    reader.close()


async def add_seal(connection: "Connection", seal: NewSeal) -> None:
    """Raises asyncpg.UniqueViolationError where another seal follows the same one."""
    await connection.execute(
        SQL["add"], seal.origin, seal.size, seal.previous_size, seal.root, str(seal.through.transaction_id),
        seal.through.position, seal.note, seal.leaf_hashes, seal.leaf_identities, seal.sealed_at,
    )  # fmt: skip
    if seal.nodes:
        levels, indexes = zip(*seal.nodes, strict=True)
        await connection.execute(SQL["add_nodes"], seal.origin, levels, indexes, list(seal.nodes.values()))


async def notes_after(connection: "Connection", origin: str, size: int, notes_max: int) -> list[tuple[int, str]]:
    """(size, note) of the next seals, oldest first."""
    return [(row["size"], row["note"]) for row in await connection.fetch(SQL["notes_after"], origin, size, notes_max)]


async def latest_notes(
    connection: "Connection", origin: str, before: int | None, notes_max: int
) -> list[tuple[int, str]]:
    """(size, note) of the newest seals, or of those before a size; newest first."""
    return [(row["size"], row["note"]) for row in await connection.fetch(SQL["latest"], origin, before, notes_max)]


async def find_note(connection: "Connection", origin: str, size: int) -> str | None:
    row = await connection.fetchrow(SQL["at_size"], origin, size)
    return None if row is None else str(row["note"])


async def find_covering(connection: "Connection", origin: str, key: Key) -> "asyncpg.Record | None":
    """The seal that added the row at this place: size, previous_size, leaf_identities."""
    return await connection.fetchrow(SQL["covering"], origin, str(key.transaction_id), key.position)


async def bounds(connection: "Connection", origin: str, rows: int) -> list[Bound]:
    """Where some seals end, about ``rows`` rows apart, oldest first; the last seal is always among them."""
    return [Bound(row["size"], _key(row)) for row in await connection.fetch(SQL["bounds"], origin, rows)]


async def seals_between(
    connection: "Connection", origin: str, after: int, up_to: int, seals_max: int
) -> list[StoredSeal]:
    """Those after a size and up to another one, oldest first."""
    return [
        StoredSeal(row["size"], row["previous_size"], row["root"], _key(row), row["note"], row["leaf_hashes"])
        for row in await connection.fetch(SQL["between"], origin, after, up_to, seals_max)
    ]


async def identities_between(connection: "Connection", origin: str, after: int, up_to: int) -> "list[asyncpg.Record]":
    """size, previous_size, leaf_hashes and leaf_identities of the seals after a size and up to another one."""
    return await connection.fetch(SQL["identities_between"], origin, after, up_to)


async def all_nodes(connection: "Connection", origin: str, size: int) -> dict[Node, bytes]:
    """One of every 256 rows, of the first ``size``."""
    rows = await connection.fetch(SQL["nodes"], origin, size)
    return {Node(row["level"], row["index"]): row["hash"] for row in rows}


async def count_unsealed(connection: "Connection", after: Key) -> tuple[int, int]:
    """The rows behind the last seal, and those there, and before all others, whose transaction nobody began."""
    row = await connection.fetchrow(SQL["unsealed_count"], str(after.transaction_id), after.position)
    return (row["rows"], row["unborn"]) if row else (0, 0)


async def unborn_rows(connection: "Connection", after: Key, rows_max: int) -> list[Identity]:
    """Those whose transaction nobody began: so many before all others, and so many after ``after``."""
    rows = await connection.fetch(SQL["unborn"], str(after.transaction_id), after.position, rows_max)
    return [Identity(_key(row), row["event_id"], row["account_id"]) for row in rows]


async def find_rows(connection: "Connection", names: Sequence[tuple[str, UUID]]) -> dict[tuple[str, str], Key]:
    """Where the rows of these (account, event) stand, as far as they are there."""
    if not names:
        return {}
    accounts, event_ids = zip(*names, strict=True)
    rows = await connection.fetch(SQL["find_rows"], accounts, event_ids)
    return {(row["account_id"], str(row["event_id"])): _key(row) for row in rows}


def _key(row: "asyncpg.Record") -> Key:
    return Key(int(row["transaction_id"]), row["position"])


async def find_outcome(connection: "Connection", account_id: str, operation_id: UUID) -> Row | None:
    """The log's row of an operation's outcome."""
    row = await connection.fetchrow(SQL["outcome"], account_id, operation_id)
    return None if row is None else Row(**{**row, "transaction_id": int(row["transaction_id"])})


async def accounts_of(connection: "Connection", operation_id: UUID) -> list[str]:
    """The accounts that a limit check of the operation came from; two at most, which is one too many."""
    return [row["account_id"] for row in await connection.fetch(SQL["accounts_of"], operation_id)]


async def range_hashes(connection: "Connection", origin: str, size: int, ranges: Sequence[Range]) -> list[bytes]:
    """The hash over each of a proof's ranges, in a tree of at least ``size`` leaves, from a few hundred stored ones.

    Raises MissingHashesError.
    """
    subtrees = [complete_subtrees(one) for one in ranges]
    hashes = await node_hashes(connection, origin, size, {node for nodes in subtrees for node in nodes})
    return [fold([hashes[node] for node in nodes]) for nodes in subtrees]


async def node_hashes(connection: "Connection", origin: str, size: int, nodes: Collection[Node]) -> dict[Node, bytes]:
    """The hashes of complete subtrees. Raises MissingHashesError."""
    below = {node: kept_below(node) for node in nodes}
    blocks = {indexes.start // _BLOCK_LEAVES for level, indexes in below.values() if level == 0}
    leaves = {block: await _block(connection, origin, block, size) for block in blocks}
    kept = [(level, indexes) for level, indexes in below.values() if level > 0]
    rows = await connection.fetch(
        SQL["node_hashes"],
        origin,
        [level for level, _ in kept],
        [indexes.start for _, indexes in kept],
        [indexes.end for _, indexes in kept],
    )
    if len(rows) != sum(indexes.end - indexes.start for _, indexes in kept):
        raise MissingHashesError("nodes of the tree are missing")
    stored = iter(bytes(row["hash"]) for row in rows)
    found = {}
    for node, (level, indexes) in below.items():
        count = indexes.end - indexes.start
        if level > 0:
            hashes = [next(stored) for _ in range(count)]
        else:
            first = indexes.start % _BLOCK_LEAVES
            hashes = leaves[indexes.start // _BLOCK_LEAVES][first : first + count]
        found[node] = complete_root(hashes)
    return found


async def _block(connection: "Connection", origin: str, block: int, size: int) -> list[bytes]:
    """The leaf hashes under one node of the first level that is kept, or as many as the tree has of them."""
    start = block * _BLOCK_LEAVES
    end = min(start + _BLOCK_LEAVES, size)
    hashes = b"".join(row["hashes"] for row in await connection.fetch(SQL["leaf_hashes"], origin, start, end))
    if len(hashes) != (end - start) * HASH_BYTES:
        raise MissingHashesError("hashes of leaves are missing")
    return [hashes[place : place + HASH_BYTES] for place in range(0, len(hashes), HASH_BYTES)]
