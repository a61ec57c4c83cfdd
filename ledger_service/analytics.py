"""Analytics: a question about usage → its answer, by as few and as small tables as have it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from contracts.problems import OVERLOADED, QUERY_TOO_LARGE, FieldError, ProblemError, describe
from ledger_service.domain.usage_answers import Answer, answer
from ledger_service.domain.usage_queries import CELLS_MAX, Plan, Source, TooMuchError, UsageQuery, plan
from ledger_service.store.analytics import TooSlowError, read_cells

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection, Pool

#: A query waits so long for one of the connections that all share.
WAIT_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Analytics:
    """``metadata_keys``: those by which usage may be grouped and filtered."""

    pool: "Pool"
    seconds_max: float
    metadata_keys: frozenset[str]

    @asynccontextmanager
    async def connection(self) -> "AsyncIterator[Connection]":
        """One of the connections for long reads. Raises ProblemError (overloaded) where all stay in use."""
        try:
            connection = await self.pool.acquire(timeout=WAIT_SECONDS)
        except TimeoutError:
            raise ProblemError(OVERLOADED, "too many analytics queries are running: try again") from None
        try:
            yield connection
        finally:
            await self.pool.release(connection)

    async def answer(self, connection: "Connection", query: UsageQuery) -> Answer:
        """Raises ProblemError: invalid_request where it is for too much, query_too_large where that turns out."""
        made = planned(query)
        try:
            cells, whole = await read_cells(connection, made, self.seconds_max)
        except TooSlowError:
            raise _too_large("time", f"took longer than {self.seconds_max:g} s; {_narrower(made)}") from None
        if len(cells) > CELLS_MAX:
            raise _too_large(
                "cells", f"more than {CELLS_MAX:,} groups and intervals: choose top, a filter, or less time"
            )
        return answer(made, cells, whole)


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
