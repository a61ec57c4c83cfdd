"""Limit checks, releases and extensions: safe to repeat, and repeated, within one bounded time."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

from pydantic import ValidationError

from contracts.client.asking import AnswerLostError, NotSentError, Question, Reply, Transport
from contracts.client.check_batches import CHECKS_PER_REQUEST_MAX, CheckBatches
from contracts.client.errors import LedgerRefused, LedgerUnavailable
from contracts.client.reading import UnusableAnswerError, accepted, read
from contracts.leases import Lease, LeaseRequest, LeaseReturn, LeaseReturned
from contracts.limits import CHECKS_PER_BATCH_MAX, Decision, LimitCheck
from contracts.prices import RateAnswer, RateQuery
from contracts.problems import NOT_FOUND, Problem, broken_rule, invalid
from contracts.reservations import ReservationExtension, ReservationMove, ReservationRef, ReservationState
from contracts.subjects import (
    LEASES_PLACE,
    LEASES_RETURN,
    RESERVATIONS_EXTEND,
    RESERVATIONS_MOVE,
    RESERVATIONS_RELEASE,
)

ATTEMPTS_MAX: Final = 3
RETRY_PAUSE_SECONDS: Final = 0.05

T = TypeVar("T")
Reference = TypeVar("Reference", bound=ReservationRef)


class Checks:
    """Raises, whatever is asked: LedgerUnavailable within ``timeout_seconds``, and LedgerRefused."""

    def __init__(self, transport: Transport, timeout_seconds: float) -> None:
        self._transport = transport
        self._batches = CheckBatches(transport)
        self._timeout_seconds = timeout_seconds

    async def check(self, check: LimitCheck) -> Decision:
        """The decision on an operation. Idempotent by ``operation_id``."""
        return await self._repeat(lambda: self._batches.decide(check))

    async def check_many(self, checks: Sequence[LimitCheck]) -> list[Decision | Problem]:
        """Up to 1,000 of them, each decided on its own; the answers in their order. Idempotent."""
        if len(checks) > CHECKS_PER_BATCH_MAX:
            raise broken_rule("checks", "too_long", f"at most {CHECKS_PER_BATCH_MAX} at once, these are {len(checks)}")
        portions = [
            checks[first : first + CHECKS_PER_REQUEST_MAX] for first in range(0, len(checks), CHECKS_PER_REQUEST_MAX)
        ]
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(self._check_portion(portion)) for portion in portions]
        except* (LedgerUnavailable, LedgerRefused) as group:
            raise group.exceptions[0] from None
        return [answer for portion in running for answer in portion.result()]

    async def _check_portion(self, checks: Sequence[LimitCheck]) -> list[Decision | Problem]:
        return await self._repeat(lambda: self._batches.decide_many(checks))

    async def release(self, operation_id: UUID, account_id: str | None) -> bool:
        """Give a hold back; False where there is none (yet). Refused where the operation is settled. Idempotent."""
        about = _valid(ReservationRef, operation_id=operation_id, account_id=account_id)
        try:
            return await self._ask(_question("release", RESERVATIONS_RELEASE, about), lambda _: True)
        except LedgerRefused as refused:
            if refused.problem.status == NOT_FOUND.status:
                return False
            raise

    async def extend(self, operation_id: UUID, ttl_seconds: int, account_id: str | None) -> datetime:
        """Keep an open hold for so long from now; when it ends. Refused where there is none, or it is over."""
        about = _valid(ReservationExtension, operation_id=operation_id, account_id=account_id, ttl_seconds=ttl_seconds)

        def end(reply: Reply) -> datetime:
            state = read(ReservationState, reply.body)
            if state.expires_at is None:
                raise UnusableAnswerError(f"extended, and yet {state.state}")
            return state.expires_at

        return await self._ask(_question("extend", RESERVATIONS_EXTEND, about), end)

    async def move(self, move: ReservationMove) -> Decision:
        """The decision on moving an open hold to another provider; denied, it stays what it was. Idempotent while it is
        where this move brought it. Refused where there is no such hold, it is over, or it was moved meanwhile."""

        def decision(reply: Reply) -> Decision:
            made = read(Decision, reply.body)
            if made.operation_id != move.operation_id:
                raise UnusableAnswerError("the decision is on another operation")
            return made

        return await self._ask(_question("move", RESERVATIONS_MOVE, move), decision)

    async def lease(self, request: LeaseRequest) -> Lease:
        """An allowance for several operations, or a denial. Idempotent by ``lease_id``."""
        body = request.model_dump_json(exclude_none=True).encode()

        def lease(reply: Reply) -> Lease:
            made = read(Lease, reply.body)
            if made.lease_id != request.lease_id:
                raise UnusableAnswerError("the answer is on another lease")
            return made

        return await self._ask(Question("/v1/leases", body, LEASES_PLACE, body), lease)

    async def return_lease(self, lease_id: UUID, token: str) -> LeaseReturned:
        """What was left of it, and is given back. Refused where it is over: so is the second of two attempts."""
        body = LeaseReturn(token=token).model_dump_json(exclude_none=True).encode()
        question = Question(f"/v1/leases/{lease_id}:return", body, LEASES_RETURN, body)
        return await self._ask(question, lambda reply: read(LeaseReturned, reply.body))

    async def rate(self, query: RateQuery) -> RateAnswer:
        """What the price catalogue has for it. Over HTTP alone: there is no subject for it."""
        body = query.model_dump_json(exclude_none=True).encode()
        return await self._ask(Question("/v1/prices:rate", body, "", body), lambda reply: read(RateAnswer, reply.body))

    async def is_ready(self) -> bool:
        """Whether the ledger says that it can decide."""
        return await self._transport.is_ready()

    async def close(self) -> None:
        await self._batches.close()
        await self._transport.close()

    async def _ask(self, question: Question, understand: Callable[[Reply], T]) -> T:
        async def attempt() -> T:
            return understand(accepted(await self._transport.ask(question)))

        return await self._repeat(attempt)

    async def _repeat(self, attempt: Callable[[], Awaitable[T]]) -> T:
        failures: list[str] = []
        sent = False
        try:
            async with asyncio.timeout(self._timeout_seconds):
                for number in range(ATTEMPTS_MAX):
                    if number:
                        await asyncio.sleep(RETRY_PAUSE_SECONDS * number * random.uniform(1, 2))  # noqa: S311  jitter
                    try:
                        return await attempt()
                    except NotSentError as error:
                        failures.append(str(error))
                    except (AnswerLostError, UnusableAnswerError) as error:
                        sent = True
                        failures.append(str(error))
                    except asyncio.CancelledError:
                        sent = True
                        raise
        except TimeoutError:
            failures.append(f"no answer within {self._timeout_seconds:g} s")
        raise LedgerUnavailable(_told(failures), outcome_unknown=sent)


def _told(failures: list[str]) -> str:
    """Each once: three attempts mostly fail alike."""
    times = Counter(failures)
    return "; ".join(reason if count == 1 else f"{reason} ({count} times)" for reason, count in times.items())


def _valid(model: type[Reference], **fields: object) -> Reference:
    """Raises ProblemError, naming field and rule."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise invalid(error) from error


def _question(verb: str, subject: str, about: ReservationRef) -> Question:
    # Over HTTP the operation is in the path.
    body = about.model_dump_json(exclude_none=True, exclude={"operation_id"}).encode()
    path = f"/v1/reservations/{about.operation_id}:{verb}"
    return Question(path, body, subject, about.model_dump_json(exclude_none=True).encode())
