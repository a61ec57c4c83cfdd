"""Decisions and the holds they place."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import orjson

from contracts.identifiers import uuid7
from contracts.leases import LeaseCheck
from contracts.limits import LimitCheck
from ledger_service.domain.counters import calls_of
from ledger_service.domain.decide import Verdict
from ledger_service.domain.ledger_events import CHECK_DENIED, RESERVATION_PLACED, decision_event
from ledger_service.store.outrun import OutrunError
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


class OperationKey(NamedTuple):
    account_id: str
    operation_id: UUID


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger has of an operation when it is checked: an earlier decision, an outcome, or both."""

    request_digest: bytes | None
    decision_json: bytes | None
    state: str | None


@dataclass(frozen=True, slots=True)
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


def read_known(text: str | None) -> dict[OperationKey, Known]:
    """What the lock on accounts found of operations; see terms.sql."""
    return {
        OperationKey(one["account_id"], UUID(one["operation_id"])): Known(
            bytes.fromhex(one["request_digest"]) if one["request_digest"] else None,
            one["decision"].encode() if one["decision"] else None,
            one["state"],
        )
        for one in (orjson.loads(text) if text else ())
    }


async def write_decisions(
    connection: "Connection", decided: Sequence[Decided], now: datetime, holds: Mapping[str, int]
) -> None:
    """Logs decisions, at least one, all made at one moment, and adds holds to the counters at their places.

    The accounts must be locked. Raises an error of pool.RETRYABLE where a decision or an outcome of one of the
    operations came meanwhile.
    """
    columns = zip(*(_row(one) for one in decided), strict=True)
    if await connection.fetchval(SQL["write"], now, *columns, list(holds), list(holds.values())):
        raise OutrunError("an operation has an outcome that came while its check waited")


def _row(one: Decided) -> tuple[object, ...]:
    check, (allowed, decided_at, expires_at, _), event_id = one.check, one.verdict, uuid7()
    event_type = RESERVATION_PLACED if allowed else CHECK_DENIED
    body = decision_event(event_id, event_type, check.account_id, decided_at, one.check_json, one.decision_json)
    return (
        check.account_id, check.operation_id, event_id, body.decode(), one.request_digest, check.user_id,
        check.project_id, check.api_key_id, check.operation, check.provider, check.model, check.quantity,
        check.estimated_cost or 0, expires_at, isinstance(check, LeaseCheck), calls_of(check),
    )  # fmt: skip


async def close_holds(
    connection: "Connection", keys: Iterable[OperationKey], state: str, only_due: bool
) -> list[OperationKey]:
    """Ends open holds as ``released`` or ``expired``; answers those that were open. The accounts must be locked."""
    ordered = sorted(keys)
    rows = await connection.fetch(
        SQL["close"], *zip(*ordered, strict=True), [uuid7() for _ in ordered], state, only_due
    )
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
