"""Leases: fetched while the ledger answers, used while it does not, and returned.

Only the process that fetched a lease ever uses it; what is found in the journal at the start is returned unused.
"""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import structlog

from contracts.client.allowances import Allowance, Clocks, Draw, Route, route_of
from contracts.client.background import Background
from contracts.client.checks import Checks
from contracts.client.errors import LedgerRefused, LedgerUnavailable
from contracts.client.journal import Journal, JournalUnavailableError
from contracts.identifiers import uuid7
from contracts.leases import LEASE_QUANTITY_MAX, LeaseRequest
from contracts.limits import Decision, LeaseOffer, LimitCheck
from contracts.money import COST_NANOS_MAX, format_nanos

#: Leases in use at once; routes beyond that have none.
LEASES_MAX: Final = 10_000
FETCHES_MAX: Final = 16
#: A route asks again at most so often, and so long after it was denied.
FETCH_PAUSE_SECONDS: Final = 1.0
DENIED_PAUSE_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 0.5
RETURN_PAUSE_SECONDS_MAX: Final = 5.0

_LIMIT_EXCEEDED: Final = "limit_exceeded"
_FROM_CHECK: Final = ("account_id", "user_id", "project_id", "api_key_id", "operation", "provider", "model")

_log = structlog.stdlib.get_logger(__name__)


@dataclass(eq=False)
class _Retired:
    """A lease that is used no more, on its way back. Without a token its answer was lost: the ledger is asked again."""

    request: LeaseRequest
    token: str | None
    allowance: Allowance | None
    #: The journal's last sequence at a moment at which nothing under the lease was without its outcome.
    mark: int | None = None


@dataclass
class _Live:
    request: LeaseRequest
    allowance: Allowance


