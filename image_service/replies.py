"""From outcomes and errors to HTTP responses."""

import asyncio
import base64
from typing import Annotated, Final

import orjson
from fastapi import Response
from pydantic import BaseModel, Field

from contracts.money import format_nanos
from image_service.outcomes import Completed
from image_service.runs import Ran

#: Above this, base64 is made in a thread: it would hold up everything else for milliseconds.
INLINE_BYTES_MAX: Final = 1024 * 1024
REPEATED_HEADER: Final = "Idempotency-Replayed"


class ImageReply(BaseModel):
    media_type: str
    width: int
    height: int
    data: Annotated[str, Field(description="The image, base64.")]


class ImagesReply(BaseModel):
    """What a finished operation answers."""

    operation_id: str
    provider: str
    model: str
    cost: Annotated[str, Field(description="Decimal dollars.", examples=["0.010000000"])]
    images: list[ImageReply]
    seed: Annotated[int | None, Field(description="Of a generated image: the seed that was used.")] = None


def wants_bytes(accept: str | None) -> bool:
    """Whether an Accept header asks for the image alone: it names image types, and JSON not before them."""
    for part in (accept or "").split(","):
        media_type = part.partition(";")[0].strip().lower()
        if media_type.startswith("image/"):
            return True
        if media_type in ("application/json", "application/*"):
            return False
    return False


async def success(ran: Ran, accept: str | None) -> Response:
    """200 with the outcome as JSON, or the first image alone."""
    outcome = ran.outcome
    headers = {REPEATED_HEADER: "true"} if ran.repeated else {}
    if wants_bytes(accept) and outcome.images:
        headers |= {"X-Operation-Id": str(outcome.operation_id), "X-Cost": format_nanos(outcome.cost_nanos)}
        return Response(outcome.images[0].data, media_type=outcome.images[0].media_type, headers=headers)
    size = sum(len(image.data) for image in outcome.images)
    body = _json(outcome) if size <= INLINE_BYTES_MAX else await asyncio.to_thread(_json, outcome)
    return Response(body, media_type="application/json", headers=headers)


def _json(outcome: Completed) -> bytes:
    reply: dict[str, object] = {
        "operation_id": str(outcome.operation_id),
        "provider": outcome.provider,
        "model": outcome.model,
        "cost": format_nanos(outcome.cost_nanos),
        "images": [
            {
                "media_type": image.media_type,
                "width": image.width,
                "height": image.height,
                "data": base64.b64encode(image.data).decode(),
            }
            for image in outcome.images
        ],
    }
    if outcome.seed is not None:
        reply["seed"] = outcome.seed
    return orjson.dumps(reply)
