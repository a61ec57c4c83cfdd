"""JWTs: what is refused, which keys are believed and for how long, and what both services make of the claims."""

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from jwt.algorithms import RSAAlgorithm
from pydantic import ValidationError

from contracts.access.authenticator import Authenticator, Memory
from contracts.access.errors import AccessUnavailable, Unauthenticated
from contracts.access.jwks import FetchError, IssuerKeys, fetch, url_in
from contracts.access.jwt_rules import JwtRules
from contracts.access.principal import Principal, Scope
from contracts.access.settings import AccessSettings
from tests.builders import check, limit
from tests.conftest import StartLedger
from tests.integration.image_harness import GENERATE, ScriptedLedger, image_service, make_settings, serving
from tests.integration.issuer import (
    AUDIENCE,
    EC_KEY,
    OTHER_RSA_KEY,
    RSA_KEY,
    Issuer,
    encode,
    issuing,
    jwk,
    pem,
)


class Clock:
    """A steady one that a test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as made:
        yield made


@asynccontextmanager
async def trusting(
    issuer: Issuer, clock: Clock | None = None, jwks_url: str | None = None
) -> AsyncIterator[Authenticator]:
    """Believes this issuer, and no service token."""
    steady = clock or Clock()

    async def nobody(token: str) -> None:
        return None

    rules = JwtRules(issuer.url, (AUDIENCE,), leeway_seconds=10)
    access = Authenticator(
        nobody, Memory(5), rules, IssuerKeys(issuer.url, jwks_url, clock=steady), clock=steady, wall_clock=time.time
    )
    try:
        yield access
    finally:
        await access.close()


async def verdict(access: Authenticator, token: str | bytes) -> Principal | None:
    try:
        return await access.authenticate(token if isinstance(token, bytes) else token.encode())
    except Unauthenticated:
        return None


# --- what is refused ---


def signed_by_hand(issuer: Issuer, header: dict[str, Any], secret: bytes | None, **claims: Any) -> str:
    """What PyJWT refuses to make."""
    text = f"{encode(header)}.{encode(issuer.claims(**claims))}"
    signature = b"" if secret is None else hmac.digest(secret, text.encode(), "sha256")
    return f"{text}.{encode(signature)}"


def tampered(token: str, **claims: Any) -> str:
    header, _, signature = token.split(".")
    return f"{header}.{encode(claims)}.{signature}"


def later(seconds: float) -> int:
    return int(time.time() + seconds)


BAD: dict[str, Callable[[Issuer], str]] = {
    "none": lambda of: signed_by_hand(of, {"alg": "none", "kid": "rsa"}, None),
    "None, spelt otherwise": lambda of: signed_by_hand(of, {"alg": "nOnE", "kid": "rsa"}, None),
    "no algorithm": lambda of: signed_by_hand(of, {"kid": "rsa"}, None),
    "a list of algorithms": lambda of: signed_by_hand(of, {"alg": ["RS256"], "kid": "rsa"}, None),
    "the public key as an HMAC secret": lambda of: signed_by_hand(of, {"alg": "HS256", "kid": "rsa"}, pem(RSA_KEY)),
    "its JWK as an HMAC secret": lambda of: signed_by_hand(
        of, {"alg": "HS256", "kid": "rsa"}, json.dumps(jwk(RSA_KEY)).encode()
    ),
    "an empty HMAC secret": lambda of: signed_by_hand(of, {"alg": "HS256", "kid": "rsa"}, b""),
    "an HMAC named RS256": lambda of: signed_by_hand(of, {"alg": "RS256", "kid": "rsa"}, pem(RSA_KEY)),
    "an algorithm that was not chosen": lambda of: of.token(RSA_KEY, "rsa", "RS512"),
    "another kind of key": lambda of: of.token(EC_KEY, "rsa", "ES256"),
    "somebody else's key under a known id": lambda of: of.token(OTHER_RSA_KEY),
    "a subject with half a surrogate pair": lambda of: of.token(sub="ada\ud800"),
    "a subject with a NUL": lambda of: of.token(sub="ada\0"),
    "a user with half a surrogate pair": lambda of: of.token(user_id="\udfff"),
    "an unknown key id": lambda of: of.token(OTHER_RSA_KEY, "mallory"),
    "no key id, where there are several": lambda of: of.token(RSA_KEY, None),
    "a key id that is no text": lambda of: signed_by_hand(of, {"alg": "RS256", "kid": 7}, b"x"),
    "its own key in the header": lambda of: of.token(
        OTHER_RSA_KEY, "mallory", headers={"jwk": jwk(OTHER_RSA_KEY, kid="mallory")}
    ),
    "its own key in the header, under a known id": lambda of: of.token(
        OTHER_RSA_KEY, headers={"jwk": jwk(OTHER_RSA_KEY)}
    ),
    "the address of its own keys": lambda of: of.token(
        OTHER_RSA_KEY, "mallory", headers={"jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/x"}
    ),
    "an extension that we do not know": lambda of: of.token(headers={"crit": ["exp"], "exp": later(10)}),
    "an unencoded payload": lambda of: of.token(headers={"crit": ["b64"], "b64": False}),
    "other claims under its signature": lambda of: tampered(of.token(), **of.claims(account_id="globex")),
    "no signature": lambda of: of.token().rpartition(".")[0] + ".",
    "two parts": lambda of: of.token().rpartition(".")[0],
    "expired beyond the leeway": lambda of: of.token(exp=later(-11)),
    "not yet valid": lambda of: of.token(nbf=later(60)),
    "issued in the future": lambda of: of.token(iat=later(60)),
    "another audience": lambda of: of.token(aud="another-service"),
    "several other audiences": lambda of: of.token(aud=["a", "b"]),
    "another issuer": lambda of: of.token(iss="https://evil.example"),
    "the issuer with a slash more": lambda of: of.token(iss=f"{of.url}/"),
    "a list of issuers": lambda of: of.token(iss=[of.url]),
    "without exp": lambda of: of.token(exp=None),
    "without aud": lambda of: of.token(aud=None),
    "without iss": lambda of: of.token(iss=None),
    "exp as text": lambda of: of.token(exp=str(later(60))),
    "exp true": lambda of: of.token(exp=True),
    "exp never": lambda of: of.token(exp=10**18),
    "an account that is a list": lambda of: of.token(account_id=["acme", "globex"]),
    "an account that is empty": lambda of: of.token(account_id=""),
    "an account with a line end": lambda of: of.token(account_id="acme\n"),
    "scopes as numbers": lambda of: of.token(scope=[1, 2]),
    "a subject that is a number": lambda of: of.token(sub=7),
    "claims that are no object": lambda of: jwt.api_jws.encode(b"[1]", RSA_KEY, "RS256", headers={"kid": "rsa"}),
    "claims that are no JSON": lambda of: jwt.api_jws.encode(b"\xff{", RSA_KEY, "RS256", headers={"kid": "rsa"}),
    "claims without an end": lambda of: jwt.api_jws.encode(b"[" * 4000, RSA_KEY, "RS256", headers={"kid": "rsa"}),
    "a header without an end": lambda of: f"{encode(b'[' * 4000)}.e30.AAAA",
    "a header that is no object": lambda of: f"{encode([1])}.e30.AAAA",
    "dots": lambda of: "...",
    "nothing readable": lambda of: "%00.%00.%00",
}


async def test_bad_tokens_are_refused_and_good_ones_are_not(issuer: Issuer) -> None:
    async with trusting(issuer) as access:
        believed = [name for name, make in BAD.items() if await verdict(access, make(issuer)) is not None]
        assert believed == []
        assert await verdict(access, issuer.token()) == Principal(
            subject="ada",
            scopes=frozenset({Scope.LIMITS_CHECK, Scope.USAGE_READ}),
            account_id="acme",
            user_id="ada",
            expires_at=jwt.decode(issuer.token(), options={"verify_signature": False})["exp"],
            issuer=issuer.url,
        )
        good = (
            issuer.token(EC_KEY, "ec", "ES256"),
            issuer.token(RSA_KEY, "rsa", "PS256"),
            issuer.token(aud=["another", AUDIENCE]),
            issuer.token(exp=later(-5)),  # within the leeway
            issuer.token(nbf=later(5), iat=later(5)),
            issuer.token(scope=None, scp=["limits:check"]),
        )
        assert [await verdict(access, token) is not None for token in good] == [True] * len(good)


async def test_a_token_without_account_is_for_all_only_if_it_may_act_as_others(issuer: Issuer) -> None:
    async with trusting(issuer) as access:
        plain = await access.authenticate(issuer.token(account_id=None).encode())
        assert (plain.account_id, plain.any_account) == (None, False)
        trusted = await access.authenticate(issuer.token(account_id=None, scope="limits:check act-as").encode())
        assert (trusted.account_id, trusted.any_account) == (None, True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"oidc_algorithms": ["HS256"]},
        {"oidc_algorithms": ["none"]},
        {"oidc_algorithms": []},
        {"oidc_audiences": []},
        {"oidc_issuer": "http://issuer.example"},
        {"oidc_jwks_url": "http://issuer.example/keys"},
        {"oidc_issuer": None, "oidc_jwks_url": "https://issuer.example/keys"},
    ],
    ids=str,
)
def test_settings_that_would_open_a_door_are_refused(wrong: dict[str, Any]) -> None:
    good = {"oidc_issuer": "https://issuer.example", "oidc_audiences": ["ledger"]}
    assert AccessSettings.model_validate(good).jwt_rules is not None
    with pytest.raises(ValidationError):
        AccessSettings.model_validate({**good, **wrong})


@pytest.mark.parametrize(
    "published",
    [
        {"kty": "oct", "kid": "rsa", "k": encode(b"secret" * 8)},
        jwk(RSA_KEY, kid="rsa", use="enc"),
        jwk(RSA_KEY, kid="rsa", key_ops=["encrypt"]),  # type: ignore[arg-type]  # a member that is a list
        jwk(RSA_KEY, kid="rsa", key_ops=None),  # type: ignore[arg-type]  # as above, and it is none
        jwk(RSA_KEY, kid="rsa", key_ops=7),  # type: ignore[arg-type]  # as above
        jwk(RSA_KEY, kid="rsa", alg="PS256"),
        {**RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True), "kid": "rsa", "key_ops": ["sign", "verify"]},
        jwk(RSA_KEY, kid="other"),
    ],
    ids=lambda key: " ".join(sorted(set(key) - {"n", "e"})),
)  # fmt: skip
async def test_keys_that_are_for_something_else_verify_nothing(issuer: Issuer, published: dict[str, Any]) -> None:
    issuer.keys = [published, jwk(EC_KEY, kid="ec")]
    async with trusting(issuer) as access:
        assert await verdict(access, issuer.token(EC_KEY, "ec", "ES256")) is not None
        assert await verdict(access, issuer.token()) is None
        assert await verdict(access, signed_by_hand(issuer, {"alg": "HS256", "kid": "rsa"}, b"secret" * 8)) is None


# --- keys that come and go ---


async def test_a_new_key_is_fetched_when_it_is_first_named_and_strangers_cannot_make_us_ask(issuer: Issuer) -> None:
    clock = Clock()
    async with trusting(issuer, clock) as access:
        assert await verdict(access, issuer.token()) is not None
        assert issuer.asked == 1
        issuer.keys = [jwk(OTHER_RSA_KEY, kid="new")]
        clock.now += 11
        at_once = [issuer.token(OTHER_RSA_KEY, "new", user_id=f"u{number}") for number in range(20)]
        assert None not in await asyncio.gather(*(verdict(access, token) for token in at_once))
        assert issuer.asked == 2
        # The old key is gone, and what it had signed with it, though it was verified before.
        assert await verdict(access, issuer.token()) is None
        for number in range(50):
            assert await verdict(access, issuer.token(OTHER_RSA_KEY, f"made-up-{number}")) is None
        assert issuer.asked == 2
        clock.now += 11
        assert await verdict(access, issuer.token(OTHER_RSA_KEY, "made-up")) is None
        assert issuer.asked == 3


async def test_while_the_issuer_is_away_its_keys_stay_and_without_any_nobody_gets_in(issuer: Issuer) -> None:
    clock = Clock()
    issuer.down = True
    async with trusting(issuer, clock, f"{issuer.url}/keys") as access:
        for _ in range(3):
            with pytest.raises(AccessUnavailable):
                await access.authenticate(issuer.token().encode())
        assert issuer.asked == 1
        issuer.down = False
        clock.now += 2
        assert await verdict(access, issuer.token()) is not None
        issuer.down = True
        clock.now += 100_000
        assert await verdict(access, issuer.token(user_id="somebody-new")) is not None
        assert await verdict(access, issuer.token(OTHER_RSA_KEY, "unknown")) is None
        assert await verdict(access, issuer.token(OTHER_RSA_KEY)) is None


async def test_a_key_that_was_taken_back_ends_what_is_remembered(issuer: Issuer) -> None:
    clock = Clock()
    async with trusting(issuer, clock) as access:
        token = issuer.token(EC_KEY, "ec", "ES256")
        assert await verdict(access, token) is not None
        issuer.keys = [jwk(RSA_KEY, kid="rsa")]
        clock.now += 301
        await verdict(access, token)  # starts to ask, and does not wait for it
        for _ in range(100):
            if await verdict(access, token) is None:
                break
            await asyncio.sleep(0.01)
        assert await verdict(access, token) is None


async def test_discovery_of_another_issuer_is_not_believed(issuer: Issuer) -> None:
    issuer.says_issuer = "https://evil.example"
    async with trusting(issuer) as access:
        with pytest.raises(AccessUnavailable):
            await access.authenticate(issuer.token().encode())
    assert issuer.asked == 0


async def test_what_is_remembered_ends_with_exp(issuer: Issuer) -> None:
    async with trusting(issuer) as access:
        token = issuer.token(exp=later(-7)).encode()  # for two seconds more at least, by the leeway
        assert await verdict(access, token) is not None
        await asyncio.sleep(3.2)
        assert await verdict(access, token) is None


# --- in the services ---


async def test_the_ledger_takes_the_account_from_the_token(issuer: Issuer, start_ledger: StartLedger) -> None:
    ledger = await start_ledger(oidc_issuer=issuer.url, oidc_audiences=[AUDIENCE])
    await ledger.set_up(limit("images", maximum=5))

    async def ask(body: dict[str, Any], **claims: Any) -> int:
        headers = {"Authorization": f"Bearer {issuer.token(**claims)}"}
        return (await ledger.http.post("/v1/limit-checks", json=body, headers=headers)).status_code

    assert await ask(check()) == 200
    assert await ask(check(), account_id="globex") == 403
    assert await ask(check(), account_id=None) == 403
    assert await ask(check(), account_id=None, scope="limits:check act-as") == 200
    assert await ask(check(), scope="usage:read") == 403
    assert await ask(check(), exp=later(-60)) == 401


@asynccontextmanager
async def images(tmp_path: Path, issuer: Issuer) -> AsyncIterator[tuple[httpx.AsyncClient, ScriptedLedger]]:
    """The image service that trusts the issuer; requests have the caller's headers unless they say otherwise."""
    ledger = ScriptedLedger()
    async with serving(ledger.app()) as url:
        settings = make_settings(
            tmp_path, url, oidc_issuer=issuer.url, oidc_audiences=[AUDIENCE], claim_project=["team"]
        )
        async with image_service(settings) as client:
            for name in ("X-Account-Id", "X-User-Id"):
                del client.headers[name]
            yield client, ledger


