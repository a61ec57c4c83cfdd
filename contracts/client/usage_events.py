"""The events that a service produces, built from data alone. Never a prompt, never an image in them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from pydantic import JsonValue

from contracts.client.recovery import InDoubt, RecoveredCompletion, RecoveredFailure, Recovery
from contracts.events import OUTCOME_UNKNOWN, OperationCompleted, OperationFailed, OperationRequested
from contracts.limits import LimitCheck
from contracts.money import format_nanos
from contracts.provider_calls import ProviderCall, with_calls
from contracts.tracing import extension_of, trace_of

_CODE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_MESSAGE_LENGTH_MAX: Final = 1024


@dataclass(frozen=True)
class Completion:
    """The provider delivered, and what it billed. ``quantity``, ``provider`` and ``model``: where they are not as
    requested. ``provider_calls``: see contracts.provider_calls."""

    cost_nanos: int
    quantity: int | None = None
    provider: str | None = None
    model: str | None = None
    status_code: int | None = None
    retry_count: int = 0
    response_bytes: int = 0
    provider_calls: tuple[ProviderCall, ...] = ()


@dataclass(frozen=True)
class Failure:
    """The provider did not deliver; ``cost_nanos`` is what it billed all the same."""

    code: str
    message: str
    cost_nanos: int = 0
    provider: str | None = None
    model: str | None = None
    status_code: int | None = None
    retry_count: int = 0
    provider_calls: tuple[ProviderCall, ...] = ()


def operation_requested(
    check: LimitCheck,
    *,
    estimated_cost_nanos: int,
    source: str,
    event_id: UUID,
    now: datetime,
    endpoint: str | None = None,
    request_bytes: int = 0,
    metadata: Mapping[str, JsonValue] | None = None,
) -> OperationRequested:
    """What is about to be asked of a provider. Raises pydantic.ValidationError."""
    return OperationRequested.model_validate(
        {
            "specversion": "1.0",
            "id": event_id,
            "source": source,
            "subject": check.account_id,
            "time": now,
            "data": {
                **check.model_dump(include=set(_FROM_CHECK)),
                "endpoint": endpoint,
                "metadata": None if metadata is None else dict(metadata),
                "estimated_cost": format_nanos(estimated_cost_nanos),
                "request_bytes": request_bytes,
            },
        }
    )


def operation_completed(
    requested: OperationRequested, completion: Completion, *, event_id: UUID, now: datetime, duration_ms: int
) -> OperationCompleted:
    """Raises pydantic.ValidationError."""
    data = _outcome(requested, completion, duration_ms)
    if completion.quantity is not None:
        data["quantity"] = completion.quantity
    return OperationCompleted.model_validate(
        {
            **_envelope(requested, event_id, now),
            "data": {**data, "response_bytes": completion.response_bytes},
        }
    )


def operation_failed(
    requested: OperationRequested, failure: Failure, *, event_id: UUID, now: datetime, duration_ms: int
) -> OperationFailed:
    """Raises pydantic.ValidationError. Any error code and message of a provider is made to fit."""
    return OperationFailed.model_validate(
        {
            **_envelope(requested, event_id, now),
            "data": {
                **_outcome(requested, failure, duration_ms),
                "error": {"code": error_code(failure.code), "message": _free_text(failure.message)},
            },
        }
    )


def outcome_of(recovery: Recovery, requested: OperationRequested) -> Completion | Failure:
    """What a recovery comes to: what is known as it is; doubt at the most that it may have come to."""
    match recovery:
        case RecoveredCompletion():
            return Completion(
                recovery.cost_nanos,
                recovery.quantity,
                recovery.actual_provider,
                recovery.actual_model,
                recovery.status_code,
                response_bytes=recovery.response_bytes,
                provider_calls=recovery.provider_calls,
            )
        case RecoveredFailure():
            return Failure(
                recovery.code, recovery.message, recovery.cost_nanos, recovery.actual_provider, recovery.actual_model,
                provider_calls=recovery.provider_calls,
            )  # fmt: skip
        case InDoubt():
            cost = requested.data.estimated_cost if recovery.cost_nanos is None else recovery.cost_nanos
            return Failure(
                OUTCOME_UNKNOWN, recovery.message, cost, recovery.actual_provider, recovery.actual_model,
                provider_calls=recovery.provider_calls,
            )  # fmt: skip


def error_code(code: str) -> str:
    """A provider's error code as an event may hold it."""
    return code if _CODE.fullmatch(code) else "provider_error"


_FROM_CHECK: Final = (
    *("operation_id", "account_id", "user_id", "project_id", "api_key_id"),
    *("operation", "provider", "model", "quantity"),
)


def _free_text(text: str) -> str:
    # PostgreSQL's text holds no NUL; an event stays small.
    # Halves of surrogate pairs, which JSON lets through, are no text at all.
    return text.encode(errors="replace").decode().replace("\x00", "")[:_MESSAGE_LENGTH_MAX]


def _envelope(requested: OperationRequested, event_id: UUID, now: datetime) -> dict[str, object]:
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": requested.source,
        "subject": requested.subject,
        "leaseid": requested.leaseid,
        **extension_of(trace_of(requested)),
        # A clock that was set back must not let an outcome come before its request.
        "time": max(now, requested.time),
    }


def _outcome(requested: OperationRequested, outcome: Completion | Failure, duration_ms: int) -> dict[str, object]:
    return {
        **requested.data.model_dump(exclude={"estimated_cost"}),
        "metadata": with_calls(requested.data.metadata, outcome.provider_calls),
        "cost": format_nanos(outcome.cost_nanos),
        "requested_at": requested.time,
        "duration_ms": max(0, duration_ms),
        "model": outcome.model or requested.data.model,
        "actual_provider": outcome.provider or requested.data.provider,
        "status_code": outcome.status_code,
        "retry_count": outcome.retry_count,
    }
