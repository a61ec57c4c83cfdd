"""Signing in at an OIDC issuer: the authorization code flow with PKCE (OpenID Connect Core 1.0, RFC 7636, RFC 9700).

The ID token proves that the issuer answered this very attempt (nonce); what people then hold is the access token, where
that is a JWT for one of our audiences: it is made for services like this one, and has the scopes. An ID token is for
the client that asked for it: it serves instead only where that client is among the audiences.
"""

import asyncio
import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote_plus, urlencode, urlsplit

import httpx
import jwt
import structlog

from contracts.access.errors import AccessUnavailable, Unauthenticated
from contracts.access.http_connections import Connections
from contracts.access.jwks import AS_JSON, FETCH_SECONDS_MAX, FetchError, IssuerKeys, discover, read_document, url_in
from contracts.access.jwt_rules import JwtRules
from contracts.access.jwt_tokens import key_wanted, verified_claims
from contracts.access.oidc_attempts import Attempt
from contracts.access.rates import Rates

#: What the issuer says of itself is asked for again after so long.
DISCOVERY_SECONDS: Final = 300.0
#: Where it is known from before, whoever signs in waits no longer for that, and it is not asked for more often.
AGAIN_SECONDS_MAX: Final = 1.0
#: Codes that are being exchanged at the same time.
EXCHANGES_MAX: Final = 8
_REASON_MAX: Final = 200

_log = structlog.stdlib.get_logger(__name__)


class LoginRefusedError(Exception):
    """The issuer, or what it sent, does not let in; the message is for the person who tried."""


@dataclass(frozen=True)
class OidcClient:
    """This service, as the issuer knows it. ``authorize``: what else it is asked with."""

    client_id: str
    secret: str | None
    scopes: Sequence[str] = ("openid",)
    authorize: Mapping[str, str] = field(default_factory=dict)