WHO = ("account_id", "user_id", "project_id", "api_key_id")


async def test_the_image_service_takes_everybody_from_the_token(tmp_path: Path, issuer: Issuer) -> None:
    async with images(tmp_path, issuer) as (client, ledger):

        async def generate(headers: dict[str, str], **claims: Any) -> tuple[int, str | None]:
            sent = {"Authorization": f"Bearer {issuer.token(**claims)}", **headers}
            answer = await client.post("/v1/images/generate", json=GENERATE, headers=sent)
            return answer.status_code, answer.json().get("code")

        def checked() -> tuple[str | None, ...]:
            return tuple(ledger.checks[-1].get(name) for name in WHO)

        assert await generate({}, user_id="bob", team="red", api_key_id="k1") == (200, None)
        assert checked() == ("acme", "bob", "red", "k1")
        assert await generate({}) == (200, None)
        assert checked() == ("acme", "ada", None, None)
        # Headers that say what the token says change nothing; others are not believed.
        assert await generate({"X-Account-Id": "acme", "X-User-Id": "ada"}) == (200, None)
        done = len(ledger.checks)
        for header in ("X-Account-Id", "X-User-Id", "X-Project-Id", "X-Api-Key-Id"):
            assert await generate({header: "globex"}) == (403, "forbidden")
        assert await generate({"X-Account-Id": "globex", "X-User-Id": "u"}, account_id=None) == (403, "forbidden")
        assert await generate({}, sub="auth0|1234") == (403, "forbidden")
        assert await generate({}, sub=None) == (403, "forbidden")
        assert await generate({}, scope="usage:read events:write admin") == (403, "forbidden")
        assert await generate({}, aud="else") == (401, "unauthenticated")
        assert len(ledger.checks) == done

        backend = {"scope": "act-as", "account_id": None, "sub": "backend"}
        assert await generate({"X-Account-Id": "globex", "X-User-Id": "eve"}, **backend) == (200, None)
        assert checked() == ("globex", "eve", None, None)
        assert await generate({"X-User-Id": "eve"}, **backend) == (422, "invalid_request")
        assert await generate({"X-Account-Id": "globex"}, **backend) == (422, "invalid_request")
        bound = {"scope": "act-as"}
        assert await generate({"X-User-Id": "eve"}, **bound) == (200, None)
        assert checked() == ("acme", "eve", None, None)
        assert await generate({"X-Account-Id": "globex", "X-User-Id": "eve"}, **bound) == (403, "forbidden")


