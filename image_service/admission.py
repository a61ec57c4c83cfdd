"""How much this process takes on at once: bodies that come in, operations, and bytes of uploads in memory."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from contracts.problems import OVERLOADED, REQUEST_TIMEOUT, ProblemError

#: A body that has come in for less than this is not called slow.
SLOW_SECONDS_MIN: Final = 1.0


class Place:
    """To be given back once."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back

    def leave(self) -> None:
        self._give_back()


@dataclass(eq=False)
class _Incoming:
    """A body on its way in. ``limit`` ends it."""

    began_at: float
    received_bytes: Callable[[], int]
    limit: asyncio.Timeout
    is_given_up: bool = False

    def bytes_a_second(self, now: float) -> float:
        return self.received_bytes() / (now - self.began_at)


class Admission:
    """Too many operations are refused, which the caller can act on; too many bytes wait, spooled to disk.

    As many bodies as operations may come in at once. They have places of their own, and where those are taken, the
    slowest one makes room: who sends slowly, or nothing, keeps nobody out.
    """

    def __init__(
        self, *, operations_max: int, upload_bytes_max: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._operations_max = operations_max
        self._operations = 0
        self._clock = clock
        self._incoming: set[_Incoming] = set()
        self._upload_bytes_max = upload_bytes_max
        self._upload_bytes = 0
        self._freed = asyncio.Condition()
        self._turn = asyncio.Lock()

    def enter(self) -> "Place":
        """A place for one operation. Raises ProblemError (overloaded) where there is none."""
        self._refuse_without_room()
        self._operations += 1
        return Place(self._leave)

    @asynccontextmanager
    async def incoming(self, received_bytes: Callable[[], int]) -> AsyncIterator[None]:
        """While a body comes in, of which so many bytes are here. Raises ProblemError: overloaded where its operation
        would have no place now, or too many come in of which none is slow; request_timeout where it has to make room.
        """
        self._refuse_without_room()
        if len(self._incoming) >= self._operations_max:
            self._give_up_the_slowest()
        one = _Incoming(self._clock(), received_bytes, asyncio.timeout(None))
        self._incoming.add(one)
        try:
            async with one.limit:
                yield
        except TimeoutError:
            if not one.is_given_up:
                raise
            message = "the body comes slower than all others, and another one needs its place"
            raise ProblemError(REQUEST_TIMEOUT, message) from None
        finally:
            self._incoming.discard(one)

    def _refuse_without_room(self) -> None:
        if self._operations >= self._operations_max:
            raise ProblemError(OVERLOADED, f"{self._operations} operations are running")

    def _give_up_the_slowest(self) -> None:
        now = self._clock()
        slow = [one for one in self._incoming if now - one.began_at >= SLOW_SECONDS_MIN]
        if not slow:
            raise ProblemError(OVERLOADED, f"{len(self._incoming)} requests are coming in")
        slowest = min(slow, key=lambda one: one.bytes_a_second(now))
        slowest.is_given_up = True
        slowest.limit.reschedule(asyncio.get_running_loop().time())
        self._incoming.discard(slowest)

    def _leave(self) -> None:
        self._operations -= 1

    @asynccontextmanager
    async def upload(self, size_bytes: int) -> AsyncIterator[None]:
        """Room in memory for one upload; first come, first served. One larger than everything gets all of it."""
        share = min(size_bytes, self._upload_bytes_max)
        async with self._turn, self._freed:
            await self._freed.wait_for(lambda: self._upload_bytes + share <= self._upload_bytes_max)
            self._upload_bytes += share
        try:
            yield
        finally:
            self._upload_bytes -= share
            async with self._freed:
                self._freed.notify_all()
