"""From outcomes and errors to HTTP responses."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import orjson
from fastapi import Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, Field

from contracts.limits import Decision
from contracts.money import format_nanos
from contracts.problems import Problem
from image_service.artifacts import Artifact
from image_service.outcomes import Completed
from image_service.watching import State

#: Up to here a reply is made in one piece; above, it is streamed from where the results are.
INLINE_BYTES_MAX: Final = 256 * 1024
REPEATED_HEADER: Final = "Idempotency-Replayed"
#: A multiple of three, so that the pieces' base64 is that of the whole.
_PORTION_BYTES: Final = 192 * 1024


class ResultReply(BaseModel):
    """One result: in ``data``, or behind ``url`` for as long as results are kept."""

    media_type: str
    width: int | None = None
    height: int | None = None
    duration_ms: Annotated[int | None, Field(description="Of a clip.")] = None
    data: Annotated[str | None, Field(description="The bytes, base64.")] = None
    url: Annotated[str | None, Field(description="A path of this service.")] = None
    size_bytes: int | None = None


class OperationReply(BaseModel):
    """What a finished operation answers."""

    operation_id: str
    provider: Annotated[str, Field(description="Who did the work.")]
    model: str
    cost: Annotated[str, Field(description="Decimal dollars.", examples=["0.010000000"])]
    images: Annotated[list[ResultReply], Field(description="All results, whatever their media type.")]
    seed: Annotated[int | None, Field(description="Of a generated image: the seed that was used.")] = None
    expires_at: Annotated[datetime | None, Field(description="Until when the URLs are there.")] = None


class ProgressReply(BaseModel):
    state: Annotated[str, Field(description="The provider's own word for it, or running, recovering.")]
    fraction: Annotated[float | None, Field(description="From 0 to 1, where it is known.")] = None
    at: datetime


class StatusReply(BaseModel):
    """How an operation stands."""

    operation_id: str
    operation: str
    status: Literal["running", "completed", "failed"]
    progress: ProgressReply | None = None
    result: Annotated[OperationReply | None, Field(description="Of a completed one; results behind URLs.")] = None
    problem: Annotated[Problem | None, Field(description="Of a failed one.")] = None
    events: Annotated[str | None, Field(description="Where its progress can be followed.")] = None
    steps: Annotated[list[ProgressReply] | None, Field(description="How it went, of one of the last.")] = None
    decision: Annotated[Decision | None, Field(description="What admitted it, as long as it is remembered.")] = None


class LatestReply(BaseModel):
    """One of the account's last operations."""

    operation_id: str
    operation: str
    began_at: datetime
    running: bool


class LatestReplies(BaseModel):
    operations: Annotated[list[LatestReply], Field(description="Newest first.")]


def wants_bytes(accept: str | None) -> bool:
    """Whether an Accept header asks for the result alone: it names types of results, and JSON not before them."""
    for part in (accept or "").split(","):
        media_type = part.partition(";")[0].strip().lower()
        if media_type.startswith(("image/", "model/", "video/")):
            return True
        if media_type in ("application/json", "application/*"):
            return False
    return False


def success(outcome: Completed, accept: str | None, headers: dict[str, str], *, by_url: bool) -> Response:
    """200 with the outcome as JSON, results in it or behind URLs; or the first result alone."""
    if by_url and outcome.kept_at is not None:
        return Response(orjson.dumps(described(outcome)), media_type="application/json", headers=headers)
    if wants_bytes(accept) and outcome.artifacts:
        headers |= {"X-Operation-Id": str(outcome.operation_id), "X-Cost": format_nanos(outcome.cost_nanos)}
        return alone(outcome, 0, headers)
    if all(isinstance(one.content.source, bytes) for one in outcome.artifacts):
        size = sum(one.content.size_bytes for one in outcome.artifacts)
        if size <= INLINE_BYTES_MAX:
            return Response(b"".join(_json(outcome)), media_type="application/json", headers=headers)
    return StreamingResponse(_in_thread(_json(outcome), outcome), media_type="application/json", headers=headers)


def alone(outcome: Completed, number: int, headers: dict[str, str]) -> Response:
    """The bytes of one result; of one that is kept with ranges, as RFC 9110 has them. Raises FileNotFoundError where
    that one has gone."""
    artifact = outcome.artifacts[number]
    source = artifact.content.source
    if isinstance(source, bytes):
        return Response(source, media_type=artifact.media_type, headers=headers)
    if outcome.kept_at is not None:
        return FileResponse(source, media_type=artifact.media_type, headers=headers, stat_result=source.stat())
    headers = {**headers, "Content-Length": str(artifact.content.size_bytes)}
    return StreamingResponse(_in_thread(_portions(artifact), outcome), media_type=artifact.media_type, headers=headers)


def result_url(outcome: Completed, number: int) -> str:
    return f"/v1/results/{outcome.operation_id}/{number}"


def described(outcome: Completed, expires_at: datetime | None = None) -> dict[str, object]:
    """A kept outcome without the bytes of its results. Blocks for a look at the files."""
    reply = _head(outcome)
    reply["images"] = [
        {**_shape(artifact), "url": result_url(outcome, number), "size_bytes": artifact.content.size_bytes}
        for number, artifact in enumerate(outcome.artifacts)
    ]
    if expires_at is not None:
        reply["expires_at"] = expires_at.isoformat()
    return reply


def progress_of(state: State) -> dict[str, object]:
    return {"state": state.state, "fraction": state.fraction, "at": state.at.isoformat()}


def _head(outcome: Completed) -> dict[str, object]:
    head: dict[str, object] = {
        "operation_id": str(outcome.operation_id),
        "provider": outcome.provider,
        "model": outcome.model,
        "cost": format_nanos(outcome.cost_nanos),
    }
    if outcome.seed is not None:
        head["seed"] = outcome.seed
    return head


def _shape(artifact: Artifact) -> dict[str, object]:
    known = {"width": artifact.width, "height": artifact.height, "duration_ms": artifact.duration_ms}
    return {"media_type": artifact.media_type, **{name: value for name, value in known.items() if value is not None}}


def _json(outcome: Completed) -> Iterator[bytes]:
    """The reply in pieces, so that no result is ever in memory as a whole."""
    yield orjson.dumps(_head(outcome))[:-1] + b',"images":['
    for number, artifact in enumerate(outcome.artifacts):
        comma = b"," if number else b""
        yield comma + orjson.dumps(_shape(artifact))[:-1] + b',"data":"'
        with artifact.content.open() as file:
            while portion := file.read(_PORTION_BYTES):
                yield base64.b64encode(portion)
        yield b'"}'
    yield b"]}"


def _portions(artifact: Artifact) -> Iterator[bytes]:
    with artifact.content.open() as file:
        while portion := file.read(_PORTION_BYTES):
            yield portion


async def _in_thread(pieces: Iterator[bytes], outcome: Completed) -> AsyncIterator[bytes]:
    """The pieces; files that are kept for nobody are gone afterwards, also where the client went away."""
    try:
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece
    finally:
        if outcome.kept_at is None:
            for artifact in outcome.artifacts:
                if isinstance(artifact.content.source, Path):
                    artifact.content.source.unlink(missing_ok=True)
