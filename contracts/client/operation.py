"""One paid operation: checked, recorded, done by the caller, and its outcome recorded, however that ends."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from contracts import spans
from contracts.client.checks import Checks
from contracts.client.errors import LedgerRefused
from contracts.client.planning import invalid_arguments
from contracts.client.recording import Recorder
from contracts.client.recovery import InDoubt
from contracts.client.usage_events import (
    Completion,
    Failure,
    operation_completed,
    operation_failed,
)
from contracts.events import OperationCompleted, OperationFailed, OperationRequested
from contracts.identifiers import uuid7
from contracts.limits import Decision
from contracts.money import COST_NANOS_MAX, parse_bounded, parse_nanos
from contracts.problems import RESERVATION_CLOSED, broken_rule, problem
from contracts.provider_calls import ProviderCall
from contracts.reservations import ReservationMove

CALLER_ERROR: Final = "caller_error"

Outcome = OperationCompleted | OperationFailed


class Operation:
    """An admitted and recorded operation, within its context. Say once how it ended: `completed`, `failed` or
    `in_doubt`; nothing of that is sent before the context ends.

    Money is a decimal string (``"0.03"``). Bad arguments raise ProblemError, naming field and rule.
    """

    def __init__(
        self,
        decision: Decision,
        requested: OperationRequested,
        checks: Checks,
        recorder: Recorder,
        started: float,
        hold_seconds: int,
    ) -> None:
        #: The allowed decision, with the limits as they stood after it, this operation's share held: the first one, or
        #: the one that its hold was moved by.
        self.decision = decision
        #: What was recorded before the provider is called.
        self.requested = requested
        #: The recorded outcome, once the context has ended.
        self.outcome: Outcome | None = None
        #: The same as of the last move: what the outcome answers.
        self._asked = requested
        self._checks = checks
        self._hold_seconds = hold_seconds
        self._started = started
        self._said: Outcome | InDoubt | None = None
        self._fallback: InDoubt | None = None
        self._billed_nanos: int | None = None
        self._ended = False
        self._recorder = recorder
        #: What was noted last.
        self.noted: str | None = None

    @property
    def operation_id(self) -> UUID:
        return self.requested.data.operation_id

    @property
    def lease_id(self) -> UUID | None:
        """The lease that admitted it, where the ledger could not be reached."""
        return self.requested.leaseid

    def completed(
        self,
        *,
        cost: str,
        quantity: int | None = None,
        actual_provider: str | None = None,
        actual_model: str | None = None,
        status_code: int | None = None,
        retry_count: int = 0,
        response_bytes: int = 0,
        provider_calls: Sequence[ProviderCall] = (),
    ) -> None:
        """The provider delivered, and billed ``cost``. ``quantity``, ``actual_…``: where they are not as requested.
        ``provider_calls``: with the job ids by which the provider's invoice is reconciled; costs add up to ``cost``."""

        def make() -> OperationCompleted:
            said = (actual_provider, actual_model, status_code, retry_count, response_bytes, tuple(provider_calls))
            completion = Completion(parse_nanos(cost), quantity, *said)
            return operation_completed(
                self._asked, completion, event_id=uuid7(), now=datetime.now(UTC), duration_ms=self._duration_ms()
            )

        self._say(make)

    def failed(
        self,
        code: str,
        message: str,
        *,
        cost: str = "0",
        actual_provider: str | None = None,
        actual_model: str | None = None,
        status_code: int | None = None,
        retry_count: int = 0,
        provider_calls: Sequence[ProviderCall] = (),
    ) -> None:
        """The provider did not deliver; ``cost`` is what it billed all the same.

        ``message`` is kept for ever and read by others: no prompt in it.
        """

        def make() -> OperationFailed:
            said = (actual_provider, actual_model, status_code, retry_count, tuple(provider_calls))
            return self._failure(Failure(code, message, parse_nanos(cost), *said))

        self._say(make)

    def in_doubt(self, message: str) -> None:
        """Nobody can say whether the call was done and billed: it is recorded as failed with the code
        ``outcome_unknown`` at its estimate, unless the client's ``recover`` knows better."""
        self._say(lambda: InDoubt(message))

    def billed(self, cost: str) -> None:
        """The provider bills this, whatever happens to the answer: what an exception in the body is recorded at."""
        self._refuse_when_ended()
        try:
            self._billed_nanos = parse_bounded(cost, 0, COST_NANOS_MAX)
        except PydanticCustomError as error:
            self._fallback = InDoubt("the caller reported a cost that is not valid")
            raise invalid_arguments(error) from error

    async def note(self, note: str) -> None:
        """Keep with the journalled intent what finds the call again after a restart, such as the provider's job id, in
        place of any earlier note: ``recover`` is given it. Durable when it returns; without a journal, for as long as
        this process lives. Raises RecordingUnavailable: then the call goes on, and is harder to find.
        """
        try:
            note.encode()
        except UnicodeEncodeError as error:  # half a surrogate pair, out of a provider's JSON
            raise broken_rule("note", "unicode", "not valid Unicode: half a surrogate pair") from error
        self.noted = note
        await self._recorder.note(self.operation_id, note)

    async def extend(self, ttl_seconds: int) -> datetime:
        """Keep the hold for so long from now; when it ends. For calls that outlast it.

        Raises LedgerUnavailable, and LedgerRefused where the hold is over already. Under a lease its share is held for
        as long as the lease's, which no operation moves.
        """
        if self.lease_id is not None:
            assert self.decision.reservation is not None, "it was allowed"
            return self.decision.reservation.expires_at
        return await self._checks.extend(self.operation_id, ttl_seconds, self.requested.data.account_id)

    async def move(
        self,
        *,
        provider: str,
        model: str,
        quantity: int = 1,
        estimated_cost: str | None = None,
        attributes: Mapping[str, str | int] | None = None,
        billed: str | None = None,
    ) -> Decision:
        """Hold what another provider will take, in place of what is held: before that one is called, and once no other
        call runs. Where the decision is a denial, the hold is what it was; `decision` is the last that was allowed.
        ``billed``: by providers that were tried before, in all; it is held on top.

        Raises LedgerUnavailable: what is held is not certain then, and no further provider may be called; and
        LedgerRefused, where the hold is over. Under a lease nothing of the operation's own is held: also LedgerRefused.
        """
        about = self.requested.data
        if self.lease_id is not None:
            detail = f"operation {about.operation_id} is under a lease, whose share is for its own provider and model"
            raise LedgerRefused(problem(RESERVATION_CLOSED, detail))
        fields = {
            "operation_id": about.operation_id, "account_id": about.account_id, "placed_at": self.decision.decided_at,
            "provider": provider, "model": model, "quantity": quantity, "ttl_seconds": self._hold_seconds,
            "estimated_cost": estimated_cost, "attributes": attributes, "billed": billed,
        }  # fmt: skip
        try:
            move = ReservationMove.model_validate(fields)
        except ValidationError as error:
            raise invalid_arguments(error) from error
        with spans.span("move hold", spans.CLIENT, {"ledger.operation_id": str(about.operation_id)}):
            decision = await self._checks.move(move)
        if decision.allowed:
            self.decision = decision
            own = {"provider": provider, "model": model, "quantity": quantity}
            data = about.model_copy(update={**own, "estimated_cost": decision.estimated_cost or 0})
            self._asked = self.requested.model_copy(update={"data": data})
        return decision

    @property
    def asked(self) -> OperationRequested:
        """What was requested, with provider, model, quantity and estimated cost as of the last move."""
        return self._asked

    def _say(self, make: Callable[[], Outcome | InDoubt]) -> None:
        self._refuse_when_ended()
        if self._said is not None:
            raise RuntimeError(f"operation {self.operation_id} has an outcome already")
        try:
            self._said = make()
        except (ValidationError, PydanticCustomError) as error:
            # Whatever it was, the call was made.
            self._fallback = InDoubt("the caller reported an outcome that is not valid")
            raise invalid_arguments(error) from error

    def _refuse_when_ended(self) -> None:
        if self._ended:
            raise RuntimeError(
                f"operation {self.operation_id} has ended: its outcome is recorded, and stays what it is"
            )

    def _failure(self, failure: Failure) -> OperationFailed:
        return operation_failed(
            self._asked, failure, event_id=uuid7(), now=datetime.now(UTC), duration_ms=self._duration_ms()
        )

    def _duration_ms(self) -> int:
        return round((time.monotonic() - self._started) * 1000)

    @property
    def said_nothing(self) -> bool:
        return self._said is None and self._fallback is None

    def conclude(self, error: BaseException | None, doubtful: tuple[type[BaseException], ...]) -> Outcome | InDoubt:
        """What the operation comes to, now that its context ends, with this exception or without."""
        self._ended = True
        if self._said is not None:
            return self._said
        # The type alone: an exception's text may quote the prompt.
        message = "the caller's code " + ("said no outcome" if error is None else f"raised {type(error).__name__}")
        if error is not None and self._billed_nanos is not None:
            return self._failure(Failure(CALLER_ERROR, message, self._billed_nanos))
        if self._fallback is not None:
            return self._fallback
        if error is None or not isinstance(error, Exception) or isinstance(error, doubtful):
            return InDoubt(message)
        return self._failure(Failure(CALLER_ERROR, message))
