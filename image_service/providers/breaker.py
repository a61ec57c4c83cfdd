"""A circuit breaker: a provider in trouble is left alone for a while, then tried by one call.

Our own, as whether a provider is available must be known at once, without asking (see Provider.available); purgatory
and the others tell it only to the call that they refuse.
"""

import time
from collections.abc import Callable
from typing import Final

FAILURES_MAX: Final = 5
OPEN_SECONDS: Final = 30.0


class Breaker:
    """Closed until ``failures_max`` failures in a row; then open for ``open_seconds``; then one probe decides."""

    def __init__(
        self,
        failures_max: int = FAILURES_MAX,
        open_seconds: float = OPEN_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures_max = failures_max
        self._open_seconds = open_seconds
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._probe: object | None = None

    @property
    def probe(self) -> object | None:
        """The call that decides, if there is one: right after `enter`, that one."""
        return self._probe

    @property
    def available(self) -> bool:
        if self._opened_at is None:
            return True
        return self._probe is None and self._clock() - self._opened_at >= self._open_seconds

    def enter(self) -> bool:
        """Whether a call may be made; then `leave` is to be called, with its `probe`, once it is over."""
        if not self.available:
            return False
        self._probe = None if self._opened_at is None else object()
        return True

    def leave(self, probe: object | None) -> None:
        """Idempotent. A probe that ended in neither success nor failure leaves its place to the next. No other call
        does: many that began before it opened may still run."""
        if self._probe is probe:
            self._probe = None

    def succeeded(self) -> None:
        self._failures, self._opened_at, self._probe = 0, None, None

    def failed(self) -> None:
        self._failures += 1
        if self._opened_at is not None or self._failures >= self._failures_max:
            self._opened_at, self._probe = self._clock(), None
