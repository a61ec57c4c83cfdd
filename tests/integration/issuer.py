"""An OIDC issuer on a real socket: keys that come and go, tokens good and bad, and what it was asked."""

import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.integration.image_harness import serving

AUDIENCE = "usage-ledger"
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def jwk(key: Key, **members: str) -> dict[str, Any]:
    """The public half, as an issuer publishes it."""
    public = key.public_key()
    text = RSAAlgorithm.to_jwk(public) if isinstance(public, rsa.RSAPublicKey) else ECAlgorithm.to_jwk(public)
    return {**json.loads(text), **members}


def pem(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def encode(part: object) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class Issuer:
    """``url`` is its ``iss``. ``down``: it answers 503."""

    keys: list[dict[str, Any]] = field(default_factory=lambda: [jwk(RSA_KEY, kid="rsa"), jwk(EC_KEY, kid="ec")])
    url: str = ""
    #: What discovery says its ``iss`` is; None: the truth.
    says_issuer: str | None = None
    down: bool = False
    asked: int = 0

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Good ones; None takes a claim away."""
        now = int(time.time())
        claims = {
            "iss": self.url, "aud": AUDIENCE, "exp": now + 300, "iat": now, "sub": "ada", "account_id": "acme",
            "scope": "limits:check usage:read openid", **changes,
        }  # fmt: skip
        return {name: claim for name, claim in claims.items() if claim is not None}

    def token(
        self, key: Key = RSA_KEY, kid: str | None = "rsa", algorithm: str = "RS256", /,
        headers: Mapping[str, Any] = {}, **claims: Any,
    ) -> str:  # fmt: skip
        wanted = {**({} if kid is None else {"kid": kid}), **headers}
        payload = json.dumps(self.claims(**claims)).encode()  # past the checks of jwt.encode
        return jwt.api_jws.encode(payload, key, algorithm, headers=wanted)

    def app(self) -> Starlette:
        return Starlette(
            routes=[Route("/.well-known/openid-configuration", self._discovery), Route("/keys", self._keys)]
        )

    async def _discovery(self, request: Request) -> Response:
        return JSONResponse({"issuer": self.says_issuer or self.url, "jwks_uri": f"{self.url}/keys"})

    async def _keys(self, request: Request) -> Response:
        self.asked += 1
        return JSONResponse({}, 503) if self.down else JSONResponse({"keys": self.keys})


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    async with serving(issuer.app()) as issuer.url:
        yield issuer
