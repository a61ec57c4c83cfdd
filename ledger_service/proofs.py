"""Proofs over the sealed log: that a row is in it, and that one checkpoint goes on from another."""

from uuid import UUID

from contracts.problems import NOT_FOUND, NOT_SEALED_YET, SEAL_MISMATCH, ProblemError, broken_rule
from contracts.seals import ConsistencyProof, InclusionProof, Seal, SealedRow, SealPage
from ledger_service.domain.checkpoints import CheckpointError, hash_text, open_note
from ledger_service.domain.leaves import Key, LeafError, Row, encode, find_key
from ledger_service.domain.merkle import Node, Range, consistency_ranges, inclusion_ranges, leaf_hash
from ledger_service.sealing import SealChain
from ledger_service.store import seals as store
from ledger_service.store.pool import Connection


async def prove_row(
    connection: Connection, chain: SealChain, operation_id: UUID, account_id: str | None, size: int | None
) -> InclusionProof:
    """The inclusion proof of an operation's outcome, to the newest checkpoint or to that of ``size``.

    Raises ProblemError: nothing known of it, not sealed yet, or the log is not what was sealed.
    """
    row = await _find_row(connection, operation_id, account_id)
    # In this order: the newest checkpoint is then over the leaf, also where it is sealed meanwhile.
    index, stored_hash = await _find_leaf(connection, chain, row)
    checkpoint = await _checkpoint(connection, chain, size)
    if checkpoint is None or index is None:
        raise ProblemError(NOT_SEALED_YET, f"the outcome of operation {operation_id} is recorded, and sealed shortly")
    hashed = leaf_hash(encode(row))
    if hashed != stored_hash:
        raise _mismatch(f"the row of operation {operation_id} was changed after it was sealed")
    if index >= checkpoint.size:
        raise broken_rule("query.size", "before_the_row", f"the row is leaf {index}, which is in later checkpoints")
    return InclusionProof(
        row=_view(row),
        leaf_index=index,
        leaf_hash=hash_text(hashed),
        path=await _path(connection, chain, checkpoint.size, inclusion_ranges(index, checkpoint.size)),
        checkpoint=checkpoint,
    )


async def prove_consistency(connection: Connection, chain: SealChain, first: int, second: int) -> ConsistencyProof:
    """That the checkpoint of ``second`` rows goes on from that of ``first`` rows. Raises ProblemError."""
    if first >= second:
        raise broken_rule("query.to", "order", "to is not larger than from")
    seals = [await find_seal(connection, chain, size) for size in (first, second)]
    path = await _path(connection, chain, second, consistency_ranges(first, second))
    return ConsistencyProof(first=seals[0], second=seals[1], path=path)


async def find_seal(connection: Connection, chain: SealChain, size: int) -> Seal:
    """The checkpoint of this size. Raises ProblemError."""
    note = await store.find_note(connection, chain.origin, size)
    if note is None:
        raise ProblemError(NOT_FOUND, f"there is no checkpoint of {size} rows: GET /v1/seals lists them")
    return _seal(chain, note)


async def list_seals(connection: Connection, chain: SealChain, before: int | None, seals_max: int) -> SealPage:
    """A page of checkpoints, newest first. Raises ProblemError."""
    notes = await store.latest_notes(connection, chain.origin, before, seals_max)
    items = [_seal(chain, note) for _, note in notes]
    return SealPage(items=items, next_before=notes[-1][0] if len(notes) == seals_max else None)


async def _find_row(connection: Connection, operation_id: UUID, account_id: str | None) -> Row:
    if account_id is None:
        accounts = await store.accounts_of(connection, operation_id)
        if len(accounts) != 1:
            # An operation id is its account's own, and who reports without a check is in no index by operation alone.
            reason = "several accounts have this operation_id" if accounts else "no limit check names its account"
            raise broken_rule("query.account_id", "missing", f"{reason}: say which account is meant")
        account_id = accounts[0]
    row = await store.find_outcome(connection, account_id, operation_id)
    if row is None:
        raise ProblemError(NOT_FOUND, f"account {account_id} has no finished operation {operation_id}")
    return row


async def _checkpoint(connection: Connection, chain: SealChain, size: int | None) -> Seal | None:
    if size is not None:
        return await find_seal(connection, chain, size)
    notes = await store.latest_notes(connection, chain.origin, None, 1)
    return _seal(chain, notes[0][1]) if notes else None


async def _find_leaf(connection: Connection, chain: SealChain, row: Row) -> tuple[int | None, bytes]:
    """The row's place in the tree, and the hash that was sealed there; no place where it is not sealed yet."""
    key = Key(row.transaction_id, row.position)
    covering = await store.find_covering(connection, chain.origin, key)
    if covering is None:
        return None, b""
    first, count = covering["previous_size"], covering["size"] - covering["previous_size"]
    try:
        place = find_key(covering["leaf_identities"], count, key)
    except LeafError as error:
        raise _mismatch(f"the seal of {covering['size']} rows is damaged: {error}") from None
    if place is None:
        raise _mismatch("the row was not there when the rows around it were sealed")
    index = first + place
    [hashed] = (await _hashes(connection, chain, covering["size"], [Node(0, index)])).values()
    return index, hashed


async def _hashes(connection: Connection, chain: SealChain, size: int, nodes: list[Node]) -> dict[Node, bytes]:
    try:
        return await store.node_hashes(connection, chain.origin, size, nodes)
    except store.MissingHashesError as error:
        raise _mismatch(str(error)) from None


async def _path(connection: Connection, chain: SealChain, size: int, ranges: list[Range]) -> list[str]:
    try:
        hashes = await store.range_hashes(connection, chain.origin, size, ranges)
    except store.MissingHashesError as error:
        raise _mismatch(str(error)) from None
    return [hash_text(one) for one in hashes]


def _seal(chain: SealChain, note: str) -> Seal:
    try:
        opened = open_note(note, chain.believed)
    except CheckpointError as error:
        raise _mismatch(f"a checkpoint in the database is not one of this ledger: {error}") from None
    checkpoint = opened.checkpoint
    return Seal(
        size=checkpoint.size,
        root=hash_text(checkpoint.root),
        sealed_at=checkpoint.sealed_at,
        note=note,
        key=str(opened.key),
    )


def _view(row: Row) -> SealedRow:
    fields = row._asdict()
    return SealedRow(**{**fields, "transaction_id": str(row.transaction_id), "position": str(row.position)})


def _mismatch(detail: str) -> ProblemError:
    return ProblemError(SEAL_MISMATCH, f"{detail}; `ledger seals verify` names everything that differs")
