"""Google's Gemini API: one request for each image, which comes in base64, with the tokens that it took.

The provider's name is `google`, as in the price catalogue; its key and URL are IMAGE_GEMINI_KEY and IMAGE_GEMINI_URL.

Sources, read on 2026-11-23: see gemini_models.py; https://ai.google.dev/api/generate-content (candidates, finishReason,
promptFeedback.blockReason, usageMetadata), /gemini-api/docs/troubleshooting (errors), /gemini-api/docs/billing ("If
your request fails with a 400 or 500 error, you won't be charged for the tokens used"). A prompt that is blocked is
answered with status 200 and a usage, and costs what that says. There is no job and no way to ask for an answer that was
lost: what is in doubt stays in doubt. A 500 may come from before the model or from behind it, so it is in doubt too.
"""

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from image_service.images import SourceImage
from image_service.providers.attempt import Attempt
from image_service.providers.base import Model, ProviderError, ProviderRequest, ProviderResult, Quote
from image_service.providers.client import RemoteProvider
from image_service.providers.gemini_models import MODELS, most, plan, quote
from image_service.providers.http import Answer, Order, Pace
from image_service.providers.jobs import RESULT_UNUSABLE, Done, Job, at_once
from image_service.providers.refusals import CREDIT, FILTERED, Refusals, word
from image_service.providers.remote import Remote, finisher_for
from image_service.providers.token_prices import Tokens, cost_nanos, count

NAME: Final = "google"
#: Limits are by project and tier; 429 says when one is reached.
PACE: Final = Pace(calls_max=64)

refusal: Final = Refusals(
    NAME,
    word_at=("error", "status"),
    codes={"FAILED_PRECONDITION": CREDIT},  # billing is not enabled, or not in this country
)
#: finishReason of what was held back because of what it shows, or says.
_FILTERED: Final = frozenset(
    {
        "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Made:
    """What one request came to: base64 of an image, or why there is none. ``tokens``: None where that is not said."""

    image: str | None
    tokens: Tokens | None
    code: str = RESULT_UNUSABLE
    reason: str = "the answer has no image"


def read_made(content: Any) -> Made | None:  # Any: JSON
    """Of an answer with status 200; None: these are no words of Google's."""
    if not isinstance(content, dict):
        return None
    tokens = read_usage(content)
    feedback = content.get("promptFeedback")
    blocked = word(feedback.get("blockReason")) if isinstance(feedback, dict) else None
    if blocked is not None:
        return Made(None, tokens, FILTERED, f"the prompt was blocked ({blocked})")
    candidates = content.get("candidates")
    first = candidates[0] if isinstance(candidates, list) and candidates else None
    if not isinstance(first, dict):
        return None if tokens is None else Made(None, tokens)
    image, finish = _image(first), word(first.get("finishReason")) or "STOP"
    if image is not None:
        return Made(image, tokens)
    code = FILTERED if finish in _FILTERED else RESULT_UNUSABLE
    return Made(None, tokens, code, f"the answer has no image ({finish})")


def read_usage(content: dict[str, Any]) -> Tokens | None:  # Any: JSON
    """Of ``usageMetadata``: what stands under a modality is that, what is under none is an image on its way out and
    text on its way in. None where it cannot be read."""
    usage = content.get("usageMetadata")
    if not isinstance(usage, dict) or "promptTokenCount" not in usage:
        return None
    try:
        taken, given = count(usage["promptTokenCount"]), count(usage.get("candidatesTokenCount", 0))
        thoughts = count(usage.get("thoughtsTokenCount", 0))
        image_in = _of_modality(usage.get("promptTokensDetails"), "IMAGE")
        text_out = _of_modality(usage.get("candidatesTokensDetails"), "TEXT")
    except ValueError:
        return None
    image_in, text_out = min(image_in, taken), min(text_out, given)
    return Tokens(taken - image_in, image_in, given - text_out, text_out + thoughts)


def _of_modality(details: object, modality: str) -> int:
    found = [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    return sum(count(one.get("tokenCount")) for one in found if one.get("modality") == modality)


def _image(candidate: dict[str, Any]) -> str | None:  # Any: JSON
    """The last image that is no thought."""
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    found = None
    for part in parts if isinstance(parts, list) else []:
        inline = part.get("inlineData") if isinstance(part, dict) and not part.get("thought") else None
        if isinstance(inline, dict) and isinstance(inline.get("data"), str):
            found = inline["data"]
    return found


def _read(answer: Answer) -> Made:
    """Raises ValueError."""
    made = read_made(answer.json())
    if made is None:
        raise ValueError("it says nothing of an image")
    return made


class Gemini(RemoteProvider):
    name = NAME
    models = MODELS
    pace = PACE
    refusals = refusal

    @staticmethod
    def authorization(key: str) -> Mapping[str, str]:
        return {"x-goog-api-key": key}

    def quote(self, model: Model, request: ProviderRequest) -> Quote:
        return quote(model, request)

    async def _run(self, model: str, request: ProviderRequest, attempt: Attempt) -> ProviderResult:
        planned = plan(model, request)
        encoded = await asyncio.to_thread(_encoded, planned.images)
        order = Order(planned.path, json=planned.body(encoded))
        async with self._channel.turn():
            made, errors = await at_once(self._ordered(order, attempt, _read) for _ in range(planned.wanted))
        cost = sum(most(model, planned) if one.tokens is None else cost_nanos(model, one.tokens) for one in made)
        errors += [ProviderError(one.code, one.reason, status_code=200) for one in made if not one.image]
        if errors:
            first = errors[0]
            raise ProviderError(
                first.code, first.message, cost_nanos=cost, status_code=first.status_code,
                retry_count=first.retry_count, elsewhere=first.elsewhere,
            )  # fmt: skip
        job = Job(ids=(), wanted=len(made), size=planned.size)
        return await self._finisher.priced(Done(tuple(one.image or "" for one in made)), job, attempt, cost)

    generate = character = edit = _run


def _encoded(images: tuple[SourceImage, ...]) -> tuple[tuple[str, str], ...]:
    """Reads files: for a worker thread."""
    return tuple((image.media_type, base64.b64encode(image.content.read()).decode()) for image in images)


REMOTE: Final = Remote(
    NAME, "gemini_key", lambda settings, key: Gemini(settings.gemini_url, key, finisher_for(settings, ()))
)
