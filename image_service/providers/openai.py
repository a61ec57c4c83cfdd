"""OpenAI: one request that is answered with the images themselves, in base64, and with the tokens that it took.

Sources, read on 2026-11-23: see openai_models.py; https://developers.openai.com/api/docs/guides/error-codes ({"error":
{"message", "type", "param", "code"}}; 429 for its rate limits and used-up credit); /api/reference/overview
(X-Client-Request-Id: an id of ours, for their support). There is no job and no way to ask for an answer that was lost:
what is in doubt stays in doubt. Refusals (400, moderation_blocked among them) come without a usage and bill nothing.
"""

import asyncio
import re
from typing import Any, Final

from pydantic import SecretStr

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
from image_service.providers.http import Answer, AnswerLostError, Channel, Order, Pace
from image_service.providers.jobs import Done, Finisher, Job
from image_service.providers.openai_models import MODELS, Plan, image_file, mask_file, plan, quote
from image_service.providers.remote import Remote, finisher_for
from image_service.providers.requests import CharacterRequest, EditRequest, GenerateRequest
from image_service.providers.token_prices import Tokens, cost_nanos, count

NAME: Final = "openai"
#: Limits are in images and tokens a minute, by tier; 429 says when one is reached.
PACE: Final = Pace(calls_max=64)

_CODE: Final = re.compile(r"[a-z_]{1,60}")
_REFUSALS: Final = {
    400: "invalid_input",
    401: "provider_credentials",
    402: "provider_credit",
    403: "provider_credentials",
    404: "provider_no_model",
    413: "invalid_input",
    415: "invalid_input",
    422: "invalid_input",
}
_FILTERED: Final = frozenset({"moderation_blocked", "content_policy_violation"})
_CREDIT: Final = frozenset({"billing_hard_limit_reached", "insufficient_quota"})
_ELSEWHERE: Final = frozenset({"provider_credentials", "provider_credit", "provider_no_model"})


def error_code(answer: Answer) -> str | None:
    """The ``code`` of an error. Its message may repeat the prompt, so that is not used."""
    try:
        content = answer.json()
    except ValueError:
        return None
    error = content.get("error") if isinstance(content, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) and _CODE.fullmatch(code) else None


def refusal(answer: Answer) -> ProviderError | None:
    """What an answer means that started nothing and bills nothing; None where that is not certain, or a success."""
    code = _REFUSALS.get(answer.status)
    if code is None:
        return None
    named = error_code(answer)
    if named in _FILTERED:
        code = "content_filtered"
    if named in _CREDIT:
        code = "provider_credit"
    return ProviderError(
        code,
        f"{NAME} refused the request: {named or 'status'} ({answer.status})",
        status_code=answer.status,
        retry_count=answer.retries,
        elsewhere=code in _ELSEWHERE,
    )


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


class OpenAi:
    name = NAME
    models = MODELS

    def __init__(self, url: str, key: SecretStr, finisher: Finisher, *, channel: Channel | None = None) -> None:
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"}
        self._channel = channel or Channel(NAME, url, headers, pace=PACE)
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
        planned = plan(request)
        order = await asyncio.to_thread(_order, planned, str(attempt.operation_id))
        async with self._channel.turn():
            answer = await self._send(order, attempt)
        return await self._read(model, planned, answer, attempt)

    async def _send(self, order: Order, attempt: Attempt) -> Answer:
        """The answer, which has status 200. Raises ProviderError, OutcomeUnknownError."""
        try:
            answer = await self._channel.order(order, attempt)
        except AnswerLostError as error:
            raise OutcomeUnknownError(f"{NAME} took a request, but its answer was cut off") from error
        refused = refusal(answer)
        if refused is not None:
            raise refused
        if answer.status != 200:
            raise OutcomeUnknownError(f"{NAME} answered with status {answer.status}; it may have been done")
        return answer

    async def _read(self, model: str, planned: Plan, answer: Answer, attempt: Attempt) -> ProviderResult:
        try:
            content = await asyncio.to_thread(answer.json)
        except ValueError as error:
            raise OutcomeUnknownError(f"{NAME} took a request, but its answer cannot be read") from error
        images, usage = read_images(content, planned.count), read_usage(content)
        if usage is None and images is None:
            raise OutcomeUnknownError(f"{NAME} answered with neither images nor a usage")
        cost = cost_nanos(model, planned.tokens_max if usage is None else usage)
        job = Job(ids=(), wanted=planned.count, size=planned.wanted)
        try:
            artifacts = await self._finisher.artifacts(Done(images or ()), job, attempt)
        except ProviderError as error:
            raise ProviderError(error.code, error.message, cost_nanos=cost, status_code=200) from error
        return ProviderResult(tuple(artifacts), cost, status_code=200, retry_count=answer.retries)


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
