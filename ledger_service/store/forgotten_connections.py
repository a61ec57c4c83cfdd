"""A pool that gets over connections which the network has forgotten: what is sent on them is never answered.

asyncpg finds out by a command's timeout, and then asks twice more on the same connection, each with the same timeout:
to cancel the command, and to roll back. And the others of the pool are found out one by one. Here the connection is
dropped with the first timeout, whereupon PostgreSQL rolls back what it had begun, and the others are replaced as they
are needed.
"""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from asyncpg.pool import PoolAcquireContext
from asyncpg.transaction import Transaction

if TYPE_CHECKING:
    from asyncpg.transaction import _IsolationLevels

    _Connection = asyncpg.Connection[asyncpg.Record]
    _Pool = asyncpg.Pool[asyncpg.Record]
    _AcquireContext = PoolAcquireContext[asyncpg.Record]
else:
    _Connection, _Pool, _AcquireContext = asyncpg.Connection, asyncpg.Pool, PoolAcquireContext

CLOSE_SECONDS_MAX: Final = 5.0


async def make_pool(
    database_url: str,
    *,
    min_size: int,
    max_size: int,
    **options: Any,  # as asyncpg declares them
) -> _Pool:
    """As `asyncpg.create_pool`, whose options these are."""
    defaults = {"max_queries": 50_000, "max_inactive_connection_lifetime": 300.0, "record_class": asyncpg.Record}
    loop = asyncio.get_running_loop()
    pool = _HealingPool(
        database_url,
        min_size=min_size,
        max_size=max_size,
        connection_class=_HealingConnection,
        loop=loop,
        **{**defaults, **options},
    )
    return await pool


class _HealingTransaction(Transaction):
    _connection: _Connection  # of Transaction

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, TimeoutError):
            self._connection.terminate()
        else:
            await super().__aexit__(kind, error, trace)


class _HealingConnection(_Connection):
    def transaction(
        self, *, isolation: "_IsolationLevels | None" = None, readonly: bool = False, deferrable: bool = False
    ) -> Transaction:
        return _HealingTransaction(self, isolation, readonly, deferrable)

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109  asyncpg calls it so
        """Takes leave; of one that does not answer, too."""
        with suppress(TimeoutError):
            await super().close(timeout=CLOSE_SECONDS_MAX if timeout is None else timeout)


class _Acquired(_AcquireContext):
    __slots__ = ()

    async def __aexit__(self, *raised: object) -> None:
        if any(isinstance(one, TimeoutError) for one in raised) and self.connection is not None:
            with suppress(asyncpg.InterfaceError):  # its transaction has dropped it already
                self.connection.terminate()
            await self.pool.expire_connections()
        await super().__aexit__(*raised)


class _HealingPool(_Pool):
    __slots__ = ()

    def acquire(self, *, timeout: float | None = None) -> _Acquired:
        return _Acquired(self, timeout)