@dataclass
class Leases:
    """Safe for any number of operations at once, on one event loop.

    ``committed_when_delivered``: without a journal, whether events that were delivered are in the ledger.
    """

    checks: Checks
    background: Background
    journal: Journal | None
    committed_when_delivered: bool
    _live: dict[Route, _Live] = field(default_factory=dict)
    _retired: list[_Retired] = field(default_factory=list)
    _fetching: set[Route] = field(default_factory=set)
    _not_before: dict[Route, float] = field(default_factory=dict)
    _closed: bool = False

    async def load(self) -> None:
        """Take over what another life of the journal has left. Before the first operation."""
        if self.journal is not None:
            kept = await self.journal.kept_leases()
            self._retired += [_Retired(request, token, None) for request, token in kept]

    def offered(self, check: LimitCheck, decision: Decision) -> None:
        """The ledger has allowed the check; fetch a lease for its like in the background, where it offers one."""
        if decision.lease is None or self._closed:
            return
        route, now = route_of(check), _now()
        live = self._live.get(route)
        if live is not None and not live.allowance.is_to_be_renewed(check, now):
            return
        if live is None and len(self._live) >= LEASES_MAX:
            return
        if route in self._fetching or len(self._fetching) >= FETCHES_MAX:
            return
        if now.monotonic >= self._not_before.get(route, 0.0):
            self._fetching.add(route)
            self.background.start(self._fetch(route, check, decision.lease))

    def admit(self, check: LimitCheck, hold_seconds: float) -> Draw | None:
        """The ledger cannot be reached: the operation's share of a lease; None where there is none for it."""
        live, now = self._live.get(route_of(check)), _now()
        if live is None or not live.allowance.admits(check, now, hold_seconds):
            return None
        return live.allowance.draw(check, now)

    async def run(self) -> None:
        """Return what is over, until cancelled."""
        pause = LOOK_SECONDS
        while True:
            now = _now()
            self._not_before = {route: when for route, when in self._not_before.items() if when > now.monotonic}
            for route in [route for route, live in self._live.items() if live.allowance.is_spent(now)]:
                self._retire(route)
            answered = await self._return_some()
            pause = LOOK_SECONDS if answered else min(pause * 2, RETURN_PAUSE_SECONDS_MAX)
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """One attempt for each. What is not returned is found in the journal again; without one it ends by itself."""
        self._closed = True
        for route in list(self._live):
            self._retire(route)
        await self._return_some()

    # fetching

    async def _fetch(self, route: Route, check: LimitCheck, offer: LeaseOffer) -> None:
        pause = FETCH_PAUSE_SECONDS
        try:
            calls = offer.calls
            while not await self._fetch_calls(route, check, calls, offer.ttl_seconds):
                # No room for so many: fewer are better than none.
                calls //= 2
                if not calls:
                    pause = DENIED_PAUSE_SECONDS
                    return
        except LedgerRefused as refused:
            pause = DENIED_PAUSE_SECONDS
            _log.warning("lease_refused", account_id=route.account_id, reason=refused.problem.detail)
        except (LedgerUnavailable, JournalUnavailableError) as error:
            _log.warning("lease_not_fetched", account_id=route.account_id, reason=str(error))
        finally:
            self._fetching.discard(route)
            self._not_before[route] = time.monotonic() + pause

    async def _fetch_calls(self, route: Route, check: LimitCheck, calls: int, ttl_seconds: int) -> bool:
        """Whether that is all: False, there was no room for so many calls."""
        request = _request(check, calls, ttl_seconds)
        if self.journal is not None:
            # Before it is asked for: after a crash, or a lost answer, the ledger says again what it has come to.
            await self.journal.keep_lease(request)
        asked_at = time.monotonic()
        answered = False
        try:
            lease = await self.checks.lease(request)
            answered = True
        finally:
            if not answered:
                self._retired.append(_Retired(request, None, None))
        if not lease.allowed:
            await self._forget(request)
            return lease.denial is None or lease.denial.code != _LIMIT_EXCEEDED
        allowance = Allowance(lease, asked_at, ttl_seconds)
        if self._closed:
            self._retired.append(_Retired(request, lease.token, allowance))
            return True
        self._retire(route)
        self._live[route] = _Live(request, allowance)
        _log.info("lease_fetched", lease_id=str(lease.lease_id), account_id=route.account_id, calls=calls)
        if self.journal is not None and lease.token is not None:
            await self.journal.lease_placed(lease.lease_id, lease.token)
        return True

    # returning

    def _retire(self, route: Route) -> None:
        live = self._live.pop(route, None)
        if live is not None:
            self._retired.append(_Retired(live.request, live.allowance.lease.token, live.allowance))

    async def _return_some(self) -> bool:
        """Every retired lease that can be returned now. False: the ledger, or the journal, does not answer."""
        for retired in list(self._retired):
            try:
                if not await self._is_quiet(retired):
                    continue
                await self._give_back(retired)
            except (LedgerUnavailable, JournalUnavailableError) as error:
                _log.info("lease_not_returned", lease_id=str(retired.request.lease_id), reason=str(error))
                return False
            self._retired.remove(retired)
        return True

    async def _is_quiet(self, retired: _Retired) -> bool:
        """Whether the ledger has the outcomes of all operations under it, for certain."""
        allowance = retired.allowance
        if allowance is not None and allowance.in_flight:
            return False
        if allowance is not None and not allowance.drawn:
            return True
        if self.journal is None:
            return allowance is None or (self.committed_when_delivered and not allowance.undelivered)
        if retired.mark is None:
            retired.mark = await self.journal.mark_without(retired.request.lease_id)
            if retired.mark is None:
                return False
        first, _ = await self.journal.outbox_ends()
        return first == 0 or first > retired.mark

    async def _give_back(self, retired: _Retired) -> None:
        request = retired.request
        try:
            if retired.token is None:
                # Asked again, it is placed if it never was: the one way to be certain that nothing stays held.
                retired.token = (await self.checks.lease(request)).token
            if retired.token is not None:
                left = await self.checks.return_lease(request.lease_id, retired.token)
                _log.info("lease_returned", lease_id=str(request.lease_id), calls=left.calls)
        except LedgerRefused as refused:
            _log.info("lease_is_over", lease_id=str(request.lease_id), reason=refused.problem.detail)
        await self._forget(request)

    async def _forget(self, request: LeaseRequest) -> None:
        if self.journal is not None:
            await self.journal.forget_lease(request.lease_id)


def _request(check: LimitCheck, calls: int, ttl_seconds: int) -> LeaseRequest:
    fields = check.model_dump(include=set(_FROM_CHECK))
    if check.estimated_cost is not None:
        fields["estimated_cost"] = format_nanos(min(calls * check.estimated_cost, COST_NANOS_MAX))
    quantity = min(calls * check.quantity, LEASE_QUANTITY_MAX)
    return LeaseRequest(lease_id=uuid7(), calls=calls, quantity=quantity, ttl_seconds=ttl_seconds, **fields)


def _now() -> Clocks:
    return Clocks(time.monotonic(), datetime.now(UTC))
