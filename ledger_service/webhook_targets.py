"""Where webhooks may be sent: over https into the public network; elsewhere only where a setting names the host.

No redirect is followed, and of an answer only its first bytes are read.
"""

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final

import httpx

from contracts.access.http_connections import Connections, authorities
from contracts.problems import broken_rule
from contracts.public_hosts import (
    NameLookups,
    NoAddressError,
    PrivateAddressError,
    address_of,
    at_address,
    is_address,
    is_among,
    is_public,
    no_cookies,
)
from contracts.retry_after import retry_after_seconds
from ledger_service.domain.webhooks import Answer

#: Of an answer: shown with its attempt.
ANSWER_BYTES_MAX: Final = 512
ANSWER_SECONDS_MAX: Final = 1.0
PORT_MAX: Final = 65_535
_USER_AGENT: Final = "usage-ledger-webhooks/1"


class BadTargetError(Exception):
    """The address may not be sent to."""


class Targets:
    """``insecure_hosts``: names or addresses, with or without a port, where http and private addresses will do."""

    def __init__(self, insecure_hosts: Iterable[str] = ()) -> None:
        self._insecure_hosts = frozenset(host.lower() for host in insecure_hosts)

    def check(self, url: str) -> None:
        """As far as its text says. Raises ProblemError."""
        try:
            self.parse(url)
        except BadTargetError as error:
            raise broken_rule("url", "target", str(error)) from None

    def parse(self, url: str) -> httpx.URL:
        """Raises BadTargetError, which says no more of the address than its host."""
        try:
            parsed = httpx.URL(url)
            host = parsed.host  # only now it is found out whether Punycode says anything
        except (httpx.InvalidURL, ValueError):
            raise BadTargetError("not a URL") from None
        if not host or parsed.scheme not in ("http", "https"):
            raise BadTargetError("an https:// address with a host is needed")
        if parsed.userinfo:
            raise BadTargetError("it carries a user; deliveries are signed, and need none")
        if parsed.port is not None and not 1 <= parsed.port <= PORT_MAX:
            raise BadTargetError(f"there is no port {parsed.port}: 1 to {PORT_MAX}")
        if parsed.fragment:
            raise BadTargetError("it has a fragment, which is never sent")
        if self.is_insecure(parsed):
            return parsed
        if parsed.scheme != "https":
            raise BadTargetError(f"https is needed to {parsed.host}; LEDGER_WEBHOOK_INSECURE_HOSTS names exceptions")
        if is_address(parsed.host) and not is_public(parsed.host):
            raise BadTargetError(f"{parsed.host} leads into a private network")
        return parsed

    def is_insecure(self, url: httpx.URL) -> bool:
        return is_among(url, self._insecure_hosts)


class Sender:
    """Sends deliveries, each on a connection of its own to an address that was checked."""

    def __init__(self, targets: Targets, timeout_seconds: float, names: NameLookups | None = None) -> None:
        self._targets = targets
        self._names = names or NameLookups()
        self.timeout_seconds = timeout_seconds
        # A connection belongs to an address, and must not be found again by another name with that address.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.AsyncClient(
            transport=Connections(limits=limits, verify=authorities(), trust_env=False),
            timeout=timeout_seconds,
            follow_redirects=False,
            cookies=no_cookies(),
        )

    async def close(self) -> None:
        self._names.close()
        await self._client.aclose()

    async def send(self, url: str, headers: dict[str, str], body: bytes, owner: str) -> tuple[Answer, bytes, float]:
        """What came of it, the first bytes of what was answered, and after how many seconds. ``owner``: whose endpoint
        it is. Raises nothing that the endpoint could bring about."""
        began = time.monotonic()
        answer, text = await self._send(url, headers, body, owner)
        return answer, text, time.monotonic() - began

    async def _send(self, url: str, headers: dict[str, str], body: bytes, owner: str) -> tuple[Answer, bytes]:
        try:
            async with asyncio.timeout(self.timeout_seconds):
                return await self._exchange(url, headers, body, owner)
        except TimeoutError:
            return Answer(None, f"no whole answer within {self.timeout_seconds:g} s"), b""
        except (BadTargetError, PrivateAddressError, NoAddressError) as error:
            return Answer(None, str(error)), b""
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return Answer(None, _in_words(error)), b""

    async def _exchange(self, url: str, headers: dict[str, str], body: bytes, owner: str) -> tuple[Answer, bytes]:
        target = self._targets.parse(url)
        address = await address_of(
            target, private=self._targets.is_insecure(target), look_up=partial(self._names.find, owner)
        )
        request = self._client.build_request("POST", content=body, **at_address(target, address))
        request.headers.update({"user-agent": _USER_AGENT, "accept-encoding": "identity", **headers})
        response = await self._client.send(request, stream=True)
        try:
            text = await _first_bytes(response)
        finally:
            await response.aclose()
        error = f"redirects are not followed: {response.status_code}" if response.is_redirect else None
        retry_after = retry_after_seconds(response.headers.get("retry-after"), datetime.now(UTC))
        return Answer(response.status_code, error, retry_after), text


async def _first_bytes(response: httpx.Response) -> bytes:
    """The status says what became of the delivery: an answer that then comes slowly, or never ends, changes nothing."""
    text = b""
    with suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            async for portion in response.aiter_raw(ANSWER_BYTES_MAX):
                text += portion
                if len(text) >= ANSWER_BYTES_MAX:
                    break
    return text[:ANSWER_BYTES_MAX]


def _in_words(error: BaseException) -> str:
    """Without the message, which may hold the whole address; but of TLS it is what helps."""
    text = str(error)
    if "[SSL" in text:
        return f"no TLS connection: {text[text.index('[SSL') :][:200]}"
    if isinstance(error, httpx.ConnectError):
        return "no connection"
    if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
        return "the connection was cut off before an answer"
    return f"cannot be sent: {type(error).__name__}"
