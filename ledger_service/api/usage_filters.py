"""Which rows of the usage log: the query parameters of all that lists or exports it."""

from typing import Annotated, Final, Literal

from fastapi import Depends, Query

from contracts.events import FreeText
from contracts.identifiers import ModelName, Name, OperationType
from contracts.moments import UtcMoment
from contracts.problems import broken_rule
from ledger_service.store.usage import UsageLogFilter

_SEVERAL: Final = Query(max_length=1000, description="several times: any of them")


async def usage_log_filter(
    start: Annotated[UtcMoment | None, Query(alias="from", description="occurred_at, inclusive")] = None,
    end: Annotated[UtcMoment | None, Query(alias="to", description="occurred_at, exclusive")] = None,
    recorded_from: Annotated[UtcMoment | None, Query(description="recorded_at, inclusive")] = None,
    recorded_to: Annotated[UtcMoment | None, Query(description="recorded_at, exclusive")] = None,
    counted_from: Annotated[
        UtcMoment | None, Query(description="counted_at: which windows of limits, inclusive")
    ] = None,
    counted_to: Annotated[UtcMoment | None, Query(description="counted_at, exclusive")] = None,
    operation: Annotated[list[OperationType] | None, _SEVERAL] = None,
    provider: Annotated[list[Name] | None, _SEVERAL] = None,
    model: Annotated[list[ModelName] | None, _SEVERAL] = None,
    user_id: Name | None = None,
    project_id: Name | None = None,
    api_key_id: Name | None = None,
    outcome: Annotated[
        Literal["completed", "failed", "adjustment", "counted"] | None,
        Query(description="counted: what calls and units are made up of, completed operations and corrections"),
    ] = None,
    endpoint: FreeText | None = None,
) -> UsageLogFilter:
    """FastAPI dependency, async to spare a thread. Moments are in UTC, however they were spelt. Raises ProblemError
    where a range ends before it begins."""
    for name, begins, ends in (
        ("to", start, end),
        ("recorded_to", recorded_from, recorded_to),
        ("counted_to", counted_from, counted_to),
    ):
        if begins is not None and ends is not None and begins >= ends:
            raise broken_rule(f"query.{name}", "period", "the range ends before it begins")
    return UsageLogFilter(
        start, end, counted_from, counted_to, operation, provider, model, user_id, project_id, api_key_id, outcome,
        endpoint, recorded_from, recorded_to,
    )  # fmt: skip


Chosen = Annotated[UsageLogFilter, Depends(usage_log_filter)]
