"""Connections to PostgreSQL, and which of its errors mean "try again later"."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import asyncpg

from ledger_service.store import event_log
from ledger_service.store.forgotten_connections import make_pool
from ledger_service.store.migrations import known_to_sessions
from ledger_service.store.timeline import Timeline

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
else:
    Connection, Pool = asyncpg.Connection, asyncpg.Pool

COMMAND_TIMEOUT_SECONDS: Final = 30
#: Of a statement of a limit check. Nobody waits longer for its answer, and so it takes to find out that the network has
#: forgotten a connection.
CHECK_TIMEOUT_SECONDS: Final = 10
CONNECT_TIMEOUT_SECONDS: Final = 5

#: The database is away, restarting, full or overrun: nothing is wrong with the request, and a retry may succeed.
UNAVAILABLE: Final[tuple[type[Exception], ...]] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InternalClientError,
)
#: Nobody gets in at all: it is away, or knows neither the role, its password nor the database.
OUT_OF_REACH: Final[tuple[type[Exception], ...]] = (
    *UNAVAILABLE,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
#: The transaction lost against another; the same one again will do. Keys come from their makers, so one that stands
#: already was written meanwhile.
RETRYABLE: Final[tuple[type[Exception], ...]] = (
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.UniqueViolationError,
)
#: Both: what a worker waits out.
TRANSIENT: Final[tuple[type[Exception], ...]] = UNAVAILABLE + RETRYABLE
#: Tries of one transaction that loses against others.
ATTEMPTS_MAX: Final = 5
#: PostgreSQL refuses the data itself: too large a number, a character it cannot hold, a key too long for its index.
REFUSED: Final[tuple[type[Exception], ...]] = (asyncpg.DataError, asyncpg.ProgramLimitExceededError)

Answer = TypeVar("Answer")


# Plans of prepared statements are made once, often while the tables are still empty, and then kept. All of ours find
# a batch's few rows through an index; told so, they stay right when the tables have grown.
_INDEX_LOOKUPS_ONLY: Final = {
    "jit": "off",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}


#: A ledger whose host or network is gone says nothing: without these the database would wait for it for hours, its
#: transaction open and its accounts locked. Ours do not wait between two statements of a transaction for seconds.
SILENT_CLIENTS: Final = {
    "idle_in_transaction_session_timeout": "10s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}


# To the planner, a statement made for the arrays at hand looks cheaper than the one for any arrays: it would plan a
# check anew each time, which takes as long as running it.
_PLANNED_ONCE: Final = {"plan_cache_mode": "force_generic_plan"}


class StoreUnavailableError(Exception):
    """The database cannot be reached or cannot take more now; nothing of the request was kept for certain."""


def reason_of(error: Exception) -> str:
    """Why a server is out of reach, in words."""
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)


async def nothing_to_reset(_: object) -> None:
    """Our transactions leave nothing behind; the default reset would cost each of them a round trip."""


async def open_pool(database_url: str, connections_max: int, role: str = "reads") -> Pool:
    """For reads and administration, and for workers that seldom do something."""
    return await make_pool(
        database_url,
        min_size=1,
        max_size=connections_max,
        timeout=CONNECT_TIMEOUT_SECONDS,
        command_timeout=COMMAND_TIMEOUT_SECONDS,
        reset=nothing_to_reset,
        server_settings={
            "application_name": f"ledger-{role}",
            **_INDEX_LOOKUPS_ONLY,
            **SILENT_CLIENTS,
            **known_to_sessions(),
        },
    )


@asynccontextmanager
async def acquire_within(pool: Pool, seconds: float) -> AsyncIterator[Connection]:
    """A connection for so long, the wait for it included. Raises TimeoutError after that.

    Not the same as a timeout around `acquire`: that cancels the statement, and asyncpg then waits until the server has
    ended it, which one that hangs never does. Here the connection is dropped.
    """
    until = asyncio.get_running_loop().time() + seconds
    async with pool.acquire(timeout=seconds) as connection, asyncio.timeout_at(until):
        yield connection


async def open_hot_pool(
    database_url: str,
    connections_max: int,
    role: str,
    command_timeout_seconds: int = COMMAND_TIMEOUT_SECONDS,
    *,
    takes_events: bool = True,
    timeline: Timeline | None = None,
) -> Pool:
    """For ingest, limit checks and expiry: few long-lived connections that run the same statements for ever.

    Where it ``takes_events``, each has the staging table of event_log. With a ``timeline``, all are of that one.
    """

    async def prepare(connection: Connection) -> None:
        if timeline is not None:
            await timeline.look(connection)
        if takes_events:
            await event_log.prepare_connection(connection)

    return await make_pool(
        database_url,
        min_size=connections_max,
        max_size=connections_max,
        max_inactive_connection_lifetime=0,
        timeout=CONNECT_TIMEOUT_SECONDS,
        command_timeout=command_timeout_seconds,
        init=prepare,
        reset=nothing_to_reset,
        server_settings={
            "application_name": f"ledger-{role}",
            **_INDEX_LOOKUPS_ONLY,
            **_PLANNED_ONCE,
            **SILENT_CLIENTS,
            **known_to_sessions(),
        },
    )


async def retrying(transaction: Callable[[], Awaitable[Answer]], attempts_max: int = ATTEMPTS_MAX) -> Answer:
    """A whole transaction, begun again where it lost against another one."""
    for attempt in range(1, attempts_max + 1):
        try:
            return await transaction()
        except RETRYABLE:
            if attempt == attempts_max:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


async def in_transaction(connection: Connection, work: Callable[[], Awaitable[Answer]]) -> Answer:
    """The work in a transaction of the connection, again where that lost against another one."""

    async def once() -> Answer:
        async with connection.transaction():
            return await work()

    return await retrying(once)
