"""Runs requests: each once per idempotency key, and to its end even if the one who asked has gone."""

import asyncio
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from contracts.client import JournalUnavailableError, LedgerRefused
from contracts.client.background import Background
from contracts.client.journal import Claim, Journal, KeptOperation
from contracts.identifiers import uuid7
from contracts.problems import (
    IDEMPOTENCY_KEY_REUSED,
    LEDGER_UNAVAILABLE,
    OPERATION_FAILED,
    OPERATION_FINISHED,
    OPERATION_IN_PROGRESS,
    RECORDING_UNAVAILABLE,
    Problem,
    ProblemError,
    ProblemType,
)
from image_service.calls import Call, Caller
from image_service.images import SourceImage
from image_service.metering import Metering
from image_service.operations.base import AnyOperation, Parameters
from image_service.outcomes import Completed, OutcomeStore
from image_service.providers.registry import Selection

#: After ledger_unavailable a repeat takes the same operation_id, and with it the hold that may exist, for so long.
#: Later, or later than half the hold, that hold might end under it, so then it is a new operation.
CLAIM_REUSE_SECONDS_MAX: Final = 60.0

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Request:
    """A request that is known to be good. ``request_hash`` stands for all of it; needed where there is a key."""

    operation: AnyOperation
    parameters: Parameters
    source: SourceImage | None
    caller: Caller
    selection: Selection
    body_bytes: int
    key: str | None
    request_hash: str


@dataclass(frozen=True)
class Ran:
    """An outcome, and whether it is the one of an earlier request."""

    outcome: Completed
    repeated: bool


@dataclass(frozen=True)
class _Current:
    request_hash: str
    task: asyncio.Task[Ran]


class Runs:
    def __init__(
        self,
        metering: Metering,
        journal: Journal,
        outcomes: OutcomeStore,
        background: Background,
        *,
        repeat_wait_seconds: float,
        hold_seconds: float,
    ) -> None:
        self._metering = metering
        self._journal = journal
        self._outcomes = outcomes
        self._background = background
        self._repeat_wait_seconds = repeat_wait_seconds
        self._claim_reuse_seconds = min(CLAIM_REUSE_SECONDS_MAX, hold_seconds / 2)
        #: By account and key: what runs in this process.
        self._current: dict[tuple[str, str], _Current] = {}

    async def run(self, request: Request) -> Ran:
        """The outcome of the operation. Raises ProblemError; cancelling the caller does not stop the operation."""
        if request.key is None:
            return await asyncio.shield(self._background.start(self._perform(request, uuid7())))
        place = (request.caller.account_id, request.key)
        current = self._current.get(place)
        if current is not None:
            return await self._wait_for(current, request.request_hash)
        task = self._background.start(self._run_once(request, request.key))
        self._current[place] = _Current(request.request_hash, task)
        task.add_done_callback(lambda _: self._current.pop(place))
        return await asyncio.shield(task)

    async def _perform(self, request: Request, operation_id: UUID) -> Ran:
        operation = request.operation
        call = Call(
            operation_id=operation_id,
            caller=request.caller,
            operation=operation.name,
            selection=request.selection,
            endpoint=operation.path,
            request_bytes=request.body_bytes,
            keep=request.key is not None,
        )
        async with self._metering.operation(call) as metered:
            provider = operation.capability(metered.provider)
            metered.deliver(await operation.run(provider, request.selection.model, request.parameters, request.source))
        return Ran(metered.completed, repeated=False)

    async def _wait_for(self, current: _Current, request_hash: str) -> Ran:
        if current.request_hash != request_hash:
            raise _key_reused()
        try:
            async with asyncio.timeout(self._repeat_wait_seconds):
                first = await asyncio.shield(current.task)
        except TimeoutError:
            raise ProblemError(OPERATION_IN_PROGRESS, "the first request with this key has not ended yet") from None
        return Ran(first.outcome, repeated=True)

    async def _run_once(self, request: Request, key: str) -> Ran:
        claim = Claim(request.caller.account_id, key, request.request_hash, uuid7())
        try:
            kept = await self._journal.claim(claim)
            if kept is not None and kept.request_hash != request.request_hash:
                raise _key_reused()
            if kept is not None and kept.state == "finished":
                return await self._repeat(kept)
            if kept is not None and kept.state == "intent":
                raise ProblemError(
                    OPERATION_IN_PROGRESS,
                    "the outcome of the operation with this key is still being recorded",
                    operation_id=str(kept.operation_id),
                )
            operation_id = claim.operation_id if kept is None else await self._reclaim(kept, claim)
        except JournalUnavailableError as error:
            raise ProblemError(RECORDING_UNAVAILABLE, "the idempotency key could not be recorded") from error
        try:
            return await self._perform(request, operation_id)
        except ProblemError as error:
            # A failed operation is an outcome and is kept. Where nothing was started, the key is free again, except
            # that a check without an answer keeps its operation_id: the repeat then finds the hold it may have.
            if error.kind not in (OPERATION_FAILED, LEDGER_UNAVAILABLE):
                await self._forget(operation_id)
            raise
        except LedgerRefused:
            await self._forget(operation_id)
            raise

    async def _reclaim(self, kept: KeptOperation, claim: Claim) -> UUID:
        """The operation id for a key that was claimed before and never got further."""
        if kept.age_seconds <= self._claim_reuse_seconds:
            return kept.operation_id
        await self._journal.forget(kept.operation_id)
        await self._journal.claim(claim)
        return claim.operation_id

    async def _repeat(self, kept: KeptOperation) -> Ran:
        if kept.problem is not None:
            raise _KeptProblemError(Problem.model_validate_json(kept.problem))
        outcome = await asyncio.to_thread(self._outcomes.load, kept.operation_id)
        if outcome is None:
            raise ProblemError(
                OPERATION_FINISHED,
                "the operation was done, but its result is no longer kept",
                operation_id=str(kept.operation_id),
            )
        return Ran(outcome, repeated=True)

    async def _forget(self, operation_id: UUID) -> None:
        try:
            await self._journal.forget(operation_id)
        except JournalUnavailableError as error:  # the claim then only delays the key's reuse
            _log.warning("key_not_freed", operation_id=str(operation_id), reason=str(error))


class _KeptProblemError(ProblemError):
    """The problem that the first request was told, again."""

    def __init__(self, kept: Problem) -> None:
        super().__init__(ProblemType(kept.code, kept.status, kept.title), kept.detail)
        self.problem = kept


def _key_reused() -> ProblemError:
    return ProblemError(IDEMPOTENCY_KEY_REUSED, "this key came before with another request; use a new one")
