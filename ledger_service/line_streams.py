"""Long work over HTTP: few at a time, as lines that never pause for long, ended at once when nobody reads them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Final

import structlog
from pydantic import BaseModel

from contracts.backtests import Backtest, BacktestLine, BacktestResult
from contracts.problems import INTERNAL, OVERLOADED, STORE_UNAVAILABLE, Problem, ProblemError, problem
from contracts.repricings import Repricing, RepricingLine, RepricingResult
from ledger_service.backtesting import run_backtest
from ledger_service.repricing import run_repricing
from ledger_service.store.connections import STREAMS_MAX
from ledger_service.store.pool import TRANSIENT

log = structlog.get_logger()

#: What a backtest takes of a core at most.
SHARE_OF_CORE: Final = 0.1
STREAM_SECONDS_MAX: Final = 3600
PROGRESS_SECONDS: Final = 0.5

#: What the work yields: progress, and at its end the result.
Steps = AsyncGenerator[BaseModel, None]
#: One line of the answer, of the member that has this name.
MakeLine = Callable[[str, BaseModel | None], bytes]


class Streams:
    """Those of one kind that run in this process."""

    def __init__(self, what: str, result: type[BaseModel], make_line: MakeLine) -> None:
        self._what = what
        self._result = result
        self._make_line = make_line
        self._running = 0

    async def start(self, steps: Steps) -> "LineStream":
        """The work under way; whoever starts it must stop() it. Raises ProblemError where it cannot begin (overloaded,
        and what it raises itself), and what asyncpg raises where the database is away."""
        if self._running >= STREAMS_MAX:
            raise ProblemError(OVERLOADED, f"{STREAMS_MAX} {self._what} is running in this process already")
        self._running += 1
        stream = LineStream(self._what, steps, self._result, self._make_line)
        stream.task.add_done_callback(self._ended)
        try:
            await stream.begun()
        except BaseException:
            stream.stop()
            raise
        return stream

    def _ended(self, _: object) -> None:
        self._running -= 1


class Backtests:
    """Those that run in this process."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._streams = Streams(
            "backtest", BacktestResult, lambda name, one: BacktestLine.model_validate({name: one}).to_bytes()
        )

    async def start(self, wanted: Backtest) -> "LineStream":
        """See Streams.start; also not_found and invalid_request."""
        return await self._streams.start(run_backtest(self._database_url, wanted, SHARE_OF_CORE))


class Repricings:
    """Those that run in this process."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._streams = Streams(
            "repricing", RepricingResult, lambda name, one: RepricingLine.model_validate({name: one}).to_bytes()
        )

    async def start(self, wanted: Repricing, author: str) -> "LineStream":
        """See Streams.start; also not_found and conflict."""
        return await self._streams.start(run_repricing(self._database_url, wanted, author))


class LineStream:
    """One that runs, whether or not its lines are read: a slow reader does not hold it up."""

    def __init__(self, what: str, steps: Steps, result: type[BaseModel], make_line: MakeLine) -> None:
        self._what = what
        self._result = result
        self._make_line = make_line
        self._progress: BaseModel | None = None
        self._begun = asyncio.Event()
        self.task = asyncio.create_task(self._run(steps))

    async def begun(self) -> None:
        """Returns when all that was asked for exists. Raises what the work raised before."""
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
            yield self._make_line("progress", self._progress)
            await asyncio.wait((self.task,), timeout=PROGRESS_SECONDS)
        error = self.task.exception()
        if error is None:
            yield self._make_line("result", self.task.result())
        else:
            yield self._make_line("problem", self._broken_off(error))

    def stop(self) -> None:
        """Ends it and its transaction at once. Does nothing to one that has ended."""
        self.task.cancel()
        if self.task.done() and not self.task.cancelled():
            self.task.exception()  # has been told, or there is nobody left to tell

    async def _run(self, steps: Steps) -> BaseModel:
        async with asyncio.timeout(STREAM_SECONDS_MAX), aclosing(steps):
            async for step in steps:
                if isinstance(step, self._result):
                    return step
                self._progress = step
                self._begun.set()
        raise AssertionError("unreachable: the work ends with its result")

    def _broken_off(self, error: BaseException) -> Problem:
        if isinstance(error, ProblemError):
            return error.problem
        if isinstance(error, TRANSIENT):
            log.warning("stream_broken_off", what=self._what, error=str(error) or type(error).__name__)
            return problem(STORE_UNAVAILABLE, f"the {self._what} broke off, and may be asked for again")
        log.error("stream_failed", what=self._what, exc_info=error)
        return problem(INTERNAL, "the error was logged")
