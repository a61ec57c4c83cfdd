"""Results behind URLs that a provider gives: fetched from hosts that are allowed, and from the public network only.

A URL in an answer is foreign input. Its host has to be on a list, and to lead to the public network
(contracts.public_hosts). A redirect is a new URL, checked alike.
"""

import asyncio
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Final

import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from contracts.access.http_connections import Connections, authorities
from contracts.public_hosts import (
    NameLookups,
    NoAddressError,
    PrivateAddressError,
    address_of,
    at_address,
    is_among,
    no_cookies,
)
from image_service.providers.attempt import Attempt

#: Over some twenty seconds: what is fetched is paid for. Beyond the call's deadline, its recovery begins anew.
TRIES_MAX: Final = 10
REDIRECTS_MAX: Final = 3
CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 30.0
URL_LENGTH_MAX: Final = 8_192
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class BadResultUrlError(Exception):
    """The URL may not be fetched. The message names the host at most: such URLs carry signatures."""


class DownloadError(Exception):
    """The result cannot be had: it is gone, too large, or cut off again and again."""


class _AgainError(Exception):
    pass


class Downloads:
    """``hosts``: names, or ``*.name`` for all below a name, over https on its own port. ``insecure_hosts``: names or
    addresses with or without a port, where http and private addresses will do as well: for emulators on this machine.
    """

    def __init__(
        self, hosts: Iterable[str], insecure_hosts: Iterable[str] = (), *, bytes_max: int, wait_seconds: float = 0.25
    ) -> None:
        self._hosts = tuple(host.lower() for host in hosts)
        self._insecure_hosts = frozenset(host.lower() for host in insecure_hosts)
        self.bytes_max = bytes_max
        self._wait_seconds = wait_seconds
        self._names = NameLookups()
        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        # A connection belongs to an address, and must not be found again by another name with that address.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.AsyncClient(
            timeout=timeout,
            transport=Connections(limits=limits, verify=authorities(), trust_env=False),
            trust_env=False,
            follow_redirects=False,
            cookies=no_cookies(),
        )

    async def close(self) -> None:
        self._names.close()
        await self._client.aclose()

    async def fetch(self, url: str, attempt: Attempt) -> Path:
        """The result as a spooled file. Raises BadResultUrlError, DownloadError."""
        retrying = AsyncRetrying(
            stop=stop_after_attempt(TRIES_MAX),
            wait=wait_random_exponential(self._wait_seconds, max=8),
            retry=retry_if_exception_type(_AgainError),
            reraise=True,
        )
        try:
            return await retrying(self._follow, url, attempt)
        except _AgainError as error:
            raise DownloadError(str(error)) from error

    async def _follow(self, url: str, attempt: Attempt) -> Path:
        for _ in range(REDIRECTS_MAX + 1):
            found = await self._fetch(url, attempt)
            if isinstance(found, Path):
                return found
            url = found
        raise DownloadError("its host redirects without end")

    async def _fetch(self, url: str, attempt: Attempt) -> Path | str:
        """The file, or where the host redirects to."""
        parsed = self.check(url)
        request = self._client.build_request("GET", **at_address(parsed, await self._address(parsed)))
        request.headers["Accept-Encoding"] = "identity"
        path = attempt.spool()
        received = 0
        try:
            response = await self._client.send(request, stream=True)
            try:
                if response.status_code in _REDIRECTS:
                    return str(parsed.join(response.headers.get("location", "")))
                if response.status_code in _TRANSIENT:
                    raise _AgainError(f"its host answers with status {response.status_code}")
                if response.status_code != 200:
                    raise DownloadError(f"its host answers with status {response.status_code}")
                with path.open("wb") as file:
                    async for portion in response.aiter_raw(256 * 1024):
                        received += len(portion)
                        if received > self.bytes_max:
                            raise DownloadError(f"it has more than {self.bytes_max} bytes")
                        await asyncio.to_thread(file.write, portion)
            finally:
                await response.aclose()
        except httpx.InvalidURL as error:
            raise BadResultUrlError("its host redirects to what is no URL") from error
        except httpx.HTTPError as error:
            raise _AgainError(f"its host cannot be reached, or cuts it off ({type(error).__name__})") from error
        return path

    def check(self, url: str) -> httpx.URL:
        """The URL, if it may be fetched as far as its text says. Raises BadResultUrlError."""
        try:
            parsed = httpx.URL(url) if len(url) <= URL_LENGTH_MAX else None
            host = parsed.host if parsed else ""  # only now it is found out whether Punycode says anything
        except (httpx.InvalidURL, ValueError):
            parsed, host = None, ""
        if parsed is None or not host or parsed.scheme not in ("http", "https"):
            raise BadResultUrlError("the provider's answer has no URL of a result")
        if parsed.userinfo:
            raise BadResultUrlError("the URL of the result carries a user")
        if is_among(parsed, self._insecure_hosts):
            return parsed
        if parsed.scheme != "https" or parsed.port is not None:
            raise BadResultUrlError(f"results are fetched over https on its own port only, not from {parsed.host}")
        if not any(_fits(parsed.host, host) for host in self._hosts):
            raise BadResultUrlError(
                f"results may not be fetched from {parsed.host}; IMAGE_RESULT_HOSTS names further hosts"
            )
        return parsed

    async def _address(self, url: httpx.URL) -> str:
        """The address to connect to, every one of the host's being allowed. Raises BadResultUrlError, _AgainError."""
        try:
            look_up = partial(self._names.find, url.host)
            return await address_of(url, private=is_among(url, self._insecure_hosts), look_up=look_up)
        except NoAddressError as error:
            raise _AgainError(str(error)) from error
        except PrivateAddressError as error:
            raise BadResultUrlError(str(error)) from error


def _fits(host: str, allowed: str) -> bool:
    if allowed.startswith("*."):
        return host.endswith(allowed[1:])
    return host == allowed
