"""What a decision was taken by: limits as they were then, and the holds that were open."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import orjson

from contracts.limits import TTL_SECONDS_MAX, Limit
from ledger_service.domain.counters import Balance, Counted, CounterKey
from ledger_service.domain.periods import Calendar
from ledger_service.store.counters import compute_balances, counter_definition
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)

HOLDS_SHOWN_MAX: Final = 100
#: Of an account that holds more within HOLD_MAX, the newest are counted.
HOLDS_READ_MAX: Final = 20_000
#: How long a hold stays open unless it is extended: the longest TTL, and as long again for outcomes under a lease.
HOLD_MAX: Final = 2 * timedelta(seconds=TTL_SECONDS_MAX)
#: The ids of events are made by the ledgers' clocks, decisions are timed by the database's.
_CLOCKS_DIFFER_MAX: Final = timedelta(minutes=1)


async def find_plan_version(connection: "Connection", plan_id: str, version: int) -> list[Limit]:
    """The limits of a plan's version; none where the log does not have it."""
    data = _data(await connection.fetchrow(SQL["plan_version"], plan_id, version))
    return [Limit.model_validate(limit) for limit in data["limits"]] if data else []


async def find_override_version(
    connection: "Connection",
    account_id: str,
    limit_id: str,
    scope_id: str | None,
    version: int,
    valid_from: datetime | None,
    position: int,
) -> Limit | None:
    """The limit that an override was at a position of the log."""
    found = await connection.fetchrow(
        SQL["override_version"], account_id, limit_id, scope_id, version, valid_from, position
    )
    data = _data(found)
    return Limit.model_validate(data["limit"]) if data else None


async def find_calendar(connection: "Connection", account_id: str, position: int) -> Calendar:
    """The account's calendar at a position of the log."""
    data = _data(await connection.fetchrow(SQL["account_at"], account_id, position))
    return Calendar(data["time_zone"], datetime.fromisoformat(data["billing_anchor"]).date()) if data else Calendar()


async def find_counter(connection: "Connection", key: CounterKey) -> Balance | None:
    """What is settled and held now."""
    row = await connection.fetchrow(SQL["counter"], *key)
    return None if row is None else Balance(row["settled"], row["held"])


async def compute_counter(connection: "Connection", key: CounterKey, counted: Counted) -> Balance:
    """The same from what the counter is made of."""
    return (await compute_balances(connection, {key: counted}))[key]


async def find_open_holds(
    connection: "Connection", key: CounterKey, counted: Counted, moment: datetime, position: int, operation_id: UUID
) -> "list[asyncpg.Record]":
    """The holds of other operations on a counter that were open when a decision was taken, the oldest first, at most
    HOLDS_SHOWN_MAX; each with the number and total of all."""
    oldest = moment - HOLD_MAX - _CLOCKS_DIFFER_MAX
    return await connection.fetch(
        SQL["open_holds"],
        key.account_id, orjson.dumps(counter_definition(key, counted)).decode(), moment, position,
        _least_id(oldest), _least_id(moment + _CLOCKS_DIFFER_MAX), HOLDS_READ_MAX, HOLDS_SHOWN_MAX,
        operation_id,
    )  # fmt: skip


async def find_moved_from(connection: "Connection", account_id: str, event_id: UUID) -> "list[asyncpg.Record]":
    """What the hold of a decision was before it was moved to it, the first first."""
    return await connection.fetch(SQL["moved_from"], account_id, event_id)


def _least_id(moment: datetime) -> UUID:
    """No UUIDv7 of this moment or later is less."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)


def _data(row: "asyncpg.Record | None") -> dict[str, Any] | None:  # a JSON object from the log
    data: dict[str, Any] | None = orjson.loads(row["body"])["data"] if row else None  # as above
    return data
