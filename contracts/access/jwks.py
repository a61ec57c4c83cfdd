"""The keys that an issuer publishes: fetched when needed, kept when the issuer cannot be reached."""

import asyncio
import time
import zlib
from collections.abc import Callable
from typing import Final

import httpx
import jwt
import orjson
import structlog

from contracts.access.errors import AccessUnavailable
from contracts.access.jwt_tokens import Jwk, KeySet
from contracts.access.settings import is_safe_url

FETCH_SECONDS_MAX: Final = 5.0
DOCUMENT_BYTES_MAX: Final = 512 * 1024
_TOO_LARGE: Final = f"more than {DOCUMENT_BYTES_MAX} bytes"
#: Tokens with unknown keys make us ask this often, at most: anybody can make one up.
PAUSE_SECONDS: Final = 10.0
#: The same while we have none at all.
FIRST_PAUSE_SECONDS: Final = 1.0
#: A key that the issuer took back is believed for so long, at most, while the issuer answers.
AGE_SECONDS_MAX: Final = 300.0
#: Issuers' documents are small. What is compressed may unfold into a thousand times its size, and is not asked for.
AS_JSON: Final = {"Accept": "application/json", "Accept-Encoding": "identity"}
_PLAIN: Final = ("", "identity")
_GZIP: Final = ("gzip", "x-gzip")
_DISCOVERY: Final = "/.well-known/openid-configuration"

_log = structlog.stdlib.get_logger(__name__)


class FetchError(Exception):
    """The issuer's document cannot be had, or is none."""


class IssuerKeys:
    """The keys of one issuer. ``jwks_url`` None: asked for by discovery. Use it on one event loop; `close` it."""

    def __init__(
        self,
        issuer: str,
        jwks_url: str | None = None,
        *,
        pause_seconds: float = PAUSE_SECONDS,
        age_seconds_max: float = AGE_SECONDS_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._jwks_url = jwks_url
        #: Where they were found last.
        self._discovered_url: str | None = None
        self._pause_seconds, self._age_seconds_max, self._clock = pause_seconds, age_seconds_max, clock
        self._http = httpx.AsyncClient(timeout=FETCH_SECONDS_MAX, follow_redirects=False)
        self._fetching: asyncio.Task[None] | None = None
        self._asked_at = self._fetched_at = float("-inf")
        self.keys = KeySet()
        #: Rises whenever the keys change: what was verified with others has to be verified again.
        self.generation = 0

    async def find(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key; None where the issuer has none like that. Raises AccessUnavailable where it was never reached."""
        if self._clock() - self._fetched_at > self._age_seconds_max:
            fetching = self._fetch_unless_lately()
            if fetching is not None and not self.keys:
                await asyncio.shield(fetching)
        key = self.keys.find(key_id, algorithm)
        if key is None:
            fetching = self._fetch_unless_lately()
            if fetching is not None:
                await asyncio.shield(fetching)
                key = self.keys.find(key_id, algorithm)
        if key is None and not self.keys:
            raise AccessUnavailable("the issuer's keys were never to be had")
        return key

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        await self._http.aclose()

    def _fetch_unless_lately(self) -> "asyncio.Task[None] | None":
        """The fetch under way, if there is one; all wait for the same. None where the last one was a moment ago."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        now = self._clock()
        if now - self._asked_at < (self._pause_seconds if self.keys else min(self._pause_seconds, FIRST_PAUSE_SECONDS)):
            return None
        self._asked_at = now
        self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS_MAX):
                fetched = KeySet(_keys_in(await fetch(self._http, await self._find_url())))
            if not fetched:
                raise FetchError("no key in it is for verifying")
        # AttributeError: of a connection that was reset as soon as it was made; see contracts.access.http_connections.
        except (FetchError, httpx.HTTPError, TimeoutError, AttributeError) as error:
            # Those that we have stay: an attacker who silences the issuer must not shut everybody out, nor anybody in.
            reason = str(error) or type(error).__name__
            _log.warning("issuer_keys_not_fetched", issuer=self._issuer, reason=reason, keys=len(self.keys))
            return
        self._fetched_at = self._clock()
        if fetched != self.keys:
            self.keys = fetched
            self.generation += 1

    async def _find_url(self) -> str:
        if self._jwks_url is not None:
            return self._jwks_url
        try:
            async with asyncio.timeout(FETCH_SECONDS_MAX / 2):
                self._discovered_url = url_in(await discover(self._http, self._issuer), "jwks_uri")
        except (FetchError, httpx.HTTPError, TimeoutError, AttributeError):
            if self._discovered_url is None:
                raise
        return self._discovered_url


async def discover(http: httpx.AsyncClient, issuer: str) -> dict[str, object]:
    """What the issuer says of itself (OpenID Connect Discovery 1.0). Raises FetchError, httpx.HTTPError."""
    found = await fetch(http, issuer.rstrip("/") + _DISCOVERY)
    if found.get("issuer") != issuer:
        raise FetchError("the discovery document is another issuer's")
    return found


def url_in(document: dict[str, object], name: str) -> str:
    """An address in a discovery document. Raises FetchError where it is none that is safe to ask."""
    url = document.get(name)
    if not isinstance(url, str) or not is_safe_url(url):
        raise FetchError(f"the discovery document has no {name} with https")
    return url


async def fetch(http: httpx.AsyncClient, url: str) -> dict[str, object]:
    """A JSON object of the issuer's. Raises FetchError, httpx.HTTPError."""
    try:
        async with http.stream("GET", url, headers=AS_JSON) as answer:
            if answer.status_code != httpx.codes.OK:
                raise FetchError(f"answered {answer.status_code}")
            return await read_document(answer)
    except httpx.InvalidURL as error:  # no HTTPError
        raise FetchError(f"{url} is no address: {error}") from error


async def read_document(answer: httpx.Response) -> dict[str, object]:
    """The JSON object in a streamed answer, of a bounded size. Raises FetchError, httpx.HTTPError."""
    encoding = answer.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in (*_PLAIN, *_GZIP):
        raise FetchError("compressed, which was not asked for")
    body = b""
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > DOCUMENT_BYTES_MAX:
            raise FetchError(_TOO_LARGE)
    if encoding in _GZIP:  # files are kept like that, and sent whatever was asked for
        body = _unfolded(body)
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise FetchError("no JSON") from None
    if not isinstance(found, dict):
        raise FetchError("no JSON object")
    return found


def _unfolded(body: bytes) -> bytes:
    unfold = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        found = unfold.decompress(body, DOCUMENT_BYTES_MAX + 1)
    except zlib.error:
        raise FetchError("no gzip") from None
    if len(found) > DOCUMENT_BYTES_MAX:
        raise FetchError(_TOO_LARGE)
    if not unfold.eof:
        raise FetchError("cut off")
    return found


def _keys_in(document: dict[str, object]) -> list[Jwk]:
    keys = document.get("keys")
    if not isinstance(keys, list):
        raise FetchError("no JWK set")
    return keys
