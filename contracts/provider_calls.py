"""What an operation came to, call by call: the reserved key ``provider_calls`` of an event's metadata.

A list of the calls that were made or may have been, in their order: ``{"provider", "model", "job_ids", "cost"}``. The
costs add up to the operation's; ``job_ids`` are the provider's own, as they stand in its invoice. The key is optional:
events without it, older ones too, are one call of their ``actual_provider`` without a known job.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, TypeAdapter, ValidationError

from contracts.events import METADATA_BYTES_MAX
from contracts.identifiers import ModelName, Name
from contracts.money import CostNanos

KEY: Final = "provider_calls"
CALLS_MAX: Final = 20

JobId = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]


class ProviderCall(BaseModel):
    """``cost``: what it billed, in nano-dollars; of a call in doubt, what was held for it."""

    model_config = ConfigDict(frozen=True)

    provider: Name
    model: ModelName
    job_ids: Annotated[tuple[JobId, ...], Field(max_length=100)] = ()
    cost: CostNanos


_CALLS: Final = TypeAdapter(Annotated[tuple[ProviderCall, ...], Field(max_length=CALLS_MAX)])


def with_calls(metadata: Mapping[str, JsonValue] | None, calls: Sequence[ProviderCall]) -> dict[str, JsonValue] | None:
    """The metadata, with the calls where they say more than the event does. Where there is no room for all that they
    say, without their jobs, or without them: what was paid is recorded all the same."""
    says_more = len(calls) > 1 or any(call.job_ids for call in calls)
    if says_more and len(calls) <= CALLS_MAX:
        for some in (calls, [call.model_copy(update={"job_ids": ()}) for call in calls]):
            written: JsonValue = _CALLS.dump_python(tuple(some), mode="json")
            merged = {**(metadata or {}), KEY: written}
            if len(orjson.dumps(merged)) <= METADATA_BYTES_MAX:
                return merged
    return None if metadata is None else dict(metadata)


def read_calls(text: str | bytes | None) -> tuple[ProviderCall, ...]:
    """Of the key's value as JSON; none where there is none, or it is something else."""
    if text is None:
        return ()
    try:
        return _CALLS.validate_json(text)
    except ValidationError:
        return ()
