"""Connections to addresses that others name: to the public network only.

A name is resolved here, every address that it has must be a public one, and the connection is to go to the address that
was checked, so that a name which changes its mind in between (DNS rebinding) leads nowhere::

    address = await address_of(url, look_up=partial(names.find, "whoever named it"))
    request = client.build_request("POST", **at_address(url, address), …)
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, TypeAlias

import httpx

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
#: All that was ever given out of IPv6 for the public network. What lies outside (site-local, a network's own NAT64,
#: IPv4 in forms that are no longer in use) may lead inside, and `is_global` of Python 3.11 lets much of it pass.
_PUBLIC_IPV6: Final = ipaddress.IPv6Network("2000::/3")
_DOCUMENTATION: Final = ipaddress.IPv6Network("3fff::/20")

THREADS: Final = 32
#: Lookups of one owner at once, also of those that nobody waits for any more.
OF_OWNER_MAX: Final = 4
SECONDS_MAX: Final = 5.0


#: As `socket.getaddrinfo` has it: family, kind, protocol, canonical name, and the address with its port.
Address: TypeAlias = tuple[
    socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
]


_Lookup: TypeAlias = asyncio.Future[Sequence[Address]]


class PrivateAddressError(Exception):
    """The host leads into a private network."""


class NoAddressError(Exception):
    """The host has no address at the moment."""


def is_public(address: str) -> bool:
    """Whether this IP address is one of the public network: not loopback, private, link-local (and with it a cloud's
    metadata), shared, reserved, or one of those wrapped into IPv6."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        wrapped = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo or (None, None))[1]
        if wrapped is not None:
            return is_public(str(wrapped))
        if parsed in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)))
        if parsed not in _PUBLIC_IPV6 or parsed in _DOCUMENTATION:
            return False
    return parsed.is_global and not parsed.is_multicast


def is_address(host: str) -> bool:
    """Whether the host is an IP address, and no name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def is_among(url: httpx.URL, hosts: Collection[str]) -> bool:
    """Whether the URL's host is one of these: names or addresses, with or without a port, in lower case."""
    return url.host in hosts or url.netloc.decode("ascii") in hosts


class NameLookups:
    """The addresses of hosts, looked up on threads of their own: a name whose servers are slow keeps a thread for half
    a minute, whoever still waits for it, and must hold up nobody else's names, nor what else the event loop has
    threads for. Belongs to the event loop. The same name is looked up once at a time, whoever asks."""

    def __init__(self, seconds_max: float = SECONDS_MAX) -> None:
        self._seconds_max = seconds_max
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="names")
        self._running: dict[tuple[str, int], _Lookup] = {}
        self._of_owner: dict[str, set[_Lookup]] = {}

    async def find(self, owner: str, host: str, port: int) -> Sequence[Address]:
        """As `socket.getaddrinfo`. ``owner``: who named it. Raises OSError; NoAddressError where it takes too
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
        lookup = loop.run_in_executor(self._threads, _resolve, host, port)
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


def _resolve(host: str, port: int) -> Sequence[Address]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def address_of(
    url: httpx.URL, *, private: bool = False, look_up: Callable[[str, int], Awaitable[Sequence[Address]]]
) -> str:
    """The address to connect to: the host's first, all of them being public, unless it may be a ``private`` one.
    ``look_up``: what finds the addresses of a name and a port, as `socket.getaddrinfo` answers them.

    Raises PrivateAddressError, NoAddressError.
    """
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = await look_up(url.host, port)
    except (OSError, UnicodeError) as error:
        raise NoAddressError(f"{url.host} has no address at the moment") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not private and not all(is_public(address) for address in addresses):
        raise PrivateAddressError(f"{url.host} leads into a private network")
    return addresses[0]


def no_cookies() -> CookieJar:
    """For a client of such connections: kept by address, cookies of one host would go to all others there."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=()))


# Any: httpx's own types for these arguments
def at_address(url: httpx.URL, address: str) -> dict[str, Any]:
    """What httpx's ``build_request`` takes to reach this address and nothing else: names in the Host header, and the
    one that the certificate has to be for, stay the URL's. ``headers`` are to be added to."""
    return {
        "url": url.copy_with(host=address),
        "headers": {"Host": url.netloc.decode("ascii")},
        "extensions": {"sni_hostname": url.host},
    }
