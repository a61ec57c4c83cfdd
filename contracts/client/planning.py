"""An operation before anything has happened: what is to be done, known to be good."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import JsonValue, ValidationError
from pydantic_core import PydanticCustomError

from contracts.client.usage_events import operation_requested
from contracts.events import OperationRequested
from contracts.identifiers import uuid7
from contracts.limits import LimitCheck
from contracts.problems import ProblemError, broken_rule, invalid


@dataclass(frozen=True)
class Plan:
    """What is to be done, known to be good. Nothing has happened yet.

    ``doubtful``: exceptions of the body after which only the provider can say what is owed. ``release_if_lost``:
    nobody will ask again with this operation_id.
    """

    check: LimitCheck
    requested: OperationRequested
    hold_seconds: int
    doubtful: tuple[type[BaseException], ...]
    release_if_lost: bool


def plan_operation(
    fields: Mapping[str, object],
    *,
    source: str,
    hold_seconds: int,
    endpoint: str | None,
    request_bytes: int,
    metadata: Mapping[str, JsonValue] | None,
    doubtful: tuple[type[BaseException], ...],
    release_if_lost: bool,
) -> Plan:
    """``fields`` are those of the limit check but for its ttl.

    Raises ProblemError (invalid_request), naming field and rule.
    """
    try:
        check = LimitCheck.model_validate({**fields, "ttl_seconds": hold_seconds})
        requested = operation_requested(
            check,
            estimated_cost_nanos=check.estimated_cost or 0,
            source=source,
            event_id=uuid7(),
            now=datetime.now(UTC),
            endpoint=endpoint,
            request_bytes=request_bytes,
            metadata=metadata,
        )
    except ValidationError as error:
        raise invalid_arguments(error) from error
    return Plan(check, requested, hold_seconds, (TimeoutError, *doubtful), release_if_lost)


def invalid_arguments(error: ValidationError | PydanticCustomError) -> ProblemError:
    """What the caller is told of arguments that break a rule, by their names."""
    if isinstance(error, ValidationError):
        return invalid(error, skip=frozenset({"data"}))
    return broken_rule("cost", error.type, error.message())  # the only field that is read before its model
