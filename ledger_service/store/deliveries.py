"""Deliveries to webhooks: queued in lanes (account, endpoint), each of which is worked off in order."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

from contracts.webhooks import DeliveryState
from ledger_service.domain.notifications import Notification, Subscription, lane_of
from ledger_service.domain.webhooks import Due, Lane
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)
#: Of one delivery, so many are shown.
ATTEMPTS_SHOWN_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Task:
    """What is next in a lane, and where it goes. ``owner``: of the endpoint; empty where it is for all accounts."""

    lane: Lane
    message_id: UUID
    type: str
    body: bytes
    tries: int
    owner: str
    webhook_id: str
    url: str


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a request."""

    started_at: datetime
    duration_ms: int
    status: int | None
    error: str | None
    answer: bytes


async def queue(connection: "Connection", wanted: Sequence[tuple[Subscription, Notification]]) -> None:
    """Queues in order, within a transaction. What is queued already, or was sent, stays as it is."""
    if wanted:
        rows = _rows(wanted)
        await connection.execute(SQL["queue"], *zip(*rows, strict=True))
        await _wake(connection, {(row[0], row[1]) for row in rows}, at_once=False)


async def queue_again(
    connection: "Connection", wanted: Sequence[tuple[Subscription, Notification]], *, delivered: bool
) -> int:
    """Queues what was never sent and what failed, with ``delivered`` all of it; answers how many that are. The
    endpoint's state is locked."""
    if not wanted:
        return 0
    rows = await connection.fetch(SQL["queue_again"], *zip(*_rows(wanted), strict=True), delivered)
    await _wake(connection, {(row["account_id"], row["endpoint_id"]) for row in rows}, at_once=True)
    return len(rows)


async def redeliver(connection: "Connection", endpoint_id: UUID, message_id: UUID) -> bool:
    """Queues one again, whatever became of it; False where there is none. The endpoint's state is locked."""
    account_id: str | None = await connection.fetchval(SQL["again"], endpoint_id, message_id)
    if account_id is None:
        return False
    await _wake(connection, {(account_id, endpoint_id)}, at_once=True)
    return True


async def wake_endpoint(connection: "Connection", endpoint_id: UUID) -> None:
    """What is pending is due now: the endpoint was enabled again. Of one that is off, lanes rest once they are due."""
    await connection.execute(SQL["wake_endpoint"], endpoint_id)


async def read_due(
    connection: "Connection", endpoints: Collection[UUID], owners: Collection[str], lanes_max: int
) -> list[Due]:
    """The lanes that are due, the longest first, but for those of these endpoints and these owners' endpoints."""
    rows = await connection.fetch(SQL["due"], list(endpoints), list(owners), lanes_max)
    return [Due((row["account_id"], row["endpoint_id"]), row["owner"]) for row in rows]


async def claim(connection: "Connection", lanes: Sequence[Lane], seconds: float, name: UUID) -> list[Task]:
    """Takes lanes that are still due, for so long; answers what is next in each. Within a transaction.

    Whoever dies with a claim loses it in that time; then somebody else sends the same once more.
    """
    if not lanes:
        return []
    accounts, endpoints = zip(*lanes, strict=True)
    rows = await connection.fetch(SQL["claim"], accounts, endpoints, seconds, name)
    taken = [(row["account_id"], row["endpoint_id"]) for row in rows]
    if not taken:
        return []
    # Another statement, for it has to see what was queued before the lanes were locked.
    tasks = [_task(row) for row in await connection.fetch(SQL["heads"], *zip(*taken, strict=True))]
    idle = set(taken) - {task.lane for task in tasks}
    if idle:
        await connection.execute(SQL["rest"], *zip(*idle, strict=True))
    return tasks


async def lock_claim(connection: "Connection", lane: Lane, name: UUID) -> bool:
    """Whether the lane is still claimed under this name; until the transaction ends."""
    return bool(await connection.fetchval(SQL["lock_lane"], *lane) == name)


async def free_lane(connection: "Connection", lane: Lane, again_in_seconds: float | None, *, resting: bool) -> None:
    """The claim is over: on to the next delivery, or the same after that time; or, ``resting``, to nothing."""
    await connection.execute(SQL["free_lane"], *lane, again_in_seconds, resting)


async def settle(connection: "Connection", task: Task, tried: Tried, state: DeliveryState | None) -> None:
    """Keeps an attempt and what the delivery is by it; None: the claim was lost, and that is another's to say."""
    key = (*task.lane, task.message_id)
    attempts = (
        await connection.fetchval(SQL["count_attempt"], *key)
        if state is None
        else await connection.fetchval(SQL["settle"], *key, state.value)
    )
    if attempts is not None:  # else it was removed meanwhile
        await connection.execute(
            SQL["add_attempt"], *key, attempts, tried.started_at, tried.duration_ms, tried.status, tried.error,
            tried.answer,
        )  # fmt: skip


async def list_deliveries(
    connection: "Connection",
    endpoint_id: UUID,
    before: int | None,
    rows_max: int,
    states: Sequence[str] | None,
    kind: str | None,
    account_id: str | None,
) -> "list[asyncpg.Record]":
    """A page of an endpoint's deliveries, newest first."""
    return await connection.fetch(SQL["page"], endpoint_id, before, rows_max, states, kind, account_id)


async def find_delivery(connection: "Connection", endpoint_id: UUID, message_id: UUID) -> "asyncpg.Record | None":
    return await connection.fetchrow(SQL["one"], endpoint_id, message_id)


async def list_attempts(
    connection: "Connection", account_id: str, endpoint_id: UUID, message_id: UUID
) -> "list[asyncpg.Record]":
    """The newest first."""
    return await connection.fetch(SQL["attempts"], account_id, endpoint_id, message_id, ATTEMPTS_SHOWN_MAX)


async def purge(connection: "Connection", keep_seconds: float, rows_max: int) -> int:
    """Removes what is over for so long, and what belongs to endpoints that are gone; answers how many rows."""
    removed = _count(await connection.execute(SQL["purge_finished"], keep_seconds, rows_max))
    removed += _count(await connection.execute(SQL["purge_endpoints"], keep_seconds, rows_max))
    await connection.execute(SQL["purge_lanes"])
    return removed


async def _wake(connection: "Connection", lanes: Collection[Lane], *, at_once: bool) -> None:
    """``at_once``: also those that wait before another try."""
    if lanes:
        await connection.execute(SQL["wake"], *zip(*sorted(lanes), strict=True), at_once)


def _rows(wanted: Sequence[tuple[Subscription, Notification]]) -> list[tuple[str, UUID, UUID, str, datetime, bytes]]:
    return [
        (lane_of(to, one), to.endpoint_id, one.message_id, one.type, one.occurred_at, one.body) for to, one in wanted
    ]


def _task(row: "asyncpg.Record") -> Task:
    return Task(
        (row["account_id"], row["endpoint_id"]), row["message_id"], row["type"], row["body"], row["tries"],
        row["owner"], row["webhook_id"], row["url"],
    )  # fmt: skip


def _count(status: str) -> int:
    """``DELETE 3`` → 3."""
    return int(status.rpartition(" ")[2])