async def test_every_operation_of_the_image_service_wants_a_token(tmp_path: Path, issuer: Issuer) -> None:
    async with images(tmp_path, issuer) as (client, ledger):
        for operation in ("generate", "edit", "upscale"):
            for headers in ({"Authorization": ""}, {"Authorization": "Bearer no"}):
                named = {"X-Account-Id": "acme", "X-User-Id": "ada", **headers}
                answer = await client.post(f"/v1/images/{operation}", headers=named)
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert (await client.get("/readyz", headers={"Authorization": ""})).status_code == 200
        document = (await client.get("/openapi.json", headers={"Authorization": ""})).json()
        assert document["paths"]["/v1/images/edit"]["post"]["security"] == [{"bearer": []}]
    assert ledger.checks == []


async def test_of_two_keys_with_one_id_the_one_of_the_right_kind_is_taken(issuer: Issuer) -> None:
    issuer.keys = [jwk(EC_KEY, kid="rsa"), jwk(RSA_KEY, kid="rsa")]
    async with trusting(issuer) as access:
        assert await verdict(access, issuer.token()) is not None


@pytest.mark.parametrize("address", ["https://[bad", "https://a.example:port/keys", "https://\x00/"])
async def test_what_is_no_address_has_no_keys(address: str) -> None:
    async with httpx.AsyncClient() as http:
        with pytest.raises(FetchError):
            await fetch(http, url_in({"jwks_uri": address}, "jwks_uri"))