class OidcLogin:
    """Use it on one event loop; `close` it. ``keys``: the issuer's, which others may use as well."""

    def __init__(
        self,
        rules: JwtRules,
        client: OidcClient,
        keys: IssuerKeys,
        rates: Rates,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules, self._client, self._keys, self._rates, self._clock = rules, client, keys, rates, clock
        self._http = httpx.AsyncClient(transport=Connections(), timeout=FETCH_SECONDS_MAX, follow_redirects=False)
        self._places = asyncio.Semaphore(EXCHANGES_MAX)
        self._found: dict[str, object] = {}
        self._found_at = self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        #: Why it was not to be had the last time.
        self._why = ""

    @property
    def name(self) -> str:
        """Of the issuer, for people."""
        return urlsplit(self._rules.issuer).netloc

    async def begin(self, attempt: Attempt, redirect_uri: str) -> str:
        """Where the browser goes. Raises AccessUnavailable where the issuer cannot be asked where that is."""
        asked = {
            **self._client.authorize,
            "response_type": "code",
            "client_id": self._client.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(self._client.scopes),
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        return _with_query(await self._address("authorization_endpoint"), asked)

    async def finish(
        self, attempt: Attempt, answer: Mapping[str, str], redirect_uri: str, address: str
    ) -> Sequence[str]:
        """The tokens that may open this service, best first, for what the issuer sent back with the browser.
        ``address``: where that is. Raises LoginRefusedError, RateLimited, AccessUnavailable."""
        self._rates.refuse_guessing(address)
        try:
            self._check(attempt, answer)
            made = await self._exchange(attempt, answer.get("code", ""), redirect_uri)
            await self._verify(attempt, made.get("id_token"))
        except LoginRefusedError as error:
            self._rates.count_failure(address)
            _log.info("sign_in_refused", issuer=self._rules.issuer, reason=str(error))
            raise
        return self._usable(made)

    async def end(self, return_to: str) -> str | None:
        """Where the browser signs out at the issuer (OpenID Connect RP-Initiated Logout 1.0); None where it cannot."""
        try:
            url = url_in(await self._discovered(), "end_session_endpoint")
        except (FetchError, AccessUnavailable):
            return None
        return _with_query(url, {"client_id": self._client.client_id, "post_logout_redirect_uri": return_to})

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await self._http.aclose()

    def _check(self, attempt: Attempt, answer: Mapping[str, str]) -> None:
        if not attempt.is_of(answer.get("state", "")):
            raise LoginRefusedError("The answer of the issuer is not to the sign-in that began in this browser.")
        # Of another issuer (RFC 9207): its code must not be sent to this one.
        if not hmac.compare_digest(answer.get("iss", self._rules.issuer).encode(), self._rules.issuer.encode()):
            raise LoginRefusedError("The answer is another issuer's.")
        if error := answer.get("error"):
            told = answer.get("error_description", "")
            raise LoginRefusedError(f"The issuer let nobody in: {_short(error)}{f', {_short(told)}' if told else ''}.")

    async def _exchange(self, attempt: Attempt, code: str, redirect_uri: str) -> dict[str, object]:
        if not code:
            raise LoginRefusedError("The issuer sent no code.")
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "client_id": self._client.client_id,
            "code_verifier": attempt.verifier,
        }
        url = await self._address("token_endpoint")
        proof = None
        if self._client.secret is not None:
            if self._takes_basic():
                # RFC 6749, 2.3.1: each is form-encoded first.
                proof = httpx.BasicAuth(quote_plus(self._client.client_id), quote_plus(self._client.secret))
            else:
                form["client_secret"] = self._client.secret
        try:
            async with (
                asyncio.timeout(FETCH_SECONDS_MAX),
                self._places,
                self._http.stream("POST", url, data=form, headers=AS_JSON, auth=proof) as given,
            ):
                made = await read_document(given)
        except (FetchError, httpx.HTTPError, TimeoutError) as error:
            raise _away(error) from None
        if given.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise _away(FetchError(f"answered {given.status_code}"))
        if given.status_code != httpx.codes.OK:
            said = _short(str(made.get("error", given.status_code)))
            if said == "invalid_grant":
                raise LoginRefusedError("The issuer's code was used before, or took too long to come back.")
            raise LoginRefusedError(f"The issuer did not take this service's request: {said}.")
        return made

    async def _verify(self, attempt: Attempt, id_token: object) -> None:
        """That the issuer signed this for us, for this attempt."""
        if not isinstance(id_token, str):
            raise LoginRefusedError("The issuer sent no ID token.")
        rules = JwtRules(
            self._rules.issuer, (self._client.client_id,), self._rules.algorithms, self._rules.leeway_seconds
        )
        try:
            key = await self._keys.find(*key_wanted(id_token, rules))
            if key is None:
                raise Unauthenticated("the issuer has no such key")
            claims = verified_claims(id_token, key, rules)
        except Unauthenticated as error:
            raise LoginRefusedError(f"The issuer's ID token is not valid: {error.reason}.") from None
        nonce = claims.get("nonce")
        if not isinstance(nonce, str) or not attempt.nonce_is(nonce):
            raise LoginRefusedError("The ID token is of another sign-in.")
        # Core 1.0, 3.1.3.7: one for several audiences says whose it is.
        if claims.get("azp", self._client.client_id) != self._client.client_id:
            raise LoginRefusedError("The ID token is another client's.")

    def _usable(self, made: Mapping[str, object]) -> list[str]:
        """Whether they are good is for the authenticator to say; here, whether they are meant for this service."""
        audiences = set(self._rules.audiences)
        found = [str(made.get(name, "")) for name in ("access_token", "id_token")]
        return [token for token in found if audiences & _audiences_of(token)]

    async def _address(self, name: str) -> str:
        try:
            return url_in(await self._discovered(), name)
        except FetchError as error:
            raise _away(error) from None

    async def _discovered(self) -> dict[str, object]:
        """What was found before is used while the issuer cannot be reached, or is slow: anybody can make us ask."""
        if self._clock() - self._found_at > DISCOVERY_SECONDS:
            asking = self._ask_unless_lately()
            if asking is not None:
                await asyncio.wait((asking,), timeout=AGAIN_SECONDS_MAX if self._found else None)
        if not self._found:
            raise AccessUnavailable(f"the issuer: {self._why}")
        return self._found

    def _ask_unless_lately(self) -> "asyncio.Task[None] | None":
        """All wait for the same. None where the last try was a moment ago, and there is what was found before."""
        if self._asking is not None and not self._asking.done():
            return self._asking
        now = self._clock()
        if self._found and now - self._asked_at < AGAIN_SECONDS_MAX:
            return None
        self._asked_at = now
        self._asking = asyncio.create_task(self._ask())
        return self._asking

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS_MAX):
                self._found = await discover(self._http, self._rules.issuer)
        except (FetchError, httpx.HTTPError, TimeoutError) as error:
            self._why = _reason_of(error)
            return
        self._found_at = self._clock()

    def _takes_basic(self) -> bool:
        """The default, where the issuer does not say (Discovery 1.0, 3)."""
        methods = self._found.get("token_endpoint_auth_methods_supported")
        return not isinstance(methods, list) or "client_secret_basic" in methods


def _audiences_of(token: str) -> set[str]:
    """What an unverified token says; none where it is no JWT: an access token may be any text."""
    try:
        found = jwt.decode(token, options={"verify_signature": False}).get("aud", [])
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return set()
    listed = [found] if isinstance(found, str) else found
    return {one for one in listed if isinstance(one, str)} if isinstance(listed, list) else set()


def _with_query(url: str, asked: Mapping[str, str]) -> str:
    return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(asked)}"


def _away(error: Exception) -> AccessUnavailable:
    return AccessUnavailable(f"the issuer: {_reason_of(error)}")


def _reason_of(error: Exception) -> str:
    reason = str(error) or type(error).__name__
    _log.warning("issuer_not_reached", reason=reason)
    return reason


def _short(text: str) -> str:
    """Somebody else's words: not too many, and none that are no text."""
    return "".join(character for character in text[:_REASON_MAX] if character.isprintable())
