"""An issuer that compresses, that moves its keys, that is slow: what is read is bounded, and who knows it goes on."""

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import jwt
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from contracts.access.authenticator import Authenticator, Memory
from contracts.access.errors import Unauthenticated
from contracts.access.jwks import DOCUMENT_BYTES_MAX, FetchError, IssuerKeys, fetch
from contracts.access.jwt_rules import JwtRules
from contracts.access.oidc_attempts import Attempt
from contracts.access.oidc_login import DISCOVERY_SECONDS, OidcClient, OidcLogin
from contracts.access.principal import Principal
from contracts.access.rates import Rate, RateRules, Rates
from contracts.access.service_tokens import make_token
from contracts.problems import ProblemError
from tests.integration.image_harness import serving
from tests.integration.issuer import AUDIENCE, EC_KEY, RSA_KEY, jwk


@dataclass
class Troubled:
    """Its discovery document names ``keys_at``, where ``keys`` are, and nothing is anywhere else."""

    url: str = ""
    keys_at: str = "/keys"
    keys: list[dict[str, str]] = field(default_factory=lambda: [jwk(RSA_KEY, kid="rsa")])
    #: Before it says anything of itself.
    seconds: float = 0.0
    asked: list[str] = field(default_factory=list)
    encoding: str = ""
    body: bytes = b""

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self._answer)])

    async def _answer(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        if request.url.path == "/body":
            return Response(self.body, headers={"Content-Encoding": self.encoding} if self.encoding else {})
        if request.url.path == self.keys_at:
            return Response(json.dumps({"keys": self.keys}))
        if request.url.path != "/.well-known/openid-configuration":
            return Response(status_code=404)
        await asyncio.sleep(self.seconds)
        ends = {"jwks_uri": f"{self.url}{self.keys_at}", "authorization_endpoint": f"{self.url}/authorize"}
        return Response(json.dumps({"issuer": self.url, **ends}))


@pytest.fixture
async def issuer() -> AsyncIterator[Troubled]:
    made = Troubled()
    async with serving(made.app()) as made.url:
        yield made


class Clock:
    """A steady one that a test moves on."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def read(issuer: Troubled) -> dict[str, object]:
    async with httpx.AsyncClient() as http:
        return await fetch(http, f"{issuer.url}/body")


SPACES = b" " * (100 * DOCUMENT_BYTES_MAX)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(SPACES)),
        ("gzip, gzip", gzip.compress(gzip.compress(SPACES))),
        ("deflate", zlib.compress(SPACES)),
        ("gzip", gzip.compress(b'{"keys": []}')[:-12]),
        ("gzip", b"no gzip"),
        ("br", b"\x1b"),
        ("zstd", b"\x28\xb5\x2f\xfd"),
    ],
)
async def test_what_unfolds_into_much_is_not_unfolded(issuer: Troubled, encoding: str, body: bytes) -> None:
    issuer.encoding, issuer.body = encoding, body
    tracemalloc.start()
    try:
        with pytest.raises(FetchError):
            await read(issuer)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * DOCUMENT_BYTES_MAX


async def test_a_document_that_is_sent_compressed_whether_asked_or_not_is_read(issuer: Troubled) -> None:
    for issuer.encoding, issuer.body in (
        ("", b'{"a": 1}'),
        ("gzip", gzip.compress(b'{"a": 1}')),
        ("identity", b'{"a": 1}'),
    ):
        assert await read(issuer) == {"a": 1}


async def test_keys_that_moved_are_found_where_they_are_now(issuer: Troubled) -> None:
    clock = Clock()
    keys = IssuerKeys(issuer.url, clock=clock)
    try:
        assert await keys.find("rsa", "RS256") is not None
        issuer.keys_at, issuer.keys = "/moved", [jwk(EC_KEY, kid="ec")]
        clock.now += 11
        assert await keys.find("ec", "ES256") is not None
    finally:
        await keys.close()


async def test_nobody_waits_long_for_what_is_known_of_a_slow_issuer(issuer: Troubled) -> None:
    """And what many want at once is asked for once."""
    clock, keys, off = Clock(), IssuerKeys(issuer.url), Rate(0, 1)
    rules, rates = JwtRules(issuer.url, ("pages",)), Rates(RateRules(off, off, off))
    login = OidcLogin(rules, OidcClient("pages", None), keys, rates, clock=clock)
    attempt = Attempt.begin(0, "/")
    issuer.seconds = 0.2
    try:
        await asyncio.gather(*(login.begin(attempt, "http://localhost/sign-in/callback") for _ in range(20)))
        assert len(issuer.asked) == 1
        clock.now, issuer.seconds = clock.now + DISCOVERY_SECONDS + 1, 4.0
        async with asyncio.timeout(3):
            await asyncio.gather(*(login.begin(attempt, "http://localhost/sign-in/callback") for _ in range(20)))
        assert len(issuer.asked) == 2
    finally:
        await login.close()
        await keys.close()


async def test_made_up_jwts_that_wait_for_a_slow_issuer_keep_no_service_token_out(
    issuer: Troubled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contracts.access.authenticator.WAITING_MAX", 5)
    good = make_token()

    async def find(token: str) -> Principal | None:
        return Principal("ada", frozenset()) if token == good else None

    access = Authenticator(find, Memory(5), JwtRules(issuer.url, (AUDIENCE,)), IssuerKeys(issuer.url))
    issuer.seconds = 0.5
    made_up = [jwt.encode({"n": number}, RSA_KEY, "RS256", headers={"kid": "?"}) for number in range(10)]
    waiting = [asyncio.create_task(access.authenticate(token.encode())) for token in made_up]
    try:
        await asyncio.sleep(0.1)
        assert (await access.authenticate(good.encode())).subject == "ada"
        refused = [type(one) for one in await asyncio.gather(*waiting, return_exceptions=True)]
        assert (refused.count(Unauthenticated), refused.count(ProblemError)) == (5, 5)
    finally:
        await access.close()
