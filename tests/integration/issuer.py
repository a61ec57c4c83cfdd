"""An OIDC issuer on a real socket: keys that come and go, tokens good and bad, and what it was asked."""

import base64
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import escape
from typing import Any
from urllib.parse import quote_plus, urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.integration.image_harness import serving

AUDIENCE = "usage-ledger"
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ENDPOINTS = {
    "jwks_uri": "/keys",
    "authorization_endpoint": "/authorize",
    "token_endpoint": "/token",
    "end_session_endpoint": "/logout",
}
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
    #: Who may ask people to sign in, and where those come back.
    client_id: str = "pages"
    client_secret: str | None = None
    redirect_uris: list[str] = field(default_factory=list)
    #: What the tokens of a sign-in say besides; "id" and "access", which may also be a token itself.
    of_id: dict[str, Any] = field(default_factory=dict)
    of_access: dict[str, Any] | str = field(default_factory=dict)
    code_seconds: float = 60.0
    #: What came with a sign-in, by its code.
    codes: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: What was asked of it, and with what.
    authorized: list[dict[str, str]] = field(default_factory=list)
    signed_out: list[dict[str, str]] = field(default_factory=list)

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
            routes=[
                Route("/.well-known/openid-configuration", self._discovery),
                Route("/keys", self._keys),
                Route("/authorize", self._authorize),
                Route("/token", self._token, methods=["POST"]),
                Route("/logout", self._logout),
            ]
        )

    async def _discovery(self, request: Request) -> Response:
        if self.down:
            return JSONResponse({}, 503)
        ends = {name: f"{self.url}{path}" for name, path in ENDPOINTS.items()}
        return JSONResponse({"issuer": self.says_issuer or self.url, **ends})

    async def _authorize(self, request: Request) -> Response:
        """A page of the issuer's, on which somebody agrees by a link, or does not."""
        asked = dict(request.query_params)
        self.authorized.append(asked)
        if asked["client_id"] != self.client_id or asked["redirect_uri"] not in self.redirect_uris:
            return HTMLResponse("no such client", 400)
        if asked["response_type"] != "code" or asked["code_challenge_method"] != "S256" or not asked["code_challenge"]:
            return HTMLResponse("no PKCE", 400)
        code = secrets.token_urlsafe(16)
        self.codes[code] = {**asked, "until": time.time() + self.code_seconds}
        answers = {
            "Continue as ada": {"code": code, "state": asked["state"], "iss": self.url},
            "Refuse": {"error": "access_denied", "error_description": "<b>no</b>", "state": asked["state"]},
        }
        links = [
            f'<a href="{asked["redirect_uri"]}?{escape(urlencode(with_))}">{name}</a>'
            for name, with_ in answers.items()
        ]
        return HTMLResponse("<!doctype html><title>Issuer</title>" + " ".join(links))

    async def _token(self, request: Request) -> Response:
        """RFC 6749, 4.1.3, and RFC 7636, 4.6."""
        if self.down:
            return JSONResponse({}, 503)
        async with request.form() as form:
            asked = {name: str(value) for name, value in form.items()}
        if self.client_secret is not None:
            proof = base64.b64encode(f"{quote_plus(self.client_id)}:{quote_plus(self.client_secret)}".encode()).decode()
            if request.headers.get("authorization") != f"Basic {proof}":
                return JSONResponse({"error": "invalid_client"}, 401)
        began = self.codes.pop(asked["code"], None)
        challenge = encode(hashlib.sha256(asked["code_verifier"].encode()).digest())
        is_good = began is not None and (began["until"], began["redirect_uri"], began["code_challenge"]) == (
            max(began["until"], time.time()), asked["redirect_uri"], challenge,
        )  # fmt: skip
        if began is None or not is_good or asked["grant_type"] != "authorization_code":
            return JSONResponse({"error": "invalid_grant"}, 400)
        id_token = self.token(
            **{"aud": self.client_id, "nonce": began["nonce"], "account_id": None, "scope": None, **self.of_id}
        )
        access = self.of_access if isinstance(self.of_access, str) else self.token(**self.of_access)
        made = {"access_token": access, "id_token": id_token, "token_type": "Bearer", "expires_in": 300}
        return JSONResponse(made, headers={"Cache-Control": "no-store"})

    async def _logout(self, request: Request) -> Response:
        self.signed_out.append(dict(request.query_params))
        return RedirectResponse(request.query_params["post_logout_redirect_uri"], 303)

    async def _keys(self, request: Request) -> Response:
        self.asked += 1
        return JSONResponse({}, 503) if self.down else JSONResponse({"keys": self.keys})


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    async with serving(issuer.app()) as issuer.url:
        yield issuer
