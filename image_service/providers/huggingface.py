"""Hugging Face's inference router in front of fal: jobs in fal's queue, asked for through the router.

The provider's name is `fal`, as in the price catalogue: the router passes its prices on as they are. Its key and URL
are IMAGE_HUGGINGFACE_KEY and IMAGE_HUGGINGFACE_URL.

Sources, read on 2026-11-23: https://huggingface.co/docs/inference-providers/providers/fal-ai and /pricing, and
https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/inference/_providers/fal_ai.py (the paths:
/fal-ai/MODEL?_subdomain=queue; of the answer's response_url only the path is used, as that URL leads to fal itself, to
whom the token is not to be sent); https://fal.ai/docs/api-reference/inference-api (IN_QUEUE, IN_PROGRESS, COMPLETED),
https://fal.ai/docs/documentation/model-apis/errors ({"detail": [{"loc", "msg", "type"}]}), /request-errors
({"detail", "error_type"}, X-Fal-Error-Type) and /faq: "Server errors (HTTP 500+) are never charged"; what
the content checker refuses with 422 costs one unit. A result that it found to be not safe for work was made, and comes
black: it counts as billed.
"""

import asyncio
import base64
import re
import secrets
from typing import Any, Final

import httpx

from image_service.images import SourceImage
from image_service.providers.attempt import Attempt
from image_service.providers.base import (
    SEED_MAX,
    Model,
    OutcomeUnknownError,
    ProviderError,
    ProviderRequest,
    ProviderResult,
    Quote,
    StillRunning,
)
from image_service.providers.client import STARTED, RemoteProvider
from image_service.providers.http import Answer, Order, Pace, TroubleError
from image_service.providers.huggingface_models import MODELS, plan, quote
from image_service.providers.jobs import Done, Job, NotDone, Running, Seen, in_order
from image_service.providers.refusals import FILTERED, Refusals, word, word_at
from image_service.providers.remote import Remote, finisher_for

NAME: Final = "fal"
RESULT_HOSTS: Final = ("fal.media", "*.fal.media")
#: More requests at once than an account may have wait in fal's queue.
PACE: Final = Pace(calls_max=64)
QUEUE: Final = "?_subdomain=queue"
#: Where outputs stand in a result, one or a list of them.
_OUTPUTS: Final = ("images", "image", "model_mesh", "video")

_RESPONSE_PATH: Final = re.compile(r"(/[A-Za-z0-9._-]{1,100}){2}/requests/[A-Za-z0-9-]{1,100}")
#: Where the type of the first error stands.
_TYPE_AT: Final = ("detail", 0, "type")
#: Of a result: ends that are none of the model's. Whoever has the key may cancel a job at fal (499), while it runs too.
_ENDED: Final = frozenset({400, 499})
_CHECKED: Final = "content_policy_violation"
_REFUSALS: Final = Refusals(NAME, invalid=frozenset({422}), word_at=_TYPE_AT)
_RUNNING: Final = frozenset({"IN_QUEUE", "IN_PROGRESS"})


def refusal(answer: Answer) -> NotDone | None:
    """What an answer means that says that there is no result, and will be none; None where it is not certain, or a
    success. Nothing is billed, but one unit for what the content checker refuses."""
    error = _REFUSALS(answer)
    if error is None:
        return None
    if answer.status == 422 and word_at(answer, *_TYPE_AT) == _CHECKED:
        error = ProviderError(FILTERED, error.message, cost_nanos=None, status_code=422, retry_count=answer.retries)
    return NotDone(error, units=1)


def failure(answer: Answer) -> NotDone | None:
    """What a result with status 400, or 500 and more, means: a job that failed, and costs nothing, where fal names the
    type of the error; None where it may be the way there that fails, which 400 is unless the model says it."""
    named = word_at(answer, *_TYPE_AT) if answer.status == 400 else _error_type(answer)
    if named is None or (answer.status != 400 and answer.status < 500):
        return None
    return NotDone(ProviderError("job_failed", f"the job failed: {named} ({answer.status})", status_code=answer.status))


def _error_type(answer: Answer) -> str | None:
    """In its header, beside the detail or in a list of them."""
    return word(answer.headers.get("x-fal-error-type")) or word_at(answer, "error_type") or word_at(answer, *_TYPE_AT)


def read_path(content: Any) -> str:  # Any: JSON
    """The path of ``response_url``: the job's name. Raises ValueError."""
    url = content.get("response_url") if isinstance(content, dict) else None
    try:
        path = httpx.URL(url).path if isinstance(url, str) else ""
    except httpx.InvalidURL:
        path = ""
    if not _RESPONSE_PATH.fullmatch(path) or ".." in path:
        raise ValueError("no URL of a result")
    return path


