"""Limit checks as they travel: while a request is on its way, further checks queue; the next request takes them all."""

import asyncio
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from contracts import spans
from contracts.batching import MicroBatcher, QueueFullError
from contracts.client.asking import NotSentError, Question, Transport
from contracts.client.background import stop
from contracts.client.errors import LedgerRefused
from contracts.client.reading import UnusableAnswerError, accepted, read, refusal
from contracts.limits import Decision, LimitCheck, LimitCheckBatchAnswer
from contracts.problems import TOO_LARGE, Problem
from contracts.subjects import LIMITS_CHECK, LIMITS_CHECK_BATCH
from contracts.tracing import TraceContext, current

#: What goes in one request: its answer should fit into one message of NATS (1 MiB).
CHECKS_PER_REQUEST_MAX: Final = 100
BYTES_PER_REQUEST_MAX: Final = 500_000
#: One is on its way at a time, so that checks share the ledger's transactions, which wait for each other anyway. The
#: next one goes all the same where so many wait, or that one takes longer: who hangs keeps only what is in it.
REQUESTS_AT_ONCE: Final = 4
SLOW_SECONDS: Final = 0.02
OVERLAP_MIN: Final = 32
WAITING_MAX: Final = 10_000

Answer = Decision | Problem


@dataclass(frozen=True)
class _Waiting:
    operation_id: UUID
    body: bytes
    #: Of the operation that it is about.
    trace: TraceContext | None


class CheckBatches:
    """One attempt for each check, however many share it.

    An answer is the decision or the problem of that check alone. Raises what the transport raises, LedgerRefused where
    the request as a whole is refused, UnusableAnswerError where its answer makes no sense or it failed for now.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._batcher: MicroBatcher[_Waiting, Answer] = MicroBatcher(
            self._handle, CHECKS_PER_REQUEST_MAX, WAITING_MAX, OVERLAP_MIN, slow_seconds=SLOW_SECONDS
        )
        #: Made by the first check, as only then there is an event loop for certain.
        self._senders: list[asyncio.Task[None]] = []

    async def close(self) -> None:
        """Nothing more is sent."""
        for sender in self._senders:
            await stop(sender)

    async def decide(self, check: LimitCheck) -> Decision:
        """The decision on it. Cancelled while it still queues, it is not sent."""
        if not self._senders:
            # In a context of their own: they serve all operations, and not the one that came first.
            self._senders = [
                asyncio.create_task(self._batcher.run(), context=Context()) for _ in range(REQUESTS_AT_ONCE)
            ]
        try:
            answer = await self._batcher.submit(_waiting(check))
        except QueueFullError:
            raise NotSentError(f"{WAITING_MAX} checks wait for the ledger") from None
        if isinstance(answer, Problem):
            raise refusal(answer)
        return answer

    async def decide_many(self, checks: Sequence[LimitCheck]) -> list[Answer]:
        """The answers in their order, past the queue: these are a batch already."""
        return await self._ask([_waiting(check) for check in checks])

    async def _handle(self, waiting: Sequence[_Waiting]) -> Sequence[Answer]:
        return [await self._ask_one(waiting[0])] if len(waiting) == 1 else await self._ask(waiting)

    async def _ask_one(self, one: _Waiting) -> Decision:
        question = Question("/v1/limit-checks", one.body, LIMITS_CHECK, one.body, one.trace)
        reply = accepted(await self._transport.ask(question))
        return _about(read(Decision, reply.body), one)

    async def _ask(self, waiting: Sequence[_Waiting]) -> list[Answer]:
        if sum(len(one.body) for one in waiting) > BYTES_PER_REQUEST_MAX and len(waiting) > 1:
            return await self._ask_halves(waiting)
        body = b'{"checks":[' + b",".join(one.body for one in waiting) + b"]}"
        try:
            # One request for several operations is in none of their traces, but in one of its own that names them.
            links = [one.trace for one in waiting if one.trace is not None]
            with spans.span("limit checks", spans.CLIENT, {"ledger.checks": len(waiting)}, links=links):
                reply = accepted(
                    await self._transport.ask(Question("/v1/limit-checks:batch", body, LIMITS_CHECK_BATCH, body))
                )
        except LedgerRefused as refused:
            if refused.problem.status != TOO_LARGE.status or len(waiting) == 1:
                raise
            # Accounts with very many limits: the same checks again, half of them at once, get the same answers.
            return await self._ask_halves(waiting)
        found = [result.decision or result.problem for result in read(LimitCheckBatchAnswer, reply.body).results]
        answers = [answer for answer in found if answer is not None]
        if len(answers) != len(waiting):
            raise UnusableAnswerError(f"{len(answers)} answers to {len(waiting)} checks")
        return [
            answer if isinstance(answer, Problem) else _about(answer, one)
            for answer, one in zip(answers, waiting, strict=True)
        ]

    async def _ask_halves(self, waiting: Sequence[_Waiting]) -> list[Answer]:
        half = len(waiting) // 2
        return [*await self._ask(waiting[:half]), *await self._ask(waiting[half:])]


def _waiting(check: LimitCheck) -> _Waiting:
    return _Waiting(check.operation_id, check.model_dump_json(exclude_none=True).encode(), current())


def _about(decision: Decision, one: _Waiting) -> Decision:
    if decision.operation_id != one.operation_id:
        raise UnusableAnswerError("the decision is on another operation")
    return decision
