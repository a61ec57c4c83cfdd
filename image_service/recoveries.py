"""What became of calls that nobody answers for: their process died, or their answer was lost."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.client import InDoubt, RecoveredCompletion, RecoveredFailure, Recovery
from contracts.events import OUTCOME_UNKNOWN, OperationRequested
from contracts.provider_calls import ProviderCall
from image_service.outcomes import Completed, Failed, Outcome, OutcomeStore, failure_problem
from image_service.pricing import Pricing
from image_service.providers.attempt import Attempt
from image_service.providers.base import OutcomeUnknownError, Provider, ProviderError, ProviderResult, StillRunning
from image_service.providers.jobs import invoiced_ids
from image_service.providers.registry import Providers
from image_service.watching import Watches

#: Between two looks at a job, when looking fails.
TROUBLE_SECONDS_FIRST: Final = 1.0
TROUBLE_SECONDS_MAX: Final = 60.0

_log = structlog.stdlib.get_logger(__name__)


class CallNote(BaseModel):
    """What the journal keeps with the intent: who was called last, which job it is, what earlier attempts billed (and
    which ones those were), what this one is held at (None: at the operation's estimate), and what was ordered of it:
    units and attributes of its own quote (None: those of the request)."""

    model_config = ConfigDict(frozen=True)

    provider: str
    model: str
    job_id: str | None = None
    billed_nanos: int = 0
    held_nanos: int | None = None
    quantity: int | None = None
    attributes: dict[str, str | int] = {}
    earlier: tuple[ProviderCall, ...] = ()

    def calls(self, cost_nanos: int) -> tuple[ProviderCall, ...]:
        """All of the operation's, of which this one came to so much."""
        return (*self.earlier, provider_call(self.provider, self.model, self.job_id, cost_nanos))


class Recoveries:
    """``doubt_seconds``: from the request on; what is not known by then is recorded in doubt."""

    def __init__(
        self,
        providers: Providers,
        outcomes: OutcomeStore,
        watches: Watches,
        *,
        spool_folder: Path,
        doubt_seconds: float,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._providers = providers
        self._outcomes = outcomes
        self._watches = watches
        self._spool_folder = spool_folder
        self._doubt_seconds = doubt_seconds
        self._clock = clock
        #: Set once there is a ledger to ask; the client needs this object first.
        self.pricing: Pricing | None = None

    async def recover(self, requested: OperationRequested, note: str | None) -> Recovery:
        """Asks the provider, again and again while the job runs, until the deadline. See contracts.client.Recover."""
        call = _call_of(requested, note)
        provider = self._providers.find(call.provider)
        if provider is None:
            return _doubt(f"the provider {call.provider} is no longer configured", requested, call)
        data = requested.data
        is_left_over = self._watches.find(data.operation_id) is None
        watch = self._watches.open(data.operation_id, data.account_id, data.operation)
        watch.begun.set()
        watch.progress(None, "recovering")

        async def keep_job(job_id: str) -> None:
            del job_id  # it is in the note already

        attempt = Attempt(
            data.operation_id,
            data.operation,
            spool_folder=self._spool_folder,
            deadline_seconds=self._doubt_seconds,
            keep_job=keep_job,
            on_progress=watch.progress,
        )
        try:
            found = await self._look_until_known(provider, requested, call, attempt)
            if isinstance(found, ProviderResult):
                return await self._delivered(requested, call, attempt, found)
            code = found.code if isinstance(found, RecoveredFailure) else OUTCOME_UNKNOWN
            problem = failure_problem(data.operation_id, call.provider, call.model, code, found.message).problem
            await self._keep(Failed(data.operation_id, data.account_id, data.operation, problem))
            return found
        finally:
            await attempt.discard()
            if is_left_over:
                self._watches.close(watch)

    async def _look_until_known(
        self, provider: Provider, requested: OperationRequested, call: CallNote, attempt: Attempt
    ) -> ProviderResult | RecoveredFailure | InDoubt:
        left_seconds = self._doubt_seconds - (self._clock() - requested.time).total_seconds()
        deadline = time.monotonic() + left_seconds
        trouble = TROUBLE_SECONDS_FIRST
        why = "the job had not ended"
        while True:
            try:
                async with asyncio.timeout(self._doubt_seconds):
                    found = await provider.recover(call.model, call.job_id, attempt)
            except ProviderError as error:
                cost = await self._cost(error.cost_nanos, requested, call, attempt)
                return RecoveredFailure(
                    error.code, error.message, cost + call.billed_nanos, call.provider, call.model, call.calls(cost)
                )
            except OutcomeUnknownError as error:
                return _doubt(str(error), requested, call)
            except Exception as error:  # noqa: BLE001  the provider's trouble of the moment, whatever it is
                _log.warning("recovery_delayed", operation_id=str(attempt.operation_id), reason=repr(error))
                why = f"its provider could not be asked ({type(error).__name__})"
                pause, trouble = trouble, min(trouble * 2, TROUBLE_SECONDS_MAX)
            else:
                if not isinstance(found, StillRunning):
                    return found
                pause, trouble, why = found.ask_again_seconds, TROUBLE_SECONDS_FIRST, "the job had not ended"
            left = deadline - time.monotonic()
            if left <= 0:
                return _doubt(f"{why} {self._doubt_seconds:g} s after the request", requested, call)
            await asyncio.sleep(min(pause, left))

    async def _delivered(
        self, requested: OperationRequested, call: CallNote, attempt: Attempt, result: ProviderResult
    ) -> RecoveredCompletion:
        data = requested.data
        own_cost = await self._cost(result.cost_nanos, requested, call, attempt)
        cost = own_cost + call.billed_nanos
        sizes = await asyncio.to_thread(lambda: sum(one.content.size_bytes for one in result.artifacts))
        outcome = Completed(
            data.operation_id,
            data.account_id,
            data.operation,
            call.provider,
            call.model,
            cost,
            result.artifacts,
            result.seed,
        )
        await self._keep(outcome)
        return RecoveredCompletion(
            cost,
            quantity=attempt.used_quantity or call.quantity,
            actual_provider=call.provider,
            actual_model=call.model,
            status_code=result.status_code,
            response_bytes=sizes,
            provider_calls=call.calls(own_cost),
        )

    async def _keep(self, outcome: Outcome) -> None:
        try:
            await asyncio.to_thread(self._outcomes.save, outcome)
        except OSError as error:
            _log.error("outcome_not_kept", operation_id=str(outcome.operation_id), reason=str(error))

    async def _cost(self, reported: int | None, requested: OperationRequested, call: CallNote, attempt: Attempt) -> int:
        """What was billed: as reported; as much as was held, for what was ordered; else by the catalogue."""
        if reported is not None:
            return reported
        data = requested.data
        is_as_ordered = attempt.used_attributes is None and attempt.used_quantity in (None, call.quantity)
        if self.pricing is None or is_as_ordered:
            return _held(requested, call)
        cost = await self.pricing.cost(
            call.provider,
            data.operation,
            call.model,
            attempt.used_quantity or call.quantity or data.quantity,
            attempt.used_attributes or call.attributes,
        )
        return _held(requested, call) if cost is None else cost


def provider_call(provider: str, model: str, kept: str | None, cost_nanos: int) -> ProviderCall:
    """A call as the ledger is told of it. ``kept``: what `Attempt.accepted` was told."""
    return ProviderCall.model_construct(
        provider=provider, model=model, job_ids=invoiced_ids(kept), cost=cost_nanos
    )  # fmt: skip


def _doubt(message: str, requested: OperationRequested, call: CallNote) -> InDoubt:
    """A fallback may be dearer than the provider that the operation was held for."""
    held = _held(requested, call)
    return InDoubt(message, held + call.billed_nanos, call.provider, call.model, call.calls(held))


def _held(requested: OperationRequested, call: CallNote) -> int:
    return requested.data.estimated_cost if call.held_nanos is None else call.held_nanos


def read_note(note: str | None) -> CallNote | None:
    """The note of an operation in the journal; None where there is none, or none that can be read."""
    if note is None:
        return None
    try:
        return CallNote.model_validate_json(note)
    except ValidationError:
        return None


def _call_of(requested: OperationRequested, note: str | None) -> CallNote:
    call = read_note(note)
    if call is None and note is not None:
        _log.error("call_note_unreadable", operation_id=str(requested.data.operation_id))
    return call or CallNote(provider=requested.data.provider, model=requested.data.model)
