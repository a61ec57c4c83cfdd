"""How much this process takes on at once: operations, and bytes of uploads in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from contracts.problems import OVERLOADED, ProblemError


class Place:
    """To be given back once."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back

    def leave(self) -> None:
        self._give_back()


class Admission:
    """Too many operations are refused, which the caller can act on; too many bytes wait, spooled to disk."""

    def __init__(self, *, operations_max: int, upload_bytes_max: int) -> None:
        self._operations_max = operations_max
        self._operations = 0
        self._upload_bytes_max = upload_bytes_max
        self._upload_bytes = 0
        self._freed = asyncio.Condition()
        self._turn = asyncio.Lock()

    def enter(self) -> "Place":
        """A place for one operation. Raises ProblemError (overloaded) where there is none."""
        if self._operations >= self._operations_max:
            raise ProblemError(OVERLOADED, f"{self._operations} operations are running")
        self._operations += 1
        return Place(self._leave)

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
