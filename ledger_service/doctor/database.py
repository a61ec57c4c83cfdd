"""What PostgreSQL tells: one connection, one question after the other, each on its own."""

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import asyncpg

from ledger_service.config import Settings
from ledger_service.doctor.seals import DatabaseSeals, read_seals
from ledger_service.doctor.turns import Turns
from ledger_service.domain.doctor.facts import Clock, Database, Reached, Trouble, Unknown
from ledger_service.sealing import SealChain
from ledger_service.store import doctor as store
from ledger_service.store.pool import CONNECT_TIMEOUT_SECONDS, Connection
from ledger_service.store.server_files import data_folder

_STATEMENT_SECONDS_MAX: Final = 4.0
_LOCK_SECONDS_MAX: Final = 2.0
#: After which the connection is given up: the server does not even end the statement.
_ANSWER_SECONDS_MAX: Final = 6.0
_CLOCK_LOOKS: Final = 5

Answer = TypeVar("Answer")


class Gathered(NamedTuple):
    """``folder``: where on this machine the server keeps its files; None: it is not here, or our role may not know."""

    database: Database
    seals: DatabaseSeals | Unknown
    folder: Path | None


async def gather(settings: Settings, chain: SealChain | None, seconds_max: float, turns: Turns) -> Gathered:
    """Never raises for what a server does, or is."""
    try:
        return await _gather(settings, chain, seconds_max, turns)
    finally:
        turns.mark_read.set()


async def _gather(settings: Settings, chain: SealChain | None, seconds_max: float, turns: Turns) -> Gathered:
    place = _place(settings.database_url)
    deadline = time.monotonic() + seconds_max
    try:
        connection = await _connect(settings.database_url)
    except _REFUSALS as error:
        reached = Reached(place, *_trouble(error))
        nothing = Unknown("PostgreSQL cannot be worked with: see postgres.reachable")
        return Gathered(nothing_known(nothing, reached), nothing, None)
    try:
        return await _ask_all(_Questions(connection, deadline), Reached(place), settings, chain, turns)
    finally:
        connection.terminate()


async def _ask_all(
    ask: "_Questions", reached: Reached, settings: Settings, chain: SealChain | None, turns: Turns
) -> Gathered:
    plan = settings.default_plan_id
    mark = await ask(store.read_mark)
    turns.mark_read.set()
    found = Database(
        reached=reached,
        server=await ask(store.read_server),
        settings=await ask(store.read_settings),
        clock=await ask(_clock),
        migrations=await ask(store.read_migrations),
        role=await ask(store.read_role),
        rights=await ask(store.read_lacking_rights),
        readers=await ask(store.read_readers),
        anybody_may_connect=await ask(store.read_anybody_may_connect),
        horizon=await ask(store.read_horizon),
        prepared=await ask(store.read_prepared),
        slots=await ask(store.read_slots),
        archiver=await ask(store.read_archiver),
        tables=await ask(store.read_tables),
        frozen_age=await ask(store.read_frozen_age),
        sizes=await ask(store.read_sizes),
        wal_bytes=await ask(store.read_wal_bytes),
        flow=await ask(store.read_flow),
        mark=mark,
        default_plan_exists=False if plan is None else await ask(lambda one: store.plan_exists(one, plan)),
        webhooks=await ask(store.read_webhooks),
    )
    seals: DatabaseSeals | Unknown = Unknown("there is no key")
    if chain is not None:
        await turns.published_read.wait()
        seals = await ask(lambda one: read_seals(one, chain, turns.published))
    folder = await ask(data_folder)
    return Gathered(found, seals, None if isinstance(folder, Unknown) else folder)


