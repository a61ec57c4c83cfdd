"""From a bearer token to whom it speaks for: once in full, then from memory, for a bounded time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

import structlog

from contracts.access.errors import AccessUnavailable, Unauthenticated
from contracts.access.jwks import IssuerKeys
from contracts.access.jwt_rules import JwtRules
from contracts.access.jwt_tokens import key_wanted, verify
from contracts.access.oidc_login import OidcClient, OidcLogin
from contracts.access.principal import ANYBODY, Principal
from contracts.access.rates import Rates
from contracts.access.service_tokens import is_service_token
from contracts.access.settings import AccessSettings
from contracts.problems import OVERLOADED, ProblemError

#: Remembered tokens; beyond that the oldest are forgotten, and looked up again when they come.
TOKENS_MAX: Final = 10_000
#: Looked up at the same time, and waiting for that: strangers must not use up what serves everybody.
LOOKUPS_MAX: Final = 4
WAITING_MAX: Final = 1_000
LOOKUP_SECONDS_MAX: Final = 5.0
UNKNOWN_SECONDS: Final = 5.0
#: A JWT that was verified is verified again after so long, which notices keys that the issuer took back.
JWT_SECONDS: Final = 60.0
#: While whoever knows the tokens cannot be reached, it is asked this often.
AWAY_SECONDS: Final = 1.0
#: Refused tokens are logged so often, at most.
LOG_SECONDS: Final = 1.0

_log = structlog.stdlib.get_logger(__name__)

#: Whose service token it is; None = nobody's. Raises AccessUnavailable where that cannot be found out.
FindServiceToken = Callable[[str], Awaitable[Principal | None]]


@dataclass(frozen=True)
class Memory:
    """For how long a service token is believed without asking; ``away_seconds``: while nobody can be asked."""

    seconds: float
    away_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Known:
    """``principal`` None: nobody's. ``fresh_until`` and ``usable_until`` by the steady clock."""

    principal: Principal | None
    fresh_until: float
    usable_until: float
    #: Of the issuer's keys; None for a service token.
    generation: int | None


