"""Of which moment an answer is: what every read takes (as_of, min_position) and tells (Ledger-* headers).

A route of its own::

    async def read_it(…, wired: Wired, demand: Demanded, response: Response) -> Model:
        async with reading(wired, demand) as read:
            rows = await read_rows(read.known, …)
        read.tell(response)  # or the response that it makes itself, or its headers=read.headers

Whatever is in the answer is read in one snapshot, which the headers are about, and of it what was recorded until as_of,
where that is asked for. ``read.known`` leaves out the rest by itself; of a query that reads a table of which only the
present is known it raises NoPastError. ``read.connection`` is the snapshot itself: queries see to ``read.as_of``.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar

from fastapi import Depends, Query, Response

from contracts.moments import Moment
from contracts.problems import broken_rule
from contracts.subjects import POSITION_HEADER
from ledger_service.past import connection_at
from ledger_service.projections.past import NoPastError
from ledger_service.services import Services
from ledger_service.store.moments import POSITION_MAX, Demand, Snapshot, committing, snapshot
from ledger_service.store.pool import Connection, Pool
from ledger_service.store.terms import TermsCache

Found = TypeVar("Found")

WAIT_SECONDS_DEFAULT: Final = 2.0
WAIT_SECONDS_MAX: Final = 30.0

POSITION: Final = POSITION_HEADER
READ_AT: Final = "Ledger-Read-At"
LAG: Final = "Ledger-Lag-Seconds"
AS_OF: Final = "Ledger-As-Of"
#: What they say, for the documents.
HEADERS: Final = {
    POSITION: "The log position that the answer reflects: all that was committed as this one or an earlier one.",
    READ_AT: "When it was read, by the ledger's clock.",
    LAG: "How far behind its producers it may be: all events that the stream had so long before are in it. Not given "
    "with as_of, nor before the ledger has looked at the stream.",
    AS_OF: "Where as_of was given: nothing that was recorded later is in the answer.",
}


async def demanded(
    as_of: Annotated[
        Moment | None,
        Query(description="What the ledger knew at that moment: recorded_at until then. The same answer, ever after."),
    ] = None,
    min_position: Annotated[
        str | None,
        Query(pattern=r"^[0-9]{1,20}$", description="A Ledger-Position that the answer must reflect; waited for."),
    ] = None,
    wait_seconds: Annotated[
        float, Query(ge=0, le=WAIT_SECONDS_MAX, description="How long to wait for min_position and as_of.")
    ] = WAIT_SECONDS_DEFAULT,
) -> Demand:
    """FastAPI dependency: of which moment the answer is to be."""
    position = None if min_position is None else int(min_position)
    if position is not None and position > POSITION_MAX:
        raise broken_rule("query.min_position", "position", f"a position is at most {POSITION_MAX}")
    return Demand(None if as_of is None else as_of.astimezone(UTC), position, wait_seconds)


Demanded = Annotated[Demand, Depends(demanded)]


@dataclass(frozen=True)
class Seen:
    """Which state of the ledger was read: of it what was recorded until ``as_of``, or all (None)."""

    as_of: datetime | None
    snapshot: Snapshot
    lag_seconds: float | None

    @property
    def now(self) -> datetime:
        """The moment that the answer is of."""
        return self.as_of or self.snapshot.read_at.astimezone(UTC)

    @property
    def headers(self) -> Mapping[str, str]:
        """What the answer says of itself."""
        headers = {POSITION: str(self.snapshot.position), READ_AT: _rfc3339(self.snapshot.read_at)}
        if self.as_of is None and self.lag_seconds is not None:
            headers[LAG] = f"{self.lag_seconds:.3f}"
        if self.as_of is not None:
            headers[AS_OF] = _rfc3339(self.as_of)
        return headers

    def tell(self, response: Response) -> Response:
        """The response, with the headers."""
        response.headers.update(self.headers)
        return response


@dataclass(frozen=True)
class Read(Seen):
    """A read that sees one state of the ledger."""

    connection: Connection
    #: Of this moment's plans, overrides and grants: those that are remembered are of now.
    terms: TermsCache

    @property
    def known(self) -> Connection:
        """What the ledger knew then: see ledger_service.past."""
        return connection_at(self.connection, self.as_of)


@asynccontextmanager
async def reading(wired: Services, demand: Demand, pool: Pool | None = None) -> AsyncIterator[Read]:
    """A read-only transaction in which the demand is met, of the pool for short reads, unless another one is named.
    Raises ProblemError where that is not so in time."""
    complete_at = wired.freshness.complete_at
    async with snapshot(wired.reads if pool is None else pool, demand) as (connection, seen):
        terms = wired.terms if demand.as_of is None else TermsCache()
        try:
            yield Read(demand.as_of, seen, _since(complete_at), connection, terms)
        except NoPastError as error:
            raise broken_rule("query.as_of", "unsupported", f"{error}: ask without as_of") from None


async def at_once(
    wired: Services, look: Callable[[Connection], Awaitable[tuple[Snapshot, Found]]]
) -> tuple[Seen, Found]:
    """What one statement finds now: a statement sees one snapshot by itself, so that this needs no transaction, and
    is one round trip instead of four around those of the read. For reads without as_of and min_position."""
    complete_at = wired.freshness.complete_at
    async with wired.reads.acquire() as connection:
        snapshot_seen, found = await look(connection)
    return Seen(None, snapshot_seen, _since(complete_at)), found


def _since(complete_at: float | None) -> float | None:
    return None if complete_at is None else time.monotonic() - complete_at


@asynccontextmanager
async def writing(pool: Pool, response: Response) -> AsyncIterator[Connection]:
    """A transaction; the response tells the position that it commits as, for readers to demand."""
    async with pool.acquire() as connection:
        async with connection.transaction():
            yield connection
            position = await committing(connection)
        response.headers[POSITION] = str(position)


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
