"""Natural micro-batching: while one batch is in flight, arrivals queue; the next batch takes them all."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class QueueFullError(Exception):
    """Too much is waiting already; nothing was queued."""


class MicroBatcher(Generic[Item, Answer]):
    """Turns single calls into batches for one handler.

    The handler answers one value or exception per item, in order; an exception that it raises goes to all of them.
    An item whose caller went away before its batch began is not handled at all.
    """

    def __init__(
        self,
        handle: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        batch_max: int,
        queue_max: int,
        overlap_min: int = 1,
        on_batch: Callable[[Sequence[float]], None] | None = None,
        weigh: Callable[[Item], int] = lambda _: 1,
        slow_seconds: float | None = None,
    ) -> None:
        """``on_batch`` is told after each batch how many seconds its items took from their arrival. A batch takes items
        until what they ``weigh`` comes to ``batch_max``. For one that takes longer than ``slow_seconds`` none waits."""
        self._handle = handle
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._overlap_min = overlap_min
        self._on_batch = on_batch
        self._weigh = weigh
        self._slow_seconds = slow_seconds
        #: Those that are slow are not among them.
        self._in_flight = 0
        #: An item, where its answer goes, and when it came.
        self._queue: deque[tuple[Item, asyncio.Future[Answer], float]] = deque()
        self._arrived = asyncio.Event()

    def submit(self, item: Item) -> asyncio.Future[Answer]:
        """The handler's answer for this item, or what it raised or answered. Raises QueueFullError."""
        if len(self._queue) >= self._queue_max:
            raise QueueFullError
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append((item, future, time.perf_counter()))
        self._wake()
        return future

    def submit_many(self, items: Sequence[Item]) -> "list[asyncio.Future[Answer]]":
        """Queues all of them, or raises QueueFullError and queues none."""
        if len(self._queue) + len(items) > self._queue_max:
            raise QueueFullError
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Answer]] = [loop.create_future() for _ in items]
        now = time.perf_counter()
        self._queue.extend((item, future, now) for item, future in zip(items, futures, strict=True))
        self._wake()
        return futures

    async def run(self) -> None:
        """Handles batches, one after another, until cancelled.

        Several may run side by side: a further batch begins while others are in flight once ``overlap_min`` items
        wait, so that overlap does not end in batches of one.
        """
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            batch = self._take()
            if batch:
                with self._flight():
                    self._wake()  # where more came than one batch takes
                    await self._answer(batch)
            self._wake()

    @contextmanager
    def _flight(self) -> Iterator[None]:
        is_slow = False

        def pass_by() -> None:
            nonlocal is_slow
            is_slow = True
            self._in_flight -= 1
            self._wake()

        self._in_flight += 1
        timer = None
        if self._slow_seconds is not None:
            timer = asyncio.get_running_loop().call_later(self._slow_seconds, pass_by)
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            if not is_slow:
                self._in_flight -= 1

    def _wake(self) -> None:
        if self._queue and (not self._in_flight or len(self._queue) >= self._overlap_min):
            self._arrived.set()

    def _take(self) -> list[tuple[Item, asyncio.Future[Answer], float]]:
        batch: list[tuple[Item, asyncio.Future[Answer], float]] = []
        weight = 0
        while self._queue and weight < self._batch_max:
            queued = self._queue.popleft()
            if not queued[1].done():
                batch.append(queued)
                weight += self._weigh(queued[0])
        return batch

    async def _answer(self, batch: list[tuple[Item, asyncio.Future[Answer], float]]) -> None:
        try:
            answers = await self._handle([item for item, _, _ in batch])
        except asyncio.CancelledError:
            for _, future, _ in batch:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, its callers hear of it, and the next batch runs
            answers = [error] * len(batch)
        for (_, future, _), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        if self._on_batch is not None:
            now = time.perf_counter()
            self._on_batch([now - came_at for _, _, came_at in batch])
