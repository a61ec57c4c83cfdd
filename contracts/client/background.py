"""Work that outlives the request that caused it, and that a clean stop waits for."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final, TypeVar

import structlog

from contracts.problems import ProblemError

T = TypeVar("T")

RESTART_SECONDS: Final = 5.0
_CANCEL_AGAIN_SECONDS: Final = 0.5

_log = structlog.stdlib.get_logger(__name__)


async def stop(task: "asyncio.Task[None]") -> None:
    """Cancel a task and wait until it has ended.

    More than once, because a cancellation can get lost: asyncio.wait_for of Python 3.11 drops one that comes at the
    moment in which what it waits for fails, and nats-py then goes on connecting.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_AGAIN_SECONDS)


class Background:
    """Keeps its tasks referenced (the event loop alone would not) and reports what nobody else would hear of."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    def start(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """Run it in a task of its own. A caller that wants the result awaits ``asyncio.shield(task)``."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def drain(self, timeout_seconds: float) -> None:
        """Wait for what runs, then cancel what is left and wait for that."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_seconds)
        left = set(self._tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=timeout_seconds)

    def _ended(self, task: "asyncio.Task[T]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ProblemError):
            _log.error("background_task_failed", exc_info=error)


async def for_ever(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Runs it again whenever it ends. Parts expect every error that they can have; another must not end them."""
    while True:
        try:
            await run()
        except Exception as error:  # noqa: BLE001  see above
            _log.error("restarting", part=name, exc_info=error)
        await asyncio.sleep(RESTART_SECONDS)