class _Questions:
    """Asks one after the other; once the server does not answer any more, none."""

    def __init__(self, connection: Connection, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._over: Unknown | None = None

    async def __call__(self, question: Callable[[Connection], Awaitable[Answer]]) -> Answer | Unknown:
        if self._over is None and time.monotonic() > self._deadline:
            self._over = Unknown("there was no time left to ask PostgreSQL")
        if self._over is not None:
            return self._over
        try:
            async with asyncio.timeout(_ANSWER_SECONDS_MAX), self._connection.transaction(readonly=True):
                return await question(self._connection)
        except store.HiddenError as error:
            return Unknown(str(error))
        except asyncpg.QueryCanceledError:
            return Unknown(f"PostgreSQL took longer than {_STATEMENT_SECONDS_MAX:g} s to answer")
        except asyncpg.LockNotAvailableError:
            return Unknown("somebody holds a lock on the table, in postgres.horizon it may be seen who")
        except asyncpg.InsufficientPrivilegeError as error:
            return Unknown(f"our role may not see that: {error}")
        except _UNDEFINED as error:
            return Unknown(f"the schema has no such thing: {error}; see schema.version")
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            if not self._connection.is_closed() and isinstance(error, asyncpg.PostgresError):
                return Unknown(f"PostgreSQL answers: {error}")
            self._connection.terminate()
            self._over = Unknown(f"PostgreSQL did not answer any more: {str(error) or type(error).__name__}")
            return self._over


async def _clock(connection: Connection) -> Clock:
    """The look that took least tells most."""
    looks = []
    for _ in range(_CLOCK_LOOKS):
        before, started = time.time(), time.monotonic()
        theirs = (await connection.fetchval(store.SQL["clock"])).timestamp()
        half = (time.monotonic() - started) / 2
        looks.append(Clock(theirs - (before + half), half))
    return min(looks, key=lambda one: one.within_seconds)


async def _connect(url: str) -> "asyncpg.Connection[asyncpg.Record]":
    async with asyncio.timeout(2 * CONNECT_TIMEOUT_SECONDS):
        return await asyncpg.connect(
            url,
            timeout=CONNECT_TIMEOUT_SECONDS,
            server_settings={
                "application_name": "ledger-doctor",
                "statement_timeout": f"{_STATEMENT_SECONDS_MAX:g}s",
                "lock_timeout": f"{_LOCK_SECONDS_MAX:g}s",
            },
        )


_UNDEFINED: Final[tuple[type[Exception], ...]] = (
    asyncpg.UndefinedObjectError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
)

#: ValueError and the like: of a URL that is none.
_REFUSALS: Final[tuple[type[Exception], ...]] = (
    OSError,
    TimeoutError,
    ValueError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


def _trouble(error: Exception) -> tuple[Trouble, str]:
    detail = str(error).splitlines()[0] if str(error) else type(error).__name__
    match error:
        case asyncpg.InvalidAuthorizationSpecificationError() | asyncpg.InsufficientPrivilegeError():
            return Trouble.WRONG_PASSWORD, detail
        case asyncpg.InvalidCatalogNameError():
            return Trouble.NO_DATABASE, detail
        case asyncpg.TooManyConnectionsError():
            return Trouble.FULL, detail
        case asyncpg.CannotConnectNowError():
            return Trouble.STARTING, detail
        case ssl.SSLError():
            return Trouble.TLS, detail
        case socket.gaierror():
            return Trouble.NO_ADDRESS, detail
        case TimeoutError():
            return Trouble.SILENT, ""
        case OSError() if error.errno == errno.ECONNREFUSED or "Connect call failed" in str(error):
            return Trouble.REFUSED, ""
        case ValueError() | asyncpg.ClientConfigurationError():
            # Its text may have the URL in it, and that the password.
            return Trouble.OTHER, "LEDGER_DATABASE_URL is no URL of PostgreSQL"
        case _:
            return Trouble.OTHER, detail


def nothing_known(why: Unknown, reached: Reached | None = None) -> Database:
    facts = {name: why for name in Database.__dataclass_fields__ if name != "reached"}
    return Database(reached=reached or Reached("PostgreSQL", Trouble.OTHER, why.why), **facts)


def role_of(url: str) -> str:
    return unquote(urlsplit(url).username or "")


def _place(url: str) -> str:
    """``host:port/database``."""
    try:
        parts = urlsplit(url)
        return f"{parts.netloc.rpartition('@')[2]}{parts.path}" or "PostgreSQL"
    except ValueError:
        return "PostgreSQL"
