"""Decisions and the holds they place."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from contracts.identifiers import uuid7, uuid7s
from contracts.leases import LeaseCheck
from contracts.limits import LimitCheck
from ledger_service.domain.counters import calls_of
from ledger_service.domain.decide import Verdict
from ledger_service.domain.ledger_events import CHECK_DENIED, RESERVATION_PLACED, decision_event
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


def request_digest(check_json: bytes) -> bytes:
    """What two checks must share to be the same request."""
    return sha256(check_json).digest()[:16]


def to_known(row: "asyncpg.Record") -> Known:
    """What the lock on accounts found of an operation (the type known_operation of the schema)."""
    decision = row["decision"]
    return Known(row["request_digest"], None if decision is None else decision.encode(), row["state"])


async def write_decisions(
    connection: "Connection", decided: Sequence[Decided], now: datetime, holds: Mapping[str, int]
) -> None:
    """Logs decisions, at least one, all made at one moment, and adds holds to the counters at their places.

    The accounts must be locked, and none of the operations may have a decision by then.
    """
    event_ids = uuid7s(len(decided))
    # One a line: JSON has no line breaks, and to search bodies for what an array literal must escape takes longer.
    bodies = b"\n".join(map(_body, decided, event_ids)).decode()
    account_ids, operation_ids, *columns = array_literals(map(_row, decided))
    places = array_literal(list(holds)), array_literal(list(holds.values()))
    await connection.execute(
        SQL["write"], now, account_ids, operation_ids, array_literal(event_ids), bodies, *columns, *places
    )


def _body(one: Decided, event_id: UUID) -> bytes:
    event_type = RESERVATION_PLACED if one.verdict.allowed else CHECK_DENIED
    return decision_event(
        event_id, event_type, one.check.account_id, one.verdict.decided_at, one.check_json, one.decision_json
    )


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
