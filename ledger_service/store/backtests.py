"""The usage log as a backtest reads it: one snapshot, read only, in order, a few rows at a time."""

from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg
import orjson

from ledger_service.domain.backtest import Correction, Opening, Operation
from ledger_service.domain.periods import Calendar
from ledger_service.store.pool import CONNECT_TIMEOUT_SECONDS
from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)

APPLICATION_NAME: Final = "ledger-backtest"
FETCH_ROWS: Final = 250
CLOSE_SECONDS_MAX: Final = 2
_SETTINGS: Final = {
    "application_name": APPLICATION_NAME,
    # Of one statement or one fetch; and how long a reader may keep the snapshot, which vacuum waits for, and not read.
    "statement_timeout": "120s",
    "idle_in_transaction_session_timeout": "60s",
    # A statement whose client is gone ends within this time.
    "client_connection_check_interval": "1s",
    # Rows come account by account, through the index in which they are in order already.
    "jit": "off",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "max_parallel_workers_per_gather": "0",
}


class AccountCalendar(NamedTuple):
    account_id: str
    calendar: Calendar


@asynccontextmanager
async def open_snapshot(database_url: str) -> AsyncIterator["Connection"]:
    """A connection of its own, in one read-only transaction that sees the ledger as it is now."""
    connection = await asyncpg.connect(database_url, timeout=CONNECT_TIMEOUT_SECONDS, server_settings=_SETTINGS)
    try:
        await connection.transaction(isolation="repeatable_read", readonly=True).start()
        yield connection
        await connection.close(timeout=CLOSE_SECONDS_MAX)
    finally:
        # At once, whatever it waits for: also when who wanted the answer is gone. Nothing of it has to be kept.
        connection.terminate()


async def find_accounts(connection: "Connection", after: str, only: str | None, at_most: int) -> list[AccountCalendar]:
    """The next accounts in order of their ids, or the one that is wanted; those that were only ever seen too."""
    rows = await connection.fetch(SQL["accounts"], after, only, at_most)
    return [AccountCalendar(row["account_id"], Calendar(row["time_zone"], row["billing_anchor"])) for row in rows]


async def count_operations(
    connection: "Connection", start: datetime, end: datetime, account_id: str | None, with_denied: bool
) -> int:
    """How many rows read_operations answers, about: it leaves out what was denied and done all the same."""
    found: int = await connection.fetchval(SQL["count"], start, end, account_id)
    found += await connection.fetchval(SQL["count_corrections"], start, end, account_id)
    if with_denied:
        found += await connection.fetchval(SQL["count_denied"], start, end, account_id)
    return found


async def read_openings(
    connection: "Connection", wanted: Iterable[tuple[str, Opening]], start: datetime
) -> dict[str, dict[tuple[str, str], int]]:
    """What was used before ``start`` in periods that contain it: account_id → (counter_id, scope_key) → amount."""
    definitions = [
        {
            "account_id": account_id,
            "scope_key": opening.scope.value,
            "counter_id": opening.counted.counter_id,
            "period_start": opening.period.start,
            "period_end": opening.period.end,
            "meter": opening.counted.meter,
            "operations": opening.counted.operations or None,
            "providers": opening.counted.providers or None,
            "models": opening.counted.models or None,
        }
        for account_id, opening in wanted
    ]
    found: dict[str, dict[tuple[str, str], int]] = defaultdict(dict)
    if definitions:
        for row in await connection.fetch(SQL["openings"], orjson.dumps(definitions).decode(), start):
            found[row["account_id"]][row["counter_id"], row["scope_key"]] = row["amount"]
    return found


async def find_corrected(
    connection: "Connection", account_ids: list[str], start: datetime, end: datetime
) -> frozenset[str]:
    """Of these accounts, those of which read_operations answers corrections."""
    return frozenset(row["account_id"] for row in await connection.fetch(SQL["corrected"], account_ids, start, end))


async def read_operations(
    connection: "Connection",
    account_ids: list[str],
    start: datetime,
    end: datetime,
    with_denied: bool,
    corrected: Collection[str] = (),
) -> AsyncGenerator[list[Operation | Correction], None]:
    """The operations admitted at ``start`` ≤ moment < ``end``, account by account, in order, FETCH_ROWS at once.

    ``with_denied``: with the checks that were denied at that time. Of the accounts that are ``corrected``, also the
    corrections that were recorded before ``end``, and count or were recorded from ``start`` on.
    """
    query = SQL["operations_and_denied" if with_denied else "operations"]
    cursor = await connection.cursor(query, account_ids, start, end)
    order = {account_id: place for place, account_id in enumerate(account_ids)}
    of_these = [account_id for account_id in account_ids if account_id in corrected]
    corrections = _Corrections(
        await connection.cursor(SQL["corrections"], of_these, start, end) if of_these else None, order
    )
    await corrections.fetch()
    while rows := await cursor.fetch(FETCH_ROWS):
        operations = [Operation._make(row) for row in rows]
        yield await corrections.put_among(operations) if corrections.next else list(operations)
    while rest := corrections.take():
        yield rest
        await corrections.fetch()


_Place = tuple[int, datetime]


class _Corrections:
    """Those that are still to come, each to stand before the first operation that was admitted after it."""

    def __init__(self, cursor: "asyncpg.cursor.Cursor[asyncpg.Record] | None", order: Mapping[str, int]) -> None:
        self._cursor = cursor
        self._order = order
        self._fetched: deque[Correction] = deque()
        #: The place of the next one; None: there are no more.
        self.next: _Place | None = None

    async def fetch(self) -> None:
        """Reads on, where none are left of those that were read."""
        if not self._fetched and self._cursor is not None:
            self._fetched.extend(Correction._make(row) for row in await self._cursor.fetch(FETCH_ROWS))
        first = self._fetched[0] if self._fetched else None
        self.next = None if first is None else (self._order[first.account_id], first.at)

    def take(self) -> list[Operation | Correction]:
        """All that were read."""
        taken: list[Operation | Correction] = list(self._fetched)
        self._fetched.clear()
        return taken

    async def put_among(self, operations: list[Operation]) -> list[Operation | Correction]:
        found: list[Operation | Correction] = []
        for one in operations:
            place = (self._order[one.account_id], one.admitted_at)
            while self.next is not None and self.next <= place:
                found.append(self._fetched.popleft())
                await self.fetch()
            found.append(one)
        return found
