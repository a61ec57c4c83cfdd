"""Runs requests: each once per idempotency key, and to its end even if the one who asked has gone."""

import asyncio
from dataclasses import dataclass, replace
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
from image_service.metering import Metering
from image_service.operations.base import AnyOperation
from image_service.outcomes import Completed, OutcomeStore
from image_service.providers.base import ProviderRequest
from image_service.providers.registry import Selection
from image_service.spool import Spool
from image_service.watching import Watch, Watches

#: After ledger_unavailable a repeat takes the same operation_id, and with it the hold that may exist, for so long.
#: Later, or later than half the hold, that hold might end under it, so then it is a new operation.
CLAIM_REUSE_SECONDS_MAX: Final = 60.0

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Request:
    """A request that is known to be good. ``request_hash`` stands for all of it; needed where there is a key.

    ``keep``: its outcome is to be had behind a URL. ``spool`` holds its uploads, and is cleared once it is over.
    """

    operation: AnyOperation
    request: ProviderRequest
    caller: Caller
    selection: Selection
    body_bytes: int
    key: str | None
    request_hash: str
    keep: bool
    spool: Spool


@dataclass(frozen=True)
class Ran:
    """An outcome, and whether it is the one of an earlier request."""

    outcome: Completed
    repeated: bool


@dataclass(frozen=True)
class Running:
    """An operation on its way: how far it is, and its outcome to come. ``repeated``: an earlier request started it."""

    watch: Watch
    task: asyncio.Task[Ran]
    repeated: bool = False

    async def begun(self) -> None:
        """Returns once it is admitted and recorded, or over."""
        waiting = asyncio.ensure_future(self.watch.begun.wait())
        await asyncio.wait({waiting, self.task}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()


@dataclass(frozen=True)
class _Current:
    request_hash: str
    run: "Running"


class Runs:
    def __init__(
        self,
        metering: Metering,
        journal: Journal,
        outcomes: OutcomeStore,
        background: Background,
        watches: Watches,
        *,
        repeat_wait_seconds: float,
        hold_seconds: float,
    ) -> None:
        self._metering = metering
        self._journal = journal
        self._outcomes = outcomes
        self._background = background
        self._watches = watches
        self._repeat_wait_seconds = repeat_wait_seconds
        self._claim_reuse_seconds = min(CLAIM_REUSE_SECONDS_MAX, hold_seconds / 2)
        #: By account and key: what runs in this process.
        self._current: dict[tuple[str, str], _Current] = {}

    def start(self, request: Request) -> Running:
        """Begin the operation, or join the one that runs with its key. It goes on whoever stops waiting for it.

        Raises ProblemError where the key came with another request. The task does so for all else.
        """
        place = (request.caller.account_id, request.key or "")
        current = self._current.get(place) if request.key is not None else None
        if current is not None:
            request.spool.clear()
            if current.request_hash != request.request_hash:
                raise _key_reused()
            return replace(current.run, repeated=True)
        watch = self._watches.open(uuid7(), request.caller.account_id, request.operation.name)
        watch.wanted = request.keep
        task = self._background.start(self._run(request, watch))
        running = Running(watch, task)
        if request.key is not None:
            self._current[place] = _Current(request.request_hash, running)
            task.add_done_callback(lambda _: self._current.pop(place))
        return running

    async def result(self, running: Running) -> Ran:
        """Its outcome. Raises ProblemError; cancelling the one who waits does not stop the operation."""
        if not running.repeated:
            return await asyncio.shield(running.task)
        try:
            async with asyncio.timeout(self._repeat_wait_seconds):
                first = await asyncio.shield(running.task)
        except TimeoutError:
            raise ProblemError(OPERATION_IN_PROGRESS, "the first request with this key has not ended yet") from None
        return Ran(first.outcome, repeated=True)

    async def _run(self, request: Request, watch: Watch) -> Ran:
        try:
            if request.key is None:
                return await self._perform(request, watch)
            return await self._run_once(request, request.key, watch)
        finally:
            self._watches.close(watch)
            if request.spool.has_files:
                await asyncio.to_thread(request.spool.clear)

    async def _perform(self, request: Request, watch: Watch) -> Ran:
        call = Call(
            operation_id=watch.operation_id,
            caller=request.caller,
            operation=request.operation,
            request=request.request,
            selection=request.selection,
            request_bytes=request.body_bytes,
            has_key=request.key is not None,
            keep=request.keep or request.key is not None,
        )
        return Ran(await self._metering.run(call, watch), repeated=False)

    async def _run_once(self, request: Request, key: str, watch: Watch) -> Ran:
        claim = Claim(request.caller.account_id, key, request.request_hash, watch.operation_id)
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
            if operation_id != watch.operation_id:
                watch = self._watches.rename(watch, operation_id)
            return await self._perform(request, watch)
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
        if not isinstance(outcome, Completed):
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
