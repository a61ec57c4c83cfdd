"""The events that this service produces, built from data alone. Never a prompt, never an image in them."""

import re
from datetime import datetime
from typing import Final
from uuid import UUID

from contracts.events import OperationCompleted, OperationFailed, OperationRequested
from contracts.money import format_nanos
from image_service.calls import Call
from image_service.providers.base import InDoubt, ProviderError, ProviderResult, RecoveredFailure

_CODE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_MESSAGE_LENGTH_MAX: Final = 1024


def operation_requested(call: Call, *, source: str, event_id: UUID, now: datetime) -> OperationRequested:
    """What is about to be asked of a provider."""
    caller = call.caller
    return OperationRequested.model_validate(
        {
            "specversion": "1.0",
            "id": event_id,
            "source": source,
            "subject": caller.account_id,
            "time": now,
            "data": {
                "operation_id": call.operation_id,
                "account_id": caller.account_id,
                "user_id": caller.user_id,
                "project_id": caller.project_id,
                "api_key_id": caller.api_key_id,
                "operation": call.operation,
                "provider": call.selection.provider,
                "model": call.selection.model,
                "endpoint": call.endpoint,
                "quantity": call.selection.quantity,
                "estimated_cost": format_nanos(call.selection.estimated_cost_nanos),
                "request_bytes": call.request_bytes,
            },
        }
    )


def operation_completed(
    requested: OperationRequested, result: ProviderResult, *, event_id: UUID, now: datetime, duration_ms: int
) -> OperationCompleted:
    """The provider delivered, and what it billed."""
    return OperationCompleted.model_validate(
        {
            **_envelope(requested, event_id, now),
            "data": {
                **_outcome(requested, result.cost_nanos, duration_ms, result.status_code, result.retry_count),
                "response_bytes": sum(len(image.data) for image in result.images),
            },
        }
    )


def operation_failed(
    requested: OperationRequested, error: ProviderError, *, event_id: UUID, now: datetime, duration_ms: int
) -> OperationFailed:
    """The provider did not deliver; ``cost`` is what it billed all the same."""
    return OperationFailed.model_validate(
        {
            **_envelope(requested, event_id, now),
            "data": {
                **_outcome(requested, error.cost_nanos, duration_ms, error.status_code, error.retry_count),
                "error": {"code": error_code(error.code), "message": _free_text(error.message)},
            },
        }
    )


def failure_of(recovery: RecoveredFailure | InDoubt, requested: OperationRequested) -> ProviderError:
    """What a recovery comes to: a known failure as it is; doubt is costed at the hold, for reconciliation."""
    match recovery:
        case RecoveredFailure():
            return ProviderError(recovery.code, recovery.message, cost_nanos=recovery.cost_nanos)
        case InDoubt():
            return ProviderError("outcome_unknown", recovery.message, cost_nanos=requested.data.estimated_cost)


def error_code(code: str) -> str:
    """A provider's error code as an event may hold it."""
    return code if _CODE.fullmatch(code) else "provider_error"


def _free_text(text: str) -> str:
    # PostgreSQL's text holds no NUL; an event stays small.
    return text.replace("\x00", "")[:_MESSAGE_LENGTH_MAX]


def _envelope(requested: OperationRequested, event_id: UUID, now: datetime) -> dict[str, object]:
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": requested.source,
        "subject": requested.subject,
        # A clock that was set back must not let an outcome come before its request.
        "time": max(now, requested.time),
    }


def _outcome(
    requested: OperationRequested, cost_nanos: int, duration_ms: int, status_code: int | None, retry_count: int
) -> dict[str, object]:
    return {
        **requested.data.model_dump(exclude={"estimated_cost"}),
        "cost": format_nanos(cost_nanos),
        "requested_at": requested.time,
        "duration_ms": max(0, duration_ms),
        "actual_provider": requested.data.provider,
        "status_code": status_code,
        "retry_count": retry_count,
    }