def read_status(content: Any) -> str:  # Any: JSON
    """Raises ValueError."""
    status = content.get("status") if isinstance(content, dict) else None
    if status not in (*_RUNNING, "COMPLETED"):
        raise ValueError("no status of a job")
    return str(status)


def read_result(content: Any) -> Seen:  # Any: JSON
    """Raises ValueError."""
    if not isinstance(content, dict):
        raise ValueError("no result")
    unsafe = content.get("has_nsfw_concepts")
    if isinstance(unsafe, list) and any(one is True for one in unsafe):
        message = f"{NAME} made it, and blackened it as not safe for work"
        return NotDone(ProviderError(FILTERED, message, cost_nanos=None, status_code=200))
    found: Any = next((content[name] for name in _OUTPUTS if content.get(name)), [])  # JSON
    files = found if isinstance(found, list) else [found]
    urls = tuple(str(one["url"]) for one in files if isinstance(one, dict) and isinstance(one.get("url"), str))
    seed = content.get("seed")
    return Done(urls, seed if isinstance(seed, int) and 0 <= seed <= SEED_MAX else None)


class HuggingFace(RemoteProvider):
    name = NAME
    models = MODELS
    pace = PACE
    refusals = _REFUSALS

    def quote(self, model: Model, request: ProviderRequest) -> Quote:
        return quote(model, request)

    async def _run(self, model: str, request: ProviderRequest, attempt: Attempt) -> ProviderResult:
        planned = plan(model, request, secrets.randbelow(2**31))
        urls = await asyncio.to_thread(_data_urls, planned.images)
        job = Job(ids=(), wanted=planned.wanted, gives=planned.gives, size=planned.size, seed=planned.seed,
                  units=planned.units)  # fmt: skip

        async def start(index: int) -> str:
            order = Order(f"/fal-ai/{model}{QUEUE}", json=planned.body(urls, index))
            return await self._ordered(order, attempt, lambda answer: read_path(answer.json()), STARTED)

        async with self._channel.turn():
            started, error = await in_order(start, job, attempt)
            return await self._finisher.follow(started, self._look, attempt, error)

    generate = edit = upscale = image_to_3d = image_to_video = _run

    async def recover(self, model: str, job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
        del model
        return await self._finisher.look_once(Job.read(job_id), self._look, attempt)

    def _refused(self, answer: Answer, attempt: Attempt) -> ProviderError | None:
        refused = refusal(answer)
        if refused is None:
            return None
        if refused.error.cost_nanos is None:
            attempt.used(quantity=refused.units)
        return refused.error

    async def _look(self, job_id: str) -> Seen:
        status = await self._asked(f"/fal-ai{job_id}/status{QUEUE}", job_id)
        if isinstance(status, NotDone):
            return status
        try:
            word = read_status(status.json())
            if word in _RUNNING:
                return Running(word)
            result = await self._asked(f"/fal-ai{job_id}{QUEUE}", job_id)
            return result if isinstance(result, NotDone) else read_result(result.json())
        except TroubleError as error:
            failed = None if error.answer is None else failure(error.answer)
            if failed is not None:
                return failed
            if error.answer is not None and error.answer.status in _ENDED and _error_type(error.answer):
                message = f"{NAME} ended the job {job_id} ({error.answer.status}), and does not say what it costs"
                raise OutcomeUnknownError(message) from error
            raise
        except ValueError as error:
            raise TroubleError(f"{NAME} answered with what says nothing of a job") from error

    async def _asked(self, path: str, job_id: str) -> Answer | NotDone:
        """Raises TroubleError; OutcomeUnknownError where there is no such job."""
        answer = await self._channel.look(path, lambda answer: failure(answer) is not None)
        if answer.status == 404:
            raise OutcomeUnknownError(f"{NAME} knows nothing of the job {job_id}")
        if answer.status == 422:
            refused = refusal(answer)
            assert refused is not None, "422 is among the refusals"
            return refused
        if answer.status not in (200, 202):
            raise TroubleError(f"{NAME} answered with status {answer.status}", answer)
        return answer


def _data_urls(images: tuple[SourceImage, ...]) -> list[str]:
    """Reads files: for a worker thread."""
    return [f"data:{one.media_type};base64,{base64.b64encode(one.content.read()).decode()}" for one in images]


REMOTE: Final = Remote(
    NAME,
    "huggingface_key",
    lambda settings, key: HuggingFace(settings.huggingface_url, key, finisher_for(settings, RESULT_HOSTS)),
)
