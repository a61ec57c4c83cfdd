"""Decisions and the holds they place."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import repeat
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from contracts.identifiers import uuid7, uuid7s
from contracts.leases import LeaseCheck
from contracts.limits import LimitCheck
from contracts.money import format_nanos
from ledger_service.domain.counters import calls_of
from ledger_service.domain.decide import Verdict
from ledger_service.domain.ledger_events import CHECK_DENIED, RESERVATION_MOVED, RESERVATION_PLACED, decision_event
from ledger_service.store.arrays import array_literal, array_literals
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


class OperationKey(NamedTuple):
    account_id: str
    operation_id: UUID


@dataclass(slots=True)
class Known:
    """What the ledger has of an operation when it is checked: an earlier decision, an outcome, or both."""

    request_digest: bytes | None
    decision_json: bytes | None
    state: str | None


@dataclass(slots=True)
class Decided:
    """A decision to be written: the check, its cost filled in, and the answer, each as a model and as JSON."""

    check: LimitCheck
    check_json: bytes
    verdict: Verdict
    decision_json: bytes
    request_digest: bytes


@dataclass(slots=True)
class Placement:
    """The decision that a hold stands by: its event, answer and caller, and how often the hold was moved to come here;
    ``moved_from_placed_at``, ``billed``: what the last move named."""

    event_id: UUID
    state: str
    request_digest: bytes
    placed_at: datetime
    user_id: str
    project_id: str | None
    api_key_id: str | None
    operation: str
    decision_json: bytes
    billed: str | None
    moved_from_placed_at: datetime | None
    moves: int


@dataclass(slots=True)
class Moved:
    """What a hold is moved from: the event of its decision, taken out by now; and what was billed by then."""

    event_id: UUID
    billed_nanos: int

    def data(self) -> dict[str, object]:
        """What the log has of it, beside the check and the decision."""
        billed = {"billed": format_nanos(self.billed_nanos)} if self.billed_nanos else {}
        return {"moved_from": str(self.event_id), **billed}


def request_digest(check_json: bytes) -> bytes:
    """What two checks must share to be the same request."""
    return sha256(check_json).digest()[:16]


def to_known(row: "asyncpg.Record") -> Known:
    """What the lock on accounts found of an operation (the type known_operation of the schema)."""
    decision = row["decision"]
    return Known(row["request_digest"], None if decision is None else decision.encode(), row["state"])


async def write_decisions(
    connection: "Connection",
    decided: Sequence[Decided],
    now: datetime,
    holds: Mapping[str, int],
    moved: Moved | None = None,
) -> None:
    """Logs decisions, at least one, all made at one moment, and adds holds to the counters at their places. ``moved``:
    the hold of the one that is decided was taken out for it.

    The accounts must be locked, and none of the operations may have a decision by then.
    """
    event_ids = uuid7s(len(decided))
    # One a line: JSON has no line breaks, and to search bodies for what an array literal must escape takes longer.
    bodies = b"\n".join(map(_body, decided, event_ids, repeat(moved))).decode()
    account_ids, operation_ids, *columns = array_literals(map(_row, decided))
    places = array_literal(list(holds)), array_literal(list(holds.values()))
    await connection.execute(
        SQL["write"], now, account_ids, operation_ids, array_literal(event_ids), bodies, *columns, *places,
        None if moved is None else moved.event_id,
    )  # fmt: skip


def _body(one: Decided, event_id: UUID, moved: Moved | None) -> bytes:
    event_type = CHECK_DENIED
    if one.verdict.allowed:
        event_type = RESERVATION_PLACED if moved is None else RESERVATION_MOVED
    return decision_event(
        event_id, event_type, one.check.account_id, one.verdict.decided_at, one.check_json, one.decision_json,
        None if moved is None else moved.data(),
    )  # fmt: skip


def _row(one: Decided) -> tuple[object, ...]:
    check = one.check
    return (
        check.account_id, check.operation_id, f"\\x{one.request_digest.hex()}", check.user_id, check.project_id,
        check.api_key_id, check.operation, check.provider, check.model, check.quantity, check.estimated_cost or 0,
        one.verdict.expires_at, isinstance(check, LeaseCheck), calls_of(check),
    )  # fmt: skip


async def close_holds(
    connection: "Connection", keys: Iterable[OperationKey], state: str, only_due: bool
) -> list[OperationKey]:
    """Ends open holds as ``released`` or ``expired``; answers those that were open. The accounts must be locked."""
    ordered = sorted(keys)
    rows = await connection.fetch(SQL["close"], *zip(*ordered, strict=True), uuid7s(len(ordered)), state, only_due)
    return [OperationKey(row["account_id"], row["operation_id"]) for row in rows]


async def find_due(connection: "Connection", at_most: int) -> list[OperationKey]:
    """Open holds whose time is over, by the database's clock, the longest overdue first."""
    return [OperationKey(row["account_id"], row["operation_id"]) for row in await connection.fetch(SQL["due"], at_most)]


async def extend_hold(connection: "Connection", key: OperationKey, ttl_seconds: int) -> datetime | None:
    """Moves an open hold's end to ``ttl_seconds`` from now; None where it is not open."""
    row = await connection.fetchrow(SQL["extend"], key.account_id, key.operation_id, float(ttl_seconds), uuid7())
    return None if row is None else row["expires_at"]


async def find_placement(connection: "Connection", key: OperationKey) -> Placement | None:
    """By which decision an operation is or was held. Where the account is locked, that is how it stays."""
    row = await connection.fetchrow(SQL["find_placement"], key.account_id, key.operation_id)
    if row is None:
        return None
    return Placement(
        row["event_id"], row["state"], row["request_digest"], row["decided_at"], row["user_id"], row["project_id"],
        row["api_key_id"], row["operation"], row["decision"].encode(), row["billed"], row["moved_from_placed_at"],
        row["moves"],
    )  # fmt: skip


async def take_out(connection: "Connection", key: OperationKey) -> None:
    """Takes an open hold out of the counters, and its decision away: the transaction puts another in its place, or is
    rolled back. The account must be locked."""
    await connection.execute(SQL["take_out"], key.account_id, key.operation_id)


async def find_state(
    connection: "Connection", operation_id: UUID, account_id: str | None
) -> tuple[OperationKey, str] | None:
    """The state of the decision on an operation, and whose it is."""
    row = await connection.fetchrow(SQL["find_state"], operation_id, account_id)
    return None if row is None else (OperationKey(row["account_id"], operation_id), row["state"])


async def find_decision(
    connection: "Connection", operation_id: UUID, account_id: str | None
) -> "asyncpg.Record | None":
    """The decision on an operation: its state, its event, and what became of the operation."""
    return await connection.fetchrow(SQL["find"], operation_id, account_id)
