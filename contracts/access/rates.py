"""How often one caller may call: token buckets, told as the generic cell rate algorithm does, one number a caller.

Bounds are of one process: with three of a service behind a proxy, a caller has three times as much.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final

from contracts.access.principal import Principal
from contracts.problems import RATE_LIMITED, ProblemError

#: Callers that are remembered; beyond that the one that was away longest is forgotten.
CALLERS_MAX: Final = 10_000


@dataclass(frozen=True)
class Rate:
    """So many requests a second in the long run, ``burst`` of them at once. Not above zero: as many as come."""

    per_second: float
    burst: int


@dataclass(frozen=True)
class RateRules:
    """``bound``: each token, or subject of an issuer, that is for one account. ``unbound``: each of the others, which
    are services. ``failures``: tokens that turn out to be nobody's, by address."""

    bound: Rate
    unbound: Rate
    failures: Rate


class RateLimited(ProblemError):  # noqa: N818  as rate_limited, its problem
    """Too many requests; says when the next one will do (RFC 9110, 10.2.3; draft-ietf-httpapi-ratelimit-headers-11)."""

    def __init__(self, policy: str, rate: Rate, wait_seconds: float, whose: str) -> None:
        super().__init__(RATE_LIMITED, f"more than {rate.per_second:g} requests a second from {whose}")
        seconds = max(1, math.ceil(wait_seconds))
        self.headers = {
            "Retry-After": str(seconds),
            "RateLimit-Policy": f'"{policy}";q={rate.burst};w={max(1, math.ceil(rate.burst / rate.per_second))}',
            "RateLimit": f'"{policy}";r=0;t={seconds}',
        }


class Bucket:
    """A bucket for each of many keys, filled by time."""

    def __init__(self, rate: Rate, clock: Callable[[], float], keys_max: int = CALLERS_MAX) -> None:
        self.rate = rate
        self.is_on = rate.per_second > 0
        self._clock, self._keys_max = clock, keys_max
        self._interval = 1 / rate.per_second if self.is_on else 0.0
        #: How far ahead of now a key's next turn may be: what a burst is, in seconds.
        self._ahead_max = (rate.burst - 1) * self._interval
        #: When a key would have its turn if all went at an even pace; the key that came last stands last.
        self._turns: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._turns)

    def take(self, key: str) -> float:
        """0 where there is room, and one less of it now; else the seconds until there is some."""
        now, turns = self._clock(), self._turns
        turn = turns.get(key)
        if turn is None:
            turns[key] = now + self._interval
            if len(turns) > self._keys_max:
                turns.popitem(last=False)
            return 0.0
        turns.move_to_end(key)
        if turn < now:
            turn = now
        wait = turn - now - self._ahead_max
        if wait > 0:
            return wait
        turns[key] = turn + self._interval
        return 0.0

    def wait(self, key: str) -> float:
        """The same, and takes nothing."""
        turn = self._turns.get(key)
        return 0.0 if turn is None else max(0.0, turn - self._clock() - self._ahead_max)


class Rates:
    """Of one service, in one process."""

    def __init__(self, rules: RateRules, clock: Callable[[], float] = time.monotonic) -> None:
        self._bound, self._unbound = Bucket(rules.bound, clock), Bucket(rules.unbound, clock)
        self._failures = Bucket(rules.failures, clock)

    def take(self, principal: Principal) -> None:
        """One request of somebody who is known. Raises RateLimited."""
        bucket = self._unbound if principal.account_id is None else self._bound
        if bucket.is_on and (wait := bucket.take(principal.key)):
            raise RateLimited("token", bucket.rate, wait, "this token")

    def refuse_guessing(self, address: str) -> None:
        """Before an unknown token is looked up: raises RateLimited where too many were nobody's from there."""
        if self._failures.is_on and (wait := self._failures.wait(neighbourhood(address))):
            raise RateLimited("failures", self._failures.rate, wait, "this address with tokens that are not valid")

    def count_failure(self, address: str) -> None:
        """A token from there turned out to be nobody's."""
        if self._failures.is_on:
            self._failures.take(neighbourhood(address))


@lru_cache(CALLERS_MAX)
def neighbourhood(address: str) -> str:
    """What one owner of addresses has: of IPv6, a /64."""
    if ":" not in address:
        return address
    try:
        network = int(IPv6Address(address.partition("%")[0])) >> 64
    except ValueError:
        return address
    return f"{network:x}::/64"
