"""Points in time of the log: what a snapshot reflects, and when nothing more can be recorded as of a moment."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from contracts.problems import MOMENT_UNSETTLED, POSITION_NOT_REACHED, POSITION_UNKNOWN, ProblemError, broken_rule
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection, Pool

SQL: Final = load(__name__)

#: A transaction's recorded_at is set when PostgreSQL receives its BEGIN, a moment before others can see that it runs:
#: this long is left for that.
SETTLING: Final = timedelta(seconds=0.5)
#: Longer than any statement of a writer may take: what has not written by then never will.
READS_ONLY_AFTER_SECONDS: Final = 60.0
POLL_SECONDS_FIRST: Final = 0.01
POLL_SECONDS_MAX: Final = 0.1
POSITION_MAX: Final = 2**64 - 1


class Demand(NamedTuple):
    """What a reader demands: only what was recorded until ``as_of``, and at least what ``min_position`` committed; and
    for how long it waits for both, in seconds."""

    as_of: datetime | None = None
    min_position: int | None = None
    wait_seconds: float = 0.0


class Snapshot(NamedTuple):
    """What a read sees: everything that committed as ``position`` or an earlier one; ``read_at``: when, by the
    database's clock."""

    position: int
    read_at: datetime


async def committing(connection: "Connection") -> int:
    """The position that the connection's transaction commits as: whoever reads it there sees what this wrote."""
    return int(await connection.fetchval(SQL["committing"]))


async def database_now(connection: "Connection") -> datetime:
    """When the connection's transaction began, by the clock that says when facts are recorded."""
    found: datetime = await connection.fetchval(SQL["now"])
    return found


def snapshot_of(row: "asyncpg.Record") -> Snapshot:
    """Of a row with the columns ``xmin`` and ``read_at`` of `snapshot`."""
    return Snapshot(int(row["xmin"]) - 1, row["read_at"])


class FutureError(Exception):
    """A moment that is yet to come; ``now`` is the database's."""

    def __init__(self, now: datetime) -> None:
        super().__init__(f"the database's clock says {_text(now)}")
        self.now = now


class UnsettledError(Exception):
    """Transactions that began by then have not ended."""

    def __init__(self, as_of: datetime, transactions: int) -> None:
        super().__init__(f"{transactions} transactions run")
        self.as_of, self.transactions = as_of, transactions


class Patience:
    """Waits in growing steps until its time is over."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._step = POLL_SECONDS_FIRST

    async def wait(self) -> bool:
        """False: the time is over."""
        left = self._until - time.monotonic()
        if left <= 0:
            return False
        await asyncio.sleep(min(self._step, left))
        self._step = min(2 * self._step, POLL_SECONDS_MAX)
        return True


@asynccontextmanager
async def snapshot(pool: "Pool", demand: Demand) -> "AsyncIterator[tuple[Connection, Snapshot]]":
    """A read-only transaction that sees one state of the database, which the demand is met in.

    No connection is kept while it waits. Raises ProblemError: position_unknown at once; position_not_reached and
    moment_unsettled when the time is over; invalid_request where ``as_of`` is yet to come.
    """
    patience = Patience(demand.wait_seconds)
    if demand.as_of is not None:
        await _settle(pool, demand.as_of, patience)
    wanted = None if demand.min_position is None else str(demand.min_position)
    absent = 0
    while True:
        async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            [row] = await connection.fetch(SQL["snapshot"], wanted)
            seen = snapshot_of(row)
            if row["is_reached"]:
                yield connection, seen
                return
            is_absent = row["is_beyond"] and not await connection.fetchval(SQL["is_running"], wanted)
            absent = absent + 1 if is_absent else 0  # twice, as it may have ended since the snapshot
        if absent > 1:
            detail = (
                f"this ledger is at {seen.position} and never was at {wanted}: was it put back to an earlier state?"
            )
            raise ProblemError(POSITION_UNKNOWN, detail, position=str(seen.position), min_position=wanted)
        if not await patience.wait() and not absent:
            detail = f"reached is {seen.position}, and not yet {wanted}"
            raise ProblemError(POSITION_NOT_REACHED, detail, position=str(seen.position), min_position=wanted)


async def _settle(pool: "Pool", as_of: datetime, patience: Patience) -> None:
    async def look(moment: datetime | None) -> "asyncpg.Record":
        async with pool.acquire() as connection:
            return await unsettled(connection, moment, READS_ONLY_AFTER_SECONDS)

    try:
        await settle(look, as_of, patience)
    except (FutureError, UnsettledError) as error:
        raise unsettled_problem(error) from None


async def unsettled(
    connection: "Connection", as_of: datetime | None, reads_only_after_seconds: float
) -> "asyncpg.Record":
    """The database's time, and how many ``transactions`` may still record something as of the moment."""
    [row] = await connection.fetch(SQL["unsettled"], as_of, reads_only_after_seconds)
    return row


async def settle(
    look: "Callable[[datetime | None], Awaitable[asyncpg.Record]]", as_of: datetime | None, patience: Patience
) -> datetime:
    """The moment, by default the first that is looked at, once whatever is committed from now on was recorded after it.
    ``look`` is `unsettled`. Raises FutureError, and UnsettledError when the time is over."""
    while True:
        row = await look(as_of)
        now: datetime = row["now"]
        if as_of is None:
            as_of = now
        elif as_of > now:
            raise FutureError(now)
        elif now - as_of >= SETTLING and not row["transactions"]:
            return as_of
        if not await patience.wait():
            raise UnsettledError(as_of, row["transactions"])


def unsettled_problem(error: FutureError | UnsettledError) -> ProblemError:
    """What a reader over HTTP is told."""
    if isinstance(error, FutureError):
        return broken_rule("query.as_of", "future", f"it is yet to come: the ledger's clock says {_text(error.now)}")
    as_of = _text(error.as_of)
    detail = f"what is recorded until {as_of} is not final yet: {error.transactions} transactions run"
    return ProblemError(MOMENT_UNSETTLED, detail, as_of=as_of)


def _text(moment: datetime) -> str:
    return moment.isoformat()
