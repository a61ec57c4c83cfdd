"""OpenAI: one request that is answered with the images themselves, in base64, and with the tokens that it took.

Sources, read on 2026-11-23: see openai_models.py; https://developers.openai.com/api/docs/guides/error-codes ({"error":
{"message", "type", "param", "code"}}; 429 for its rate limits and used-up credit); /api/reference/overview
(X-Client-Request-Id: an id of ours, for their support). There is no job and no way to ask for an answer that was lost:
what is in doubt stays in doubt. Refusals (400, moderation_blocked among them) come without a usage and bill nothing.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from image_service.providers.attempt import Attempt
from image_service.providers.base import Model, ProviderRequest, ProviderResult, Quote
from image_service.providers.client import RemoteProvider
from image_service.providers.http import Answer, Order, Pace
from image_service.providers.jobs import Done, Job
from image_service.providers.openai_models import MODELS, Plan, image_file, mask_file, plan, quote
from image_service.providers.refusals import CREDIT, FILTERED, Refusals
from image_service.providers.remote import Remote, finisher_for
from image_service.providers.token_prices import Tokens, cost_nanos, count

NAME: Final = "openai"
#: Limits are in images and tokens a minute, by tier; 429 says when one is reached.
PACE: Final = Pace(calls_max=64)

refusal: Final = Refusals(
    NAME,
    invalid=frozenset({415, 422}),
    word_at=("error", "code"),
    codes={
        "moderation_blocked": FILTERED,
        "content_policy_violation": FILTERED,
        "billing_hard_limit_reached": CREDIT,
        "insufficient_quota": CREDIT,
    },
)


@dataclass(frozen=True)
class Made:
    """Base64 of the images, and the tokens that they took; None: what is not there, or not as it should be."""

    images: tuple[str, ...] | None
    usage: Tokens | None
    retries: int


def read_made(answer: Answer, wanted: int) -> Made:
    """Raises ValueError."""
    content = answer.json()
    made = Made(read_images(content, wanted), read_usage(content), answer.retries)
    if made.images is None and made.usage is None:
        raise ValueError("it has neither images nor a usage")
    return made


def read_usage(content: Any) -> Tokens | None:  # Any: JSON
    """Of ``usage``, whose details tell text from images; None where there is none. What is not told apart is counted as
    the dearer kind."""
    usage = content.get("usage") if isinstance(content, dict) else None
    if not isinstance(usage, dict):
        return None
    try:
        taken, given = count(usage.get("input_tokens")), count(usage.get("output_tokens"))
        text_in = _detail(usage, "input_tokens_details", taken)
        text_out = _detail(usage, "output_tokens_details", given)
    except ValueError:
        return None
    return Tokens(text_in=text_in, image_in=taken - text_in, image_out=given - text_out, text_out=text_out)


def _detail(usage: dict[str, Any], name: str, whole: int) -> int:  # Any: JSON
    """Text tokens among the whole."""
    details = usage.get(name)
    text = details.get("text_tokens", 0) if isinstance(details, dict) else 0
    return min(count(text), whole)


def read_images(content: Any, wanted: int) -> tuple[str, ...] | None:  # Any: JSON
    """Base64 of as many images as were wanted; None where the answer has others, or none."""
    data = content.get("data") if isinstance(content, dict) else None
    found = [one.get("b64_json") for one in data if isinstance(one, dict)] if isinstance(data, list) else []
    images = tuple(one for one in found if isinstance(one, str))
    return images if len(images) == wanted else None


class OpenAi(RemoteProvider):
    name = NAME
    models = MODELS
    pace = PACE
    refusals = refusal

    def quote(self, model: Model, request: ProviderRequest) -> Quote:
        return quote(model, request)

    async def _run(self, model: str, request: ProviderRequest, attempt: Attempt) -> ProviderResult:
        planned = plan(request)
        order = await asyncio.to_thread(_order, planned, str(attempt.operation_id))
        async with self._channel.turn():
            made = await self._ordered(order, attempt, lambda answer: read_made(answer, planned.count))
        cost = cost_nanos(model, planned.tokens_max if made.usage is None else made.usage)
        job = Job(ids=(), wanted=planned.count, size=planned.wanted)
        return await self._finisher.priced(Done(made.images or ()), job, attempt, cost, made.retries)

    generate = character = edit = _run


def _order(planned: Plan, request_id: str) -> Order:
    """Reads files: for a worker thread."""
    headers = {"X-Client-Request-Id": request_id}
    if not planned.images:
        return Order(planned.path, json=planned.fields, headers=headers)
    has_mask = planned.mask is not None
    files = []
    for index, image in enumerate(planned.images):
        content, media_type = image_file(image, with_mask=has_mask)
        files.append(("image[]", (f"image-{index}.{media_type.rpartition('/')[2]}", content, media_type)))
    if planned.mask is not None:
        files.append(("mask", ("mask.png", mask_file(planned.mask), "image/png")))
    form = {name: str(value) for name, value in planned.fields.items()}
    return Order(planned.path, form=form, files=tuple(files), headers=headers)


REMOTE: Final = Remote(
    NAME, "openai_key", lambda settings, key: OpenAi(settings.openai_url, key, finisher_for(settings, ()))
)
