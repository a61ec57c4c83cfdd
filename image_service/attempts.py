"""The calls of one admitted operation: one provider after the other, until one delivers or none is left to try."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from contracts import spans
from contracts.client import LedgerRefused, LedgerUnavailable, Operation
from contracts.limits import Decision
from contracts.money import format_nanos
from contracts.problems import ProblemError
from contracts.provider_calls import ProviderCall
from image_service.calls import Call
from image_service.metrics import Metrics
from image_service.pricing import Pricing
from image_service.providers.attempt import Attempt
from image_service.providers.base import ProviderError, ProviderResult
from image_service.providers.registry import Candidate, Providers
from image_service.recoveries import CallNote, provider_call
from image_service.watching import Watch

INTERRUPTED: Final = "interrupted"
TIMED_OUT: Final = "provider_timeout"
PROVIDER_TROUBLE: Final = "provider_error"
UNPRICED_MODEL: Final = "unpriced_model"

_log = structlog.stdlib.get_logger(__name__)


@dataclass
class Delivery:
    """What an attempt that delivered came to. Cost in nano-dollars and retries are those of all attempts."""

    candidate: Candidate
    result: ProviderResult
    attempt: Attempt
    cost_nanos: int
    quantity: int
    retry_count: int
    calls: tuple[ProviderCall, ...]


@dataclass(frozen=True)
class Times:
    """In seconds: for a call, for a call of a model that is ``long``, and the hold that is extended under those."""

    call_seconds: float
    long_call_seconds: float
    hold_seconds: int

    def deadline(self, candidate: Candidate) -> float:
        return self.long_call_seconds if candidate.model.long else self.call_seconds


class Attempts:
    """Safe for any number of operations at once."""

    def __init__(
        self,
        providers: Providers,
        pricing: Pricing,
        times: Times,
        spool_folder: Path,
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._providers = providers
        self._pricing = pricing
        self._times = times
        self._spool_folder = spool_folder

    async def run(self, call: Call, operation: Operation, watch: Watch) -> Delivery:
        """Calls the candidates one after the other, until one of them delivers or nothing more may be tried.

        Whatever it raises, the operation has heard what is to be recorded, or nothing, which is doubt.
        """
        calls: tuple[ProviderCall, ...] = ()
        retries = 0
        held_nanos = operation.requested.data.estimated_cost
        candidates = list(call.selection.candidates)
        while True:
            candidate = candidates.pop(0)
            attempt = self._attempt(call, operation, watch, candidate, calls, held_nanos)
            try:
                result = await self._call(call, operation, candidate, attempt)
            except ProviderError as error:
                await attempt.discard()
                cost, _ = await self._cost(error.cost_nanos, call, operation, candidate, attempt, held_nanos)
                if cost or attempt.job_id is not None:
                    calls = (*calls, _call_of(candidate, attempt, cost))
                retries += error.retry_count
                try:
                    next_nanos = await self._move(call, operation, candidates, calls) if error.elsewhere else None
                    # What is not noted is not called: a crash meanwhile, and nobody would ever ask it for its bill.
                    if next_nanos is not None and not await self._note(
                        operation, candidates[0], None, calls, next_nanos
                    ):
                        next_nanos = None
                except BaseException:  # nothing runs any more, and what this one came to is known
                    _say_failed(operation, candidate, error, calls, retries)
                    raise
                if next_nanos is None:
                    _say_failed(operation, candidate, error, calls, retries)
                    raise
                watch.progress(None, f"{candidate.provider} failed: {candidates[0].provider} tries")
                held_nanos = next_nanos
                retries += 1
                continue
            except BaseException as error:
                await attempt.discard()
                if not attempt.may_be_billed:
                    _say_trouble(operation, candidate, error, calls, self._times.deadline(candidate))
                elif operation.noted is None:
                    await asyncio.shield(self._note(operation, candidate, None, calls, held_nanos))
                raise
            cost, quantity = await self._cost(result.cost_nanos, call, operation, candidate, attempt, held_nanos)
            calls = (*calls, _call_of(candidate, attempt, cost))
            return Delivery(
                candidate, result, attempt, _billed(calls), quantity, retries + result.retry_count, calls
            )  # fmt: skip

    async def _call(self, call: Call, operation: Operation, candidate: Candidate, attempt: Attempt) -> ProviderResult:
        if candidate is call.selection.first and _has_no_price(candidate, operation.decision):
            raise ProviderError(UNPRICED_MODEL, f"no price of {candidate.model.name} is known", elsewhere=True)
        provider = self._providers.capable(call.operation, candidate.provider)
        assert provider is not None, "selections are made from the same registry"
        deadline = self._times.deadline(candidate)
        extending = None
        if deadline > self._times.hold_seconds / 2:
            extending = asyncio.create_task(self._extend_for_ever(operation))
        try:
            about = {
                "ledger.operation_id": str(call.operation_id),
                "ledger.provider": candidate.provider,
                "ledger.model": candidate.model.name,
            }
            with (
                self._metrics.provider_call(candidate.provider, call.operation.name),
                spans.span(f"{call.operation.name} by {candidate.provider}", spans.CLIENT, about),
            ):
                async with asyncio.timeout(deadline):
                    result: ProviderResult = await call.operation.run(
                        provider, candidate.model.name, call.request, attempt
                    )
                    return result
        finally:
            if extending is not None:
                extending.cancel()

    async def _extend_for_ever(self, operation: Operation) -> None:
        """Keeps the hold for as long as the call takes."""
        while True:
            await asyncio.sleep(self._times.hold_seconds / 2)
            try:
                await operation.extend(self._times.hold_seconds)
            except (LedgerUnavailable, LedgerRefused) as error:
                _log.warning("hold_not_extended", operation_id=str(operation.operation_id), reason=str(error))

    def _attempt(
        self,
        call: Call,
        operation: Operation,
        watch: Watch,
        candidate: Candidate,
        earlier: tuple[ProviderCall, ...],
        held_nanos: int,
    ) -> Attempt:
        async def keep_job(job_id: str) -> None:
            await self._note(operation, candidate, job_id, earlier, held_nanos)

        return Attempt(
            call.operation_id,
            call.operation.name,
            spool_folder=self._spool_folder,
            deadline_seconds=self._times.deadline(candidate),
            keep_job=keep_job,
            on_progress=watch.progress,
        )

    async def _note(
        self,
        operation: Operation,
        candidate: Candidate,
        job_id: str | None,
        earlier: tuple[ProviderCall, ...],
        held_nanos: int,
    ) -> bool:
        """Whether it is noted. Where it is not, what runs already is waited for all the same: only a crash now would
        leave it in doubt."""
        note = CallNote(
            provider=candidate.provider,
            model=candidate.model.name,
            job_id=job_id,
            billed_nanos=_billed(earlier),
            held_nanos=held_nanos,
            quantity=candidate.quote.quantity,
            attributes=dict(candidate.quote.attributes),
            earlier=earlier,
        )
        try:
            await operation.note(note.model_dump_json(exclude_none=True))
        except ProblemError as error:
            _log.error("call_not_noted", operation_id=str(operation.operation_id), reason=str(error))
            return False
        return True

    async def _move(
        self, call: Call, operation: Operation, candidates: list[Candidate], earlier: tuple[ProviderCall, ...]
    ) -> int | None:
        """Has the operation hold what the next candidate will take, in place of what it holds.

        Answers what that one is held at, in nano-dollars, beside what was billed by then. Drops those for which there
        is no room. None where nothing is held for any other: then none is called.
        """
        billed_nanos = _billed(earlier)
        while candidates:
            candidate = candidates[0]
            provider = self._providers.find(candidate.provider)
            if provider is not None and provider.available:
                cost = candidate.quote.cost_nanos
                try:
                    decision = await operation.move(
                        provider=candidate.provider,
                        model=candidate.model.name,
                        quantity=candidate.quote.quantity,
                        estimated_cost=None if cost is None else format_nanos(cost),
                        attributes=None if cost is not None else dict(candidate.quote.attributes),
                        billed=format_nanos(billed_nanos) if billed_nanos else None,
                    )
                except (LedgerUnavailable, LedgerRefused) as error:
                    _log.warning("no_fallback", operation_id=str(call.operation_id), reason=str(error))
                    return None
                if decision.allowed and not _has_no_price(candidate, decision):
                    return max((decision.estimated_cost or 0) - billed_nanos, 0)
                _log.info(
                    "no_room_for_fallback",
                    operation_id=str(call.operation_id),
                    provider=candidate.provider,
                    reason=None if decision.denial is None else decision.denial.message,
                )
            candidates.pop(0)
        return None

    async def _cost(
        self,
        reported: int | None,
        call: Call,
        operation: Operation,
        candidate: Candidate,
        attempt: Attempt,
        held_nanos: int,
    ) -> tuple[int, int]:
        """Nano-dollars that were billed, and for how many units.

        As reported; else the provider's own price; else the catalogue's for what was really made, which for what was
        quoted is what was held for this candidate, as it is where the catalogue cannot be asked.
        """
        quote = candidate.quote
        quantity = attempt.used_quantity or quote.quantity
        if reported is not None:
            return reported, quantity
        if candidate.model.price_per_unit_nanos is not None:
            return candidate.model.price_per_unit_nanos * quantity, quantity
        attributes = attempt.used_attributes or quote.attributes
        as_held = quantity == quote.quantity and attributes == quote.attributes
        if as_held and operation.decision.estimated_cost is not None:
            return held_nanos, quantity
        cost = await self._pricing.cost(
            candidate.provider, call.operation.name, candidate.model.name, quantity, attributes
        )
        return (held_nanos if cost is None else cost), quantity


def _call_of(candidate: Candidate, attempt: Attempt, cost_nanos: int) -> ProviderCall:
    return provider_call(candidate.provider, candidate.model.name, attempt.job_id, cost_nanos)


def _billed(calls: tuple[ProviderCall, ...]) -> int:
    return sum(call.cost for call in calls)


def _has_no_price(candidate: Candidate, decision: Decision) -> bool:
    """Whether nothing is held for it because nobody knows what it costs: it would be run, billed, and settled at
    nothing. With a price in the catalogue, or a plan's ceiling for what has none, it is held at that."""
    own = candidate.quote.cost_nanos if candidate.quote.cost_nanos is not None else candidate.model.price_per_unit_nanos
    return own is None and decision.estimated_cost is None


