"""The addresses of webhooks' hosts, looked up on threads of their own: a name whose servers are slow keeps a thread for
half a minute, whoever still waits for it, and must hold up nobody else's names."""

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from contracts.public_hosts import Address, NoAddressError

THREADS: Final = 32
#: Lookups of one owner at once, also of those that nobody waits for any more.
OF_OWNER_MAX: Final = 4
SECONDS_MAX: Final = 5.0

_Lookup = asyncio.Future[Sequence[Address]]


class NameLookups:
    """Belongs to the event loop. The same name is looked up once at a time, whoever asks."""

    def __init__(self, seconds_max: float = SECONDS_MAX) -> None:
        self._seconds_max = seconds_max
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="webhook-names")
        self._running: dict[tuple[str, int], _Lookup] = {}
        self._of_owner: dict[str, set[_Lookup]] = {}

    async def find(self, owner: str, host: str, port: int) -> Sequence[Address]:
        """As `socket.getaddrinfo`. ``owner``: whose endpoint it is. Raises OSError; NoAddressError where it takes too
        long, its owner's others included."""
        try:
            async with asyncio.timeout(self._seconds_max):
                lookup = await self._begun(owner, host, port)
                return await asyncio.shield(lookup)  # a thread cannot be stopped, and others may wait for the same
        except TimeoutError:
            raise NoAddressError(f"{host} was not resolved within {self._seconds_max:g} s") from None

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _begun(self, owner: str, host: str, port: int) -> _Lookup:
        key = host, port
        while key not in self._running and len(own := self._of_owner.get(owner, set())) >= OF_OWNER_MAX:
            await asyncio.wait(own, return_when=asyncio.FIRST_COMPLETED)
        if key in self._running:
            return self._running[key]
        loop = asyncio.get_running_loop()
        lookup = loop.run_in_executor(self._threads, _look_up, host, port)
        self._running[key] = lookup
        self._of_owner.setdefault(owner, set()).add(lookup)
        lookup.add_done_callback(lambda _: self._over(owner, key))
        return lookup

    def _over(self, owner: str, key: tuple[str, int]) -> None:
        lookup = self._running.pop(key)
        if not lookup.cancelled():
            lookup.exception()  # it may be that nobody waits for it any more
        self._of_owner[owner].discard(lookup)
        if not self._of_owner[owner]:
            del self._of_owner[owner]


def _look_up(host: str, port: int) -> Sequence[Address]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
