"""Points in time of the log: what a snapshot reflects, and when nothing more can be recorded as of a moment."""

import asyncio
import time
from collections.abc import AsyncIterator
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


def snapshot_of(row: "asyncpg.Record") -> Snapshot:
    """Of a row with the columns ``xmin`` and ``read_at`` of `snapshot`."""
    return Snapshot(int(row["xmin"]) - 1, row["read_at"])


class _Patience:
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
    patience = _Patience(demand.wait_seconds)
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


async def _settle(pool: "Pool", as_of: datetime, patience: _Patience) -> None:
    """Waits until whatever is committed from now on was recorded after this moment."""
    while True:
        async with pool.acquire() as connection:
            [row] = await connection.fetch(SQL["unsettled"], as_of, READS_ONLY_AFTER_SECONDS)
        if as_of > row["now"]:
            raise broken_rule(
                "query.as_of", "future", f"it is yet to come: the ledger's clock says {_text(row['now'])}"
            )
        if row["now"] - as_of >= SETTLING and not row["transactions"]:
            return
        if not await patience.wait():
            detail = f"what is recorded until {_text(as_of)} is not final yet: {row['transactions']} transactions run"
            raise ProblemError(MOMENT_UNSETTLED, detail, as_of=_text(as_of))


def _text(moment: datetime) -> str:
    return moment.isoformat()
