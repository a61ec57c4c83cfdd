"""Limit checks: queue → decide → commit. Many checks, one transaction, one fsync."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from contracts.limits import LimitCheck
from contracts.problems import CONFLICT, OPERATION_FINISHED, OVERLOADED, ProblemError
from ledger_service.batching import MicroBatcher, QueueFullError
from ledger_service.domain.counters import Balance, CounterKey
from ledger_service.domain.decide import Claim, Terms, claims_of, decide, hold
from ledger_service.store.accounts import PlanCache, lock_terms
from ledger_service.store.counters import read_balances
from ledger_service.store.decisions import (
    Decided,
    Known,
    OperationKey,
    find_known,
    request_digest,
    write_decisions,
)
from ledger_service.store.pool import REFUSED, RETRYABLE, UNAVAILABLE, Connection, Pool, StoreUnavailableError

QUEUE_MAX: Final = 10_000
#: While one batch waits for its commit, a second is decided once so many checks wait.
OVERLAP_MIN: Final = 16
ATTEMPTS_MAX: Final = 3

Answer = bytes


class LimitChecks:
    """Decides limit checks in batches. Answers are durable before they are given: fsync is on, and awaited."""

    def __init__(self, pool: Pool, batch_max: int, ttl_seconds: int, default_plan_id: str | None) -> None:
        self._pool = pool
        self._ttl_seconds = ttl_seconds
        self._default_plan_id = default_plan_id
        self._plans = PlanCache()
        self._batcher: MicroBatcher[LimitCheck, Answer] = MicroBatcher(self._handle, batch_max, QUEUE_MAX, OVERLAP_MIN)
        self.run = self._batcher.run

    async def check(self, check: LimitCheck) -> Answer:
        """The decision as JSON (contracts.limits.Decision). The same check again gets the same bytes.

        Raises ProblemError (conflict, operation_finished, overloaded) and StoreUnavailableError. After the latter it
        is not certain whether the hold was placed; asking again tells, and a hold nobody knows of expires.
        """
        try:
            return await self._batcher.submit(check)
        except QueueFullError:
            raise ProblemError(OVERLOADED, f"{QUEUE_MAX} limit checks are waiting") from None

    async def _handle(self, checks: Sequence[LimitCheck]) -> list[Answer | Exception]:
        try:
            return await self._decide_retrying(checks)
        except UNAVAILABLE as error:
            raise StoreUnavailableError(str(error)) from error
        except REFUSED as error:
            if len(checks) == 1:
                return [error]
            return [answer for check in checks for answer in await self._handle([check])]

    async def _decide_retrying(self, checks: Sequence[LimitCheck]) -> list[Answer | Exception]:
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                async with self._pool.acquire() as connection, connection.transaction():
                    return await self._decide_in_transaction(connection, checks)
            except RETRYABLE:
                if attempt == ATTEMPTS_MAX:
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _decide_in_transaction(
        self, connection: Connection, checks: Sequence[LimitCheck]
    ) -> list[Answer | Exception]:
        accounts = {check.account_id for check in checks}
        terms = await lock_terms(connection, accounts, self._plans, self._default_plan_id)
        known, now = await find_known(connection, {operation_key(check) for check in checks})
        claims = [claims_of(check, terms[check.account_id], now) for check in checks]
        balances = await read_balances(connection, (claim for some in claims for claim in some))
        batch = _BatchDecider(known, balances, terms, now, self._ttl_seconds)
        answers = [batch.answer(check, mine) for check, mine in zip(checks, claims, strict=True)]
        if batch.decided:
            await write_decisions(connection, batch.decided)
        return answers


class _BatchDecider:
    """Decides the checks of one batch one after another, each seeing the holds of those before it."""

    def __init__(
        self,
        known: dict[OperationKey, Known],
        balances: dict[CounterKey, Balance],
        terms: dict[str, Terms],
        now: datetime,
        ttl_seconds: int,
    ) -> None:
        self._known = known
        self._balances = balances
        self._terms = terms
        self._now = now
        self._ttl_seconds = ttl_seconds
        self.decided: list[Decided] = []

    def answer(self, check: LimitCheck, claims: list[Claim]) -> Answer | Exception:
        check_json = check.model_dump_json(exclude_none=True)
        digest = request_digest(check_json)
        known = None if check.dry_run else self._known.get(operation_key(check))
        if known is not None:
            return _repeat(check.operation_id, digest, known)
        ttl_seconds = check.ttl_seconds or self._ttl_seconds
        terms = self._terms[check.account_id]
        decision = decide(check, terms, claims, self._balances, self._now, ttl_seconds)
        decision_json = decision.model_dump_json().encode()
        if not check.dry_run:
            if decision.allowed:
                hold(claims, self._balances)
            self.decided.append(Decided(check, check_json, decision, decision_json, digest))
            self._known[operation_key(check)] = Known(digest, decision_json, finished=False)
        return decision_json


def operation_key(check: LimitCheck) -> OperationKey:
    return OperationKey(check.account_id, check.operation_id)


def _repeat(operation_id: UUID, digest: bytes, known: Known) -> Answer | Exception:
    if known.decision_json is None:
        detail = f"operation {operation_id} has an outcome already; there is nothing left to check"
        return ProblemError(OPERATION_FINISHED, detail)
    if known.request_digest != digest:
        return ProblemError(CONFLICT, f"operation {operation_id} was checked before with another body")
    return known.decision_json