class Authenticator:
    """Tokens are remembered by their hashes. Use it on one event loop; `close` it."""

    is_controlled = True

    def __init__(
        self,
        find_service_token: FindServiceToken,
        memory: Memory,
        jwt_rules: JwtRules | None = None,
        keys: IssuerKeys | None = None,
        rates: Rates | None = None,
        login: OidcLogin | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._find_service_token, self._memory = find_service_token, memory
        self._jwt_rules, self._keys = jwt_rules, keys
        self._rates = rates
        #: How people sign in at the issuer; None: they do not.
        self.login = login
        self._clock, self._wall_clock = clock, wall_clock
        # Apart, so that tokens that somebody makes up push no good one out.
        self._good: dict[bytes, _Known] = {}
        self._bad: dict[bytes, _Known] = {}
        #: By token, and how often something was revoked before they began.
        self._lookups: dict[tuple[bytes, int], asyncio.Task[_Known]] = {}
        #: Of these, service tokens, and JWTs: those wait for us, and these for the issuer, which may be slow.
        self._waiting = {True: 0, False: 0}
        self._places = asyncio.Semaphore(LOOKUPS_MAX)
        #: How often something was revoked: what was looked up meanwhile may be of before that, and is not remembered.
        self._revocations = 0
        #: Whoever knows the service tokens did not answer the last time.
        self._away = False
        self._logged_at = float("-inf")
        self._not_logged = 0

    async def authenticate(self, token: bytes, address: str = "") -> Principal:
        """Whose token it is, and one request of theirs. ``address``: where it comes from.

        Raises Unauthenticated, RateLimited, AccessUnavailable, or ProblemError (overloaded).
        """
        key, rates = sha256(token).digest(), self._rates
        if rates is None:
            return await self._identify(key, token)
        if key not in self._good:
            # Whoever was good before is looked up again, whatever others at that address do.
            rates.refuse_guessing(address)
        try:
            principal = await self._identify(key, token)
        except Unauthenticated:
            rates.count_failure(address)
            raise
        rates.take(principal)
        return principal

    async def _identify(self, key: bytes, token: bytes) -> Principal:
        known = self._good.get(key) or self._bad.get(key)
        if known is None or not self._is_fresh(known):
            if known is not None and self._away and self._is_usable(known):
                self._start_look_up(key, token, known)
            else:
                known = await self._look_up_once(key, token, known)
        # What was just verified was so with the leeway of clocks, which service tokens do not need.
        if known.principal is None or (known.generation is None and not self._is_in_time(known.principal)):
            raise Unauthenticated("unknown, revoked or expired")
        return known.principal

    def forget(self) -> None:
        """Ask again about every token: one was revoked."""
        self._revocations += 1
        # That they were good is remembered: they are looked up even where others at their address guess.
        self._good = {key: replace(one, fresh_until=0.0, usable_until=0.0) for key, one in self._good.items()}
        self._bad.clear()

    async def close(self) -> None:
        for task in list(self._lookups.values()):
            task.cancel()
        await asyncio.gather(*self._lookups.values(), return_exceptions=True)
        if self.login is not None:
            await self.login.close()
        if self._keys is not None:
            await self._keys.close()

    def _is_fresh(self, known: _Known) -> bool:
        if self._clock() >= known.fresh_until:
            return False
        if known.generation is None:
            return True
        assert self._keys is not None, "only with keys a JWT is remembered"
        # Past exp a JWT is verified anew, which has the leeway.
        return known.generation == self._keys.generation and (
            known.principal is None or self._is_in_time(known.principal)
        )

    def _is_in_time(self, principal: Principal) -> bool:
        return principal.expires_at is None or self._wall_clock() < principal.expires_at

    def _is_usable(self, known: _Known) -> bool:
        return known.principal is not None and self._clock() < known.usable_until

    async def _look_up_once(self, key: bytes, token: bytes, known: _Known | None) -> _Known:
        """All who come with the same token meanwhile wait for the same answer, whoever of them goes away."""
        task = self._start_look_up(key, token, known)
        if task is None:
            raise ProblemError(OVERLOADED, f"{WAITING_MAX} tokens are waiting to be looked up")
        return await asyncio.shield(task)

    def _start_look_up(self, key: bytes, token: bytes, known: _Known | None) -> "asyncio.Task[_Known] | None":
        """The one that runs already, or a new one; None where too many wait."""
        place = (key, self._revocations)
        running, kind = self._lookups.get(place), is_service_token(token)
        if running is not None or self._waiting[kind] >= WAITING_MAX:
            return running
        self._waiting[kind] += 1

        def ended(task: "asyncio.Task[_Known]") -> None:
            self._lookups.pop(place, None)
            self._waiting[kind] -= 1
            if not task.cancelled():
                task.exception()  # perhaps nobody waits for it any more

        task = self._lookups[place] = asyncio.create_task(self._look_up(key, token, known))
        task.add_done_callback(ended)
        return task

    async def _look_up(self, key: bytes, token: bytes, known: _Known | None) -> _Known:
        revocations = self._revocations
        if is_service_token(token):
            found = await self._look_up_service_token(token.decode("ascii"), known)
        else:
            found = await self._look_up_jwt(token.decode("ascii"))
        if revocations != self._revocations:
            found = replace(found, fresh_until=0.0, usable_until=0.0)
        self._good.pop(key, None)
        self._bad.pop(key, None)
        memory = self._bad if found.principal is None else self._good
        if len(memory) >= TOKENS_MAX:
            del memory[next(iter(memory))]
        memory[key] = found
        return found

    async def _look_up_service_token(self, token: str, known: _Known | None) -> _Known:
        try:
            async with asyncio.timeout(LOOKUP_SECONDS_MAX), self._places:
                principal = await self._find_service_token(token)
        except (AccessUnavailable, TimeoutError) as error:
            away = error if isinstance(error, AccessUnavailable) else AccessUnavailable("no answer in time")
            if not self._away:
                _log.warning("tokens_cannot_be_verified", reason=away.reason)
            self._away = True
            if known is None or not self._is_usable(known):
                raise away from None
            return replace(
                known, fresh_until=min(self._clock() + min(AWAY_SECONDS, self._memory.seconds), known.usable_until)
            )
        self._away = False
        now = self._clock()
        if principal is None:
            self._log_refused("unknown, revoked or expired")
            return _Known(None, now + min(UNKNOWN_SECONDS, self._memory.seconds), now, None)
        fresh = now + self._memory.seconds
        return _Known(principal, fresh, fresh + self._memory.away_seconds, None)

    async def _look_up_jwt(self, token: str) -> _Known:
        if self._jwt_rules is None or self._keys is None:
            self._log_refused("no service token, and no issuer is trusted")
            now = self._clock()
            return _Known(None, now + UNKNOWN_SECONDS, now, None)
        try:
            key = await self._keys.find(*key_wanted(token, self._jwt_rules))
            if key is None:
                raise Unauthenticated("the issuer has no such key")
            principal, seconds = verify(token, key, self._jwt_rules), JWT_SECONDS
        except Unauthenticated as error:
            self._log_refused(error.reason)
            principal, seconds = None, UNKNOWN_SECONDS
        now = self._clock()
        return _Known(principal, now + seconds, now, self._keys.generation)

    def _log_refused(self, reason: str) -> None:
        """Why, and never what: a token that is refused here may be good elsewhere."""
        now = self._clock()
        if now - self._logged_at < LOG_SECONDS:
            self._not_logged += 1
            return
        _log.info("token_refused", reason=reason, unlogged_before=self._not_logged)
        self._logged_at, self._not_logged = now, 0


class NoAccessControl:
    """Whoever calls may do everything."""

    is_controlled = False
    login = None

    async def authenticate(self, token: bytes, address: str = "") -> Principal:
        del token, address
        return ANYBODY

    def forget(self) -> None:
        """There is nothing to forget."""

    async def close(self) -> None:
        """There is nothing to close."""


def make_access(
    settings: AccessSettings, find_service_token: FindServiceToken, memory: Memory
) -> "Authenticator | NoAccessControl":
    """As the settings say. Says loudly where access is not controlled."""
    if settings.auth == "off":
        _log.warning("access_is_not_controlled", consequence="whoever reaches this port may do everything")
        return NoAccessControl()
    rules = settings.jwt_rules
    keys = None if rules is None else IssuerKeys(rules.issuer, settings.oidc_jwks_url)
    rates = Rates(settings.rate_rules)
    return Authenticator(find_service_token, memory, rules, keys, rates, _login(settings, rules, keys, rates))


def _login(settings: AccessSettings, rules: JwtRules | None, keys: IssuerKeys | None, rates: Rates) -> OidcLogin | None:
    if rules is None or keys is None or settings.oidc_client_id is None:
        return None
    secret = settings.oidc_client_secret
    client = OidcClient(
        settings.oidc_client_id,
        None if secret is None else secret.get_secret_value(),
        tuple(settings.oidc_scopes),
        settings.oidc_authorize,
    )
    return OidcLogin(rules, client, keys, rates)
