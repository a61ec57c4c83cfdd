"""What an operation came to, call by call: the reserved key ``provider_calls`` of an event's metadata.

A list of the calls that were made or may have been, in their order: ``{"provider", "model", "job_ids", "cost"}``. The
costs add up to the operation's; ``job_ids`` are the provider's own, as they stand in its invoice. The key is optional:
events without it, older ones too, are one call of their ``actual_provider`` without a known job.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, TypeAdapter, ValidationError

from contracts.identifiers import ModelName, Name
from contracts.money import CostNanos

KEY: Final = "provider_calls"
CALLS_MAX: Final = 20
#: Of the metadata's 4 KiB, what this key may take; then it names no jobs.
BYTES_MAX: Final = 3072

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
    """The metadata, with the calls where any is named; without them where they are too many."""
    if not calls or len(calls) > CALLS_MAX:
        return None if metadata is None else dict(metadata)
    written = _CALLS.dump_python(tuple(calls), mode="json")
    if len(orjson.dumps(written)) > BYTES_MAX:
        written = [{**one, "job_ids": []} for one in written]
    return {**(metadata or {}), KEY: written}


def read_calls(text: str | bytes | None) -> tuple[ProviderCall, ...]:
    """Of the key's value as JSON; none where there is none, or it is something else."""
    if text is None:
        return ()
    try:
        return _CALLS.validate_json(text)
    except ValidationError:
        return ()
