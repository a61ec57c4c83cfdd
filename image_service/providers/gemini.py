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
import re
from dataclasses import dataclass
from typing import Any, Final

from pydantic import SecretStr

from image_service.images import SourceImage
from image_service.providers.attempt import Attempt
from image_service.providers.base import (
    Model,
    OutcomeUnknownError,
    ProviderError,
    ProviderRequest,
    ProviderResult,
    Quote,
    StillRunning,
)
from image_service.providers.gemini_models import MODELS, Plan, most, plan, quote
from image_service.providers.http import Answer, AnswerLostError, Channel, Order, Pace
from image_service.providers.jobs import RESULT_UNUSABLE, Done, Finisher, Job
from image_service.providers.remote import Remote, finisher_for
from image_service.providers.requests import CharacterRequest, EditRequest, GenerateRequest
from image_service.providers.token_prices import Tokens, cost_nanos, count

NAME: Final = "google"
#: Limits are by project and tier; 429 says when one is reached.
PACE: Final = Pace(calls_max=64)

_WORD: Final = re.compile(r"[A-Z_]{1,60}")
_REFUSALS: Final = {
    400: "invalid_input",
    401: "provider_credentials",
    402: "provider_credit",
    403: "provider_credentials",
    404: "provider_no_model",
    413: "invalid_input",
}
_ELSEWHERE: Final = frozenset({"provider_credentials", "provider_credit", "provider_no_model"})
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


def error_status(answer: Answer) -> str | None:
    """The ``status`` of an error, such as INVALID_ARGUMENT. Its message may repeat the prompt, so that is not used."""
    try:
        content = answer.json()
    except ValueError:
        return None
    error = content.get("error") if isinstance(content, dict) else None
    return _word(error.get("status")) if isinstance(error, dict) else None


def refusal(answer: Answer) -> ProviderError | None:
    """What an answer means that started nothing and bills nothing; None where that is not certain, or a success."""
    code = _REFUSALS.get(answer.status)
    if code is None:
        return None
    named = error_status(answer)
    if named == "FAILED_PRECONDITION":  # billing is not enabled, or not in this country
        code = "provider_credit"
    return ProviderError(
        code,
        f"{NAME} refused the request: {named or 'status'} ({answer.status})",
        status_code=answer.status,
        retry_count=answer.retries,
        elsewhere=code in _ELSEWHERE,
    )


def read_made(content: Any) -> Made | None:  # Any: JSON
    """Of an answer with status 200; None: these are no words of Google's."""
    if not isinstance(content, dict):
        return None
    tokens = read_usage(content)
    feedback = content.get("promptFeedback")
    blocked = _word(feedback.get("blockReason")) if isinstance(feedback, dict) else None
    if blocked is not None:
        return Made(None, tokens, "content_filtered", f"the prompt was blocked ({blocked})")
    candidates = content.get("candidates")
    first = candidates[0] if isinstance(candidates, list) and candidates else None
    if not isinstance(first, dict):
        return None if tokens is None else Made(None, tokens)
    image, finish = _image(first), _word(first.get("finishReason")) or "STOP"
    if image is not None:
        return Made(image, tokens)
    code = "content_filtered" if finish in _FILTERED else RESULT_UNUSABLE
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


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


class Gemini:
    name = NAME
    models = MODELS

    def __init__(self, url: str, key: SecretStr, finisher: Finisher, *, channel: Channel | None = None) -> None:
        self._channel = channel or Channel(NAME, url, {"x-goog-api-key": key.get_secret_value()}, pace=PACE)
        self._finisher = finisher

    @property
    def available(self) -> bool:
        return self._channel.available

    def quote(self, model: Model, request: ProviderRequest) -> Quote:
        return quote(model, request)

    async def generate(self, model: str, request: GenerateRequest, attempt: Attempt) -> ProviderResult:
        return await self._run(model, request, attempt)

    async def character(self, model: str, request: CharacterRequest, attempt: Attempt) -> ProviderResult:
        return await self._run(model, request, attempt)

    async def edit(self, model: str, request: EditRequest, attempt: Attempt) -> ProviderResult:
        return await self._run(model, request, attempt)

    async def recover(self, model: str, job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
        del model, job_id, attempt
        raise OutcomeUnknownError(f"{NAME} keeps no results that could be asked for")

    async def close(self) -> None:
        await self._channel.close()
        await self._finisher.close()

    async def _run(self, model: str, request: ProviderRequest, attempt: Attempt) -> ProviderResult:
        planned = plan(model, request)
        encoded = await asyncio.to_thread(_encoded, planned.images)
        order = Order(planned.path, json=planned.body(encoded), alone=planned.wanted == 1)
        async with self._channel.turn():
            made = await asyncio.gather(
                *(self._make(order, attempt) for _ in range(planned.wanted)), return_exceptions=True
            )
        return await self._finish(model, planned, made, attempt)

    async def _make(self, order: Order, attempt: Attempt) -> Made:
        """Raises ProviderError where nothing was billed; OutcomeUnknownError."""
        try:
            answer = await self._channel.order(order, attempt)
        except AnswerLostError as error:
            raise OutcomeUnknownError(f"{NAME} took a request, but its answer was cut off") from error
        refused = refusal(answer)
        if refused is not None:
            raise refused
        if answer.status != 200:
            raise OutcomeUnknownError(f"{NAME} answered with status {answer.status}; it may have been done")
        try:
            made = read_made(await asyncio.to_thread(answer.json))
        except ValueError as error:
            raise OutcomeUnknownError(f"{NAME} took a request, but its answer cannot be read") from error
        if made is None:
            raise OutcomeUnknownError(f"{NAME} took a request, but its answer says nothing of it")
        return made

    async def _finish(
        self, model: str, planned: Plan, ended: list[Made | BaseException], attempt: Attempt
    ) -> ProviderResult:
        for one in ended:
            if isinstance(one, BaseException) and not isinstance(one, ProviderError):
                raise one  # not known of one: not known of the operation
        made = [one for one in ended if isinstance(one, Made)]
        cost = sum(most(model, planned) if one.tokens is None else cost_nanos(model, one.tokens) for one in made)
        errors = [one for one in ended if isinstance(one, ProviderError)]
        errors += [ProviderError(one.code, one.reason, status_code=200) for one in made if not one.image]
        if errors:
            first = errors[0]
            raise ProviderError(
                first.code, first.message, cost_nanos=cost, status_code=first.status_code,
                retry_count=first.retry_count, elsewhere=first.elsewhere,
            )  # fmt: skip
        job = Job(ids=(), wanted=len(made), size=planned.size)
        try:
            artifacts = await self._finisher.artifacts(Done(tuple(one.image or "" for one in made)), job, attempt)
        except ProviderError as error:
            raise ProviderError(error.code, error.message, cost_nanos=cost, status_code=200) from error
        return ProviderResult(tuple(artifacts), cost, status_code=200)


def _encoded(images: tuple[SourceImage, ...]) -> tuple[tuple[str, str], ...]:
    """Reads files: for a worker thread."""
    return tuple((image.media_type, base64.b64encode(image.content.read()).decode()) for image in images)


REMOTE: Final = Remote(
    NAME, "gemini_key", lambda settings, key: Gemini(settings.gemini_url, key, finisher_for(settings, ()))
)
