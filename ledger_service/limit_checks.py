"""Limit checks: queue → decide → commit. Many checks, one transaction, one fsync."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

import orjson

from contracts.batching import MicroBatcher, QueueFullError
from contracts.leases import LeaseCheck
from contracts.limits import LimitCheck, PriceRef
from contracts.money import COST_NANOS_MAX
from contracts.problems import (
    CONFLICT,
    INTERNAL,
    OPERATION_FINISHED,
    OVERLOADED,
    RESERVATION_CLOSED,
    STORE_UNAVAILABLE,
    ProblemError,
    broken_rule,
)
from ledger_service.config import LEASE_GRACE_SECONDS_DEFAULT
from ledger_service.domain.alerts import Alert, next_amount, reached, thresholds_of, write_thresholds
from ledger_service.domain.counters import Balance, CounterKey, shares_of
from ledger_service.domain.decide import Claim, claims_of, decide, standing
from ledger_service.domain.leases import beyond_rule, lease_of
from ledger_service.domain.rating import Catalogue, CostTooLargeError, worst_case
from ledger_service.domain.terms import Terms
from ledger_service.metrics import CheckMetrics
from ledger_service.store.alerts import raise_alerts
from ledger_service.store.counters import Touched, callers_of, complete_counters, watch
from ledger_service.store.decisions import (
    Decided,
    Known,
    Moved,
    OperationKey,
    request_digest,
    write_decisions,
)
from ledger_service.store.pool import REFUSED, TRANSIENT, Connection, Pool, StoreUnavailableError, retrying
from ledger_service.store.prices import CatalogueCache
from ledger_service.store.terms import TermsCache, lock_for_checks

QUEUE_MAX: Final = 10_000
#: While one batch waits for its commit, a second is decided once so many checks wait.
OVERLAP_MIN: Final = 32
ATTEMPTS_MAX: Final = 3

Answer = bytes


class LimitChecks:
    """Decides limit checks in batches. Answers are durable before they are given: fsync is on, and awaited."""

    def __init__(
        self,
        pool: Pool,
        batch_max: int,
        ttl_seconds: int,
        default_plan_id: str | None,
        lease_grace_seconds: int = LEASE_GRACE_SECONDS_DEFAULT,
        metrics: CheckMetrics | None = None,
    ) -> None:
        self._pool = pool
        self._metrics = metrics or CheckMetrics()
        self._lease_grace_seconds = lease_grace_seconds
        self._ttl_seconds = ttl_seconds
        self._default_plan_id = default_plan_id
        self._terms = TermsCache()
        self._prices = CatalogueCache()
        self._batcher: MicroBatcher[LimitCheck, Answer] = MicroBatcher(
            self._handle, batch_max, QUEUE_MAX, OVERLAP_MIN, self._metrics.batch
        )
        self.run = self._batcher.run

    def check(self, check: LimitCheck) -> asyncio.Future[Answer]:
        """The decision as JSON (contracts.limits.Decision). The same check again gets the same bytes.

        Raises ProblemError (overloaded); ends in that, in another (conflict, operation_finished, reservation_closed) or
        in StoreUnavailableError. After the latter it is not certain whether the hold was placed; asking again tells,
        and a hold nobody knows of expires.
        """
        try:
            return self._batcher.submit(check)
        except QueueFullError:
            self._metrics.failed(OVERLOADED.code)
            raise _overloaded() from None

    async def check_many(self, checks: Sequence[LimitCheck]) -> list[Answer | Exception]:
        """As check, for many at once; in order, an exception in the place of an answer that there is none of."""
        try:
            waiting = self._batcher.submit_many(checks)
        except QueueFullError:
            self._metrics.failed(OVERLOADED.code, len(checks))
            raise _overloaded() from None
        return [
            answer if isinstance(answer, bytes | Exception) else _died(answer)
            for answer in await asyncio.gather(*waiting, return_exceptions=True)
        ]

    async def decide_moved(self, connection: Connection, check: LimitCheck, moved: Moved) -> "Decided":
        """Decides on one check as on any other, within the caller's transaction, under its lock of the account, where
        the hold of the same operation was taken out. To be rolled back where the decision is a denial.

        Raises ProblemError.
        """
        [answer], decided = await self._decide_in_transaction(connection, [check], moved)
        if isinstance(answer, Exception):
            raise answer
        return decided[0]

    async def _handle(self, checks: Sequence[LimitCheck]) -> list[Answer | Exception]:
        try:
            answers, decided = await self._decide_retrying(checks)
        except TRANSIENT as error:
            self._metrics.failed(STORE_UNAVAILABLE.code, len(checks))
            raise StoreUnavailableError(str(error)) from error
        except REFUSED as error:
            if len(checks) == 1:
                self._metrics.failed(INTERNAL.code)
                return [error]
            return [answer for check in checks for answer in await self._handle([check])]
        self._count(answers, decided)
        return answers

    def _count(self, answers: Sequence[Answer | Exception], decided: "Sequence[Decided]") -> None:
        denials = [str(one.verdict.body["denial"]["code"]) for one in decided if not one.verdict.allowed]
        self._metrics.decided(len(decided) - len(denials), denials)
        for answer in answers:
            if isinstance(answer, ProblemError):
                self._metrics.failed(answer.kind.code)

    async def _decide_retrying(self, checks: Sequence[LimitCheck]) -> "_Decided":
        async def once() -> _Decided:
            async with self._pool.acquire() as connection, connection.transaction():
                return await self._decide_in_transaction(connection, checks)

        return await retrying(once, ATTEMPTS_MAX)

    async def _decide_in_transaction(
        self, connection: Connection, checks: Sequence[LimitCheck], moved: Moved | None = None
    ) -> "_Decided":
        callers = callers_of(checks)
        locked = await lock_for_checks(connection, checks, callers, self._terms, self._default_plan_id)
        terms, now = locked.terms, locked.now
        priced = await self._priced(connection, checks, terms, now)
        if moved is not None:
            priced = [_beside(one, moved.billed_nanos) for one in priced]
        claims = [claims_of(one.check, terms[one.check.account_id], now) for one in priced]
        counters = await complete_counters(connection, locked.counters, callers, claims)
        batch = _BatchDecider(locked.known, counters.balances, terms, now, self._ttl_seconds, self._lease_grace_seconds)
        answers = [batch.answer(*one) for one in zip(checks, priced, claims, counters.touched, strict=True)]
        if batch.decided:
            await write_decisions(connection, batch.decided, now, counters.placed(), moved)
        await _warn(connection, batch.claims, counters.balances, now)
        return answers, batch.decided

    async def _priced(
        self, connection: Connection, checks: Sequence[LimitCheck], terms: dict[str, Terms], now: datetime
    ) -> "list[_Priced]":
        """Every check with a cost to hold: its own estimate, else the worst case that is known."""
        if all(check.estimated_cost is not None for check in checks):
            return [_Priced(check) for check in checks]
        catalogue = await self._prices.get(connection)
        return [_price(check, catalogue, terms[check.account_id], now) for check in checks]


class _Priced(NamedTuple):
    """A check with the cost that it is held at, where one is known, and the price that this came from; or the reason
    why it cannot be held at any."""

    check: LimitCheck
    price: PriceRef | None = None
    problem: ProblemError | None = None


def _price(check: LimitCheck, catalogue: Catalogue, terms: Terms, now: datetime) -> _Priced:
    if check.estimated_cost is not None:
        return _Priced(check)
    try:
        rated = worst_case(catalogue, check, now)
    except CostTooLargeError as error:
        return _Priced(check, problem=broken_rule("quantity", "cost_range", str(error)))
    if rated is not None:
        price = PriceRef.model_construct(
            version=rated.version, valid_from=rated.valid_from, unit_price=rated.unit_price_nanos
        )
        return _Priced(check.model_copy(update={"estimated_cost": rated.cost_nanos}), price)
    ceiling = terms.plan.unpriced_unit_ceiling if terms.plan else None
    if ceiling is None:
        return _Priced(check)
    cost = ceiling * check.quantity
    if cost > COST_NANOS_MAX and isinstance(check, LeaseCheck):
        # Its operations may cost that together: held at less, they could go beyond their limit.
        message = (
            f"at the plan's ceiling, {check.quantity} units cost more than a lease may: ${COST_NANOS_MAX // 10**9}"
        )
        return _Priced(check, problem=broken_rule("quantity", "cost_range", message))
    # No operation may cost more.
    return _Priced(check.model_copy(update={"estimated_cost": min(cost, COST_NANOS_MAX)}))


def _beside(priced: _Priced, billed_nanos: int) -> _Priced:
    """Held at that much more, which was billed already; where it has no price, it still has none."""
    cost = priced.check.estimated_cost
    if cost is None or not billed_nanos:
        return priced
    if cost + billed_nanos > COST_NANOS_MAX:
        return priced._replace(problem=broken_rule("billed", "cost_range", "more than an operation may cost"))
    return priced._replace(check=priced.check.model_copy(update={"estimated_cost": cost + billed_nanos}))


class _BatchDecider:
    """Decides the checks of one batch one after another, each seeing the holds of those before it."""

    def __init__(
        self,
        known: dict[OperationKey, Known],
        balances: dict[CounterKey, Balance],
        terms: dict[str, Terms],
        now: datetime,
        ttl_seconds: int,
        lease_grace_seconds: int,
    ) -> None:
        self._lease_grace_seconds = lease_grace_seconds
        self._known = known
        self._balances = balances
        self._terms = terms
        self._now = now
        self._ttl_seconds = ttl_seconds
        self.decided: list[Decided] = []
        #: Of every decision, denials too: what is used up may have become so without a check.
        self.claims: list[Claim] = []

    def answer(
        self, check: LimitCheck, priced: _Priced, claims: list[Claim], touched: list[Touched]
    ) -> Answer | Exception:
        check_json = check.model_dump_json(exclude_none=True).encode()
        digest = request_digest(check_json)
        key = OperationKey(check.account_id, check.operation_id)
        known = None if check.dry_run else self._known.get(key)
        if known is not None:
            return _repeat(check.operation_id, digest, known)
        if priced.problem is not None:
            return priced.problem
        ttl_seconds = check.ttl_seconds or self._ttl_seconds
        terms = self._terms[check.account_id]
        if isinstance(check, LeaseCheck):
            excess = beyond_rule(check, terms)
            if excess is not None:
                return broken_rule(excess.field, "fail_mode", excess.message)
            leased = lease_of(check, terms)
            ttl_seconds = self._lease_grace_seconds + (leased.ttl_seconds if leased else 0)
        verdict = decide(priced.check, terms, claims, self._balances, self._now, ttl_seconds, priced.price)
        decision_json = orjson.dumps(verdict.body, option=orjson.OPT_UTC_Z)
        if not check.dry_run:
            if verdict.allowed:
                shares = shares_of(priced.check)
                for counter in touched:
                    counter.balance.held += shares[counter.meter]
            self.claims += claims
            self.decided.append(Decided(priced.check, check_json, verdict, decision_json, digest))
            self._known[key] = Known(digest, decision_json, "held" if verdict.allowed else "denied")
        return decision_json


async def _warn(
    connection: Connection, decided: Sequence[Claim], balances: dict[CounterKey, Balance], now: datetime
) -> None:
    """Raises what the limits of these decisions have reached, and tells ingest what else to look for."""
    alerts: list[Alert] = []
    watched: dict[CounterKey, dict[str, Claim]] = {}
    by_grants: dict[tuple[CounterKey, str], Claim] = {}
    for claim in decided:
        if not claim.applied.limit.thresholds and balances[claim.key].watched is None:
            continue  # else there were some, which ingest is to forget
        if claim.credit is None:
            watched.setdefault(claim.key, {})[claim.limit.limit_id] = claim
        else:
            by_grants[claim.key, claim.limit.limit_id] = claim
    for claim in by_grants.values():  # what is reached depends on its grants, which ingest knows nothing of
        stands = standing(claim, balances)
        alerts += reached(thresholds_of(claim.limit, stands.maximum), claim.key, claim.limit.meter, stands.used)
    watches: dict[CounterKey, tuple[str | None, int | None]] = {}
    for key, claims in watched.items():
        balance = balances[key]
        thresholds = [
            threshold
            for claim in claims.values()
            for threshold in thresholds_of(claim.limit, claim.limit.maximum_amount)
        ]
        text = write_thresholds(thresholds)
        if text == balance.watched and (balance.warn_at is None or balance.used < balance.warn_at):
            continue
        alerts += reached(thresholds, key, next(iter(claims.values())).limit.meter, balance.used)
        watches[key] = (text, next_amount(thresholds, balance.used))
    await raise_alerts(connection, alerts, now)
    if watches:
        await watch(connection, watches)


_Decided: TypeAlias = tuple[list[Answer | Exception], list[Decided]]


def _overloaded() -> ProblemError:
    return ProblemError(OVERLOADED, f"{QUEUE_MAX} limit checks are waiting")


def _died(error: BaseException) -> Exception:
    raise error  # cancelled: the ledger stops


def _repeat(operation_id: UUID, digest: bytes, known: Known) -> Answer | Exception:
    if known.decision_json is None:
        detail = f"operation {operation_id} has an outcome already; there is nothing left to check"
        return ProblemError(OPERATION_FINISHED, detail)
    if known.request_digest != digest:
        return ProblemError(CONFLICT, f"operation {operation_id} was checked before with another body")
    if known.state in ("released", "expired"):
        # The first answer would let the caller go ahead with nothing held for it.
        return ProblemError(
            RESERVATION_CLOSED, f"the reservation of operation {operation_id} is {known.state}: check with a new id"
        )
    return known.decision_json
