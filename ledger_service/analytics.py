"""Analytics: a question about usage → its answer, by as few and as small tables as have it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from contracts.problems import OVERLOADED, QUERY_TOO_LARGE, FieldError, ProblemError, describe
from ledger_service.domain.usage_answers import Answer, answer
from ledger_service.domain.usage_queries import CELLS_MAX, Plan, Source, TooMuchError, UsageQuery, plan
from ledger_service.store import connections
from ledger_service.store.analytics import TooSlowError, read_cells

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection, Pool

#: A query waits so long for one of the connections that all share.
WAIT_SECONDS: Final = 5.0


class Analytics:
    """``metadata_keys``: those by which usage may be grouped and filtered."""

    def __init__(self, pool: "Pool", seconds_max: float, metadata_keys: frozenset[str]) -> None:
        self.pool = pool
        self.metadata_keys = metadata_keys
        self._seconds_max = seconds_max
        self._turns = asyncio.Semaphore(connections.ANALYTICS)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One of the pool's connections is there for whoever has it. Raises ProblemError (overloaded) where none gets
        free in time."""
        try:
            await asyncio.wait_for(self._turns.acquire(), WAIT_SECONDS)
        except TimeoutError:
            raise ProblemError(OVERLOADED, "too many analytics queries are running: try again") from None
        try:
            yield
        finally:
            self._turns.release()

    async def answer(self, connection: "Connection", query: UsageQuery) -> Answer:
        """Within the caller's transaction, one snapshot. Raises ProblemError (query_too_large)."""
        made = planned(query)
        try:
            found = await read_cells(connection, made, self._seconds_max)
        except TooSlowError:
            raise _too_large("time", f"took longer than {self._seconds_max:g} s; {_narrower(made)}") from None
        if len(found.cells) > CELLS_MAX:
            raise _too_large(
                "cells", f"more than {CELLS_MAX:,} groups and intervals: choose top, a filter, or less time"
            )
        return answer(*found)


def planned(query: UsageQuery) -> Plan:
    """Raises ProblemError where the answer would have too much in it."""
    try:
        return plan(query)
    except TooMuchError as error:
        found = FieldError(field=f"query.{error.field}", rule=error.rule, message=error.message)
        raise _too_large_of([found]) from None


def _too_large(rule: str, message: str) -> ProblemError:
    return _too_large_of([FieldError(field="query", rule=rule, message=message)])


def _too_large_of(errors: list[FieldError]) -> ProblemError:
    return ProblemError(QUERY_TOO_LARGE, describe(errors), errors)


def _narrower(made: Plan) -> str:
    if made.source is Source.USAGE_LOG:
        return f"it read the usage log ({'; '.join(made.reasons)}): ask for less time, for one account, or without that"
    return "ask for less time, or for one account"