def _say_failed(
    operation: Operation, candidate: Candidate, error: ProviderError, calls: tuple[ProviderCall, ...], retries: int
) -> None:
    operation.failed(
        error.code,
        error.message,
        cost=format_nanos(_billed(calls)),
        actual_provider=candidate.provider,
        actual_model=candidate.model.name,
        status_code=error.status_code,
        retry_count=retries,
        provider_calls=calls,
    )


def _say_trouble(
    operation: Operation,
    candidate: Candidate,
    error: BaseException,
    calls: tuple[ProviderCall, ...],
    deadline_seconds: float,
) -> None:
    """The call ended before it can have been billed."""
    code, message = PROVIDER_TROUBLE, f"the call could not be made ({type(error).__name__})"
    if isinstance(error, asyncio.CancelledError):
        code, message = INTERRUPTED, "the operation was interrupted before it had a result"
    elif isinstance(error, TimeoutError):
        code, message = TIMED_OUT, f"no result within {deadline_seconds:g} s"
    else:
        _log.error("provider_raised", operation_id=str(operation.operation_id), exc_info=error)
    operation.failed(
        code,
        message,
        cost=format_nanos(_billed(calls)),
        actual_provider=candidate.provider,
        actual_model=candidate.model.name,
        provider_calls=calls,
    )
