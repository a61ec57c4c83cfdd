"""Backtests over HTTP: few at a time, as lines that never pause for long, ended at once when nobody reads them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

import structlog

from contracts.backtests import Backtest, BacktestLine, BacktestProgress, BacktestResult
from contracts.problems import INTERNAL, OVERLOADED, STORE_UNAVAILABLE, Problem, ProblemError, problem
from ledger_service.backtesting import run_backtest
from ledger_service.store.pool import TRANSIENT

log = structlog.get_logger()

#: Beside live checks, in one process; each takes a connection and at most this share of a core.
BACKTESTS_MAX: Final = 1
SHARE_OF_CORE: Final = 0.1
BACKTEST_SECONDS_MAX: Final = 3600
PROGRESS_SECONDS: Final = 0.5


class Backtests:
    """Those that run in this process."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._running = 0

    async def start(self, wanted: Backtest) -> "BacktestStream":
        """A backtest under way; whoever starts it must stop() it. Raises ProblemError where it cannot begin
        (overloaded, not_found, invalid_request), and what asyncpg raises where the database is away."""
        if self._running >= BACKTESTS_MAX:
            raise ProblemError(OVERLOADED, f"{BACKTESTS_MAX} backtest is running in this process already")
        self._running += 1
        stream = BacktestStream(self._database_url, wanted)
        stream.task.add_done_callback(self._ended)
        try:
            await stream.begun()
        except BaseException:
            stream.stop()
            raise
        return stream

    def _ended(self, _: object) -> None:
        self._running -= 1


class BacktestStream:
    """One that runs, whether or not its lines are read: a slow reader does not keep the database's snapshot."""

    def __init__(self, database_url: str, wanted: Backtest) -> None:
        self._progress: BacktestProgress | None = None
        self._begun = asyncio.Event()
        self.task = asyncio.create_task(self._run(database_url, wanted))

    async def begun(self) -> None:
        """Returns when all that was asked for exists. Raises what the backtest raised before."""
        waiting = asyncio.create_task(self._begun.wait())
        try:
            await asyncio.wait((waiting, self.task), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self.task.done():
            self.task.result()

    async def lines(self) -> AsyncIterator[bytes]:
        """NDJSON: progress every half second, then the result, or the problem that it broke off with."""
        while not self.task.done():
            yield BacktestLine(progress=self._progress).to_bytes()
            await asyncio.wait((self.task,), timeout=PROGRESS_SECONDS)
        error = self.task.exception()
        last = BacktestLine(result=self.task.result()) if error is None else BacktestLine(problem=_broken_off(error))
        yield last.to_bytes()

    def stop(self) -> None:
        """Ends it and its transaction at once. Does nothing to one that has ended."""
        self.task.cancel()
        if self.task.done() and not self.task.cancelled():
            self.task.exception()  # has been told, or there is nobody left to tell

    async def _run(self, database_url: str, wanted: Backtest) -> BacktestResult:
        async with (
            asyncio.timeout(BACKTEST_SECONDS_MAX),
            aclosing(run_backtest(database_url, wanted, SHARE_OF_CORE)) as steps,
        ):
            async for step in steps:
                if isinstance(step, BacktestResult):
                    return step
                self._progress = step
                self._begun.set()
        raise AssertionError("unreachable: a backtest ends with its result")


def _broken_off(error: BaseException) -> Problem:
    if isinstance(error, ProblemError):
        return error.problem
    if isinstance(error, TRANSIENT):
        log.warning("backtest_broken_off", error=str(error) or type(error).__name__)
        return problem(STORE_UNAVAILABLE, "the backtest broke off; it changed nothing, and may be asked for again")
    log.error("backtest_failed", exc_info=error)
    return problem(INTERNAL, "the error was logged")
