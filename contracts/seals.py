"""Seals: checkpoints over the log, and the proofs that lead to them. Hashes are SHA-256 in Base64.

A leaf, and how it is hashed: deploy/guides/seals.md.
"""

from uuid import UUID

from pydantic import AwareDatetime, BaseModel


class Seal(BaseModel):
    """A checkpoint over the log's first ``size`` rows."""

    size: int
    root: str
    sealed_at: AwareDatetime
    #: The checkpoint as it was signed and published: a C2SP signed-note. What it says counts, not the fields beside it.
    note: str
    #: The public key whose signature this ledger verified.
    key: str


class SealPage(BaseModel):
    """Newest first; ``next_before`` goes on where the page ended."""

    items: list[Seal]
    next_before: int | None


class SealKeys(BaseModel):
    """Public keys as ``<name>+<id>+<base64>``: the one that signs now, and those that signed before."""

    key: str
    trusted: list[str]


class SealedRow(BaseModel):
    """A row of the log with all that is sealed of it; body is the event, character by character as it was received."""

    transaction_id: str
    position: str
    recorded_at: AwareDatetime
    occurred_at: AwareDatetime
    event_id: UUID
    terminal: bool
    account_id: str
    type: str
    source: str
    operation_id: UUID | None
    source_sequence: int | None
    body: str


class InclusionProof(BaseModel):
    """The row is leaf ``leaf_index`` (from 0) of the tree that the checkpoint signs: RFC 6962 §2.1.1."""

    row: SealedRow
    leaf_index: int
    leaf_hash: str
    path: list[str]
    checkpoint: Seal


class ConsistencyProof(BaseModel):
    """The first checkpoint's rows are where the second one's begin: RFC 6962 §2.1.2."""

    first: Seal
    second: Seal
    path: list[str]
