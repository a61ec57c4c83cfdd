"""WaveSpeed: jobs that are started with a POST to /api/v3/MODEL and polled until they have ended.

Sources, read on 2026-11-23: https://wavespeed.ai/docs/what-are-predictions and docs/shared/submit-response,
docs/shared/api-result (the answer's shape), docs/error-codes, docs/sync-mode, docs/upload-files-api and
docs-common-api/media-upload, docs/account-levels (rate limits: 429), docs/troubleshooting-guide ("failed requests are
automatically refunded"); https://github.com/WaveSpeedAI/wavespeed-python ("submission POSTs are always sent at most
once", the statuses cancelled and timeout).

Orders are asynchronous on purpose: their answer carries the job's id at once, whereas in sync mode (which may end
unfinished, or in a 504 while the job goes on) it comes with the result, if at all.
"""

import asyncio
import re
import secrets
from dataclasses import dataclass
from typing import Any, Final

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
from image_service.providers.client import STARTED, RemoteProvider
from image_service.providers.http import Order, Pace, TroubleError
from image_service.providers.jobs import Done, Job, NotDone, Running, Seen, in_order
from image_service.providers.refusals import FILTERED, INVALID, Refusals
from image_service.providers.remote import Remote, finisher_for
from image_service.providers.requests import UpscaleRequest
from image_service.providers.upscaling import check_made
from image_service.providers.wavespeed_models import MODELS, SEED_MAX, plan, quote, upscaled_size

NAME: Final = "wavespeed"
#: Where outputs have been seen to lie; IMAGE_RESULT_HOSTS adds to it.
RESULT_HOSTS: Final = (
    "*.wavespeed.ai",
    "d1q70pf5vjeyhc.cloudfront.net",
    "d2h7xmz5gqybh9.cloudfront.net",
)
#: The level Silver's: more tasks at once wait at WaveSpeed.
PACE: Final = Pace(calls_max=100)

_JOB_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
#: Ends that are refunded. What is no end that is known may still be done and billed.
_NOT_DONE: Final = frozenset({"failed", "cancelled", "canceled", "timeout"})
#: https://wavespeed.ai/docs/error-codes, of failed tasks. Its texts may repeat the prompt, so they are not passed on.
_FAILURES: Final = {
    1200: (FILTERED, "the content was found sensitive"),
    1400: (INVALID, "a parameter is missing"),
    1401: (INVALID, "a parameter has a wrong value"),
    1402: (INVALID, "an image could not be read"),
    1403: ("job_failed", "the task could not be done"),
    1405: ("job_failed", "the task failed"),
    5000: ("provider_error", "an internal error"),
    5003: ("provider_unavailable", "it is temporarily not available"),
    5004: ("provider_timeout", "the task took too long"),
}
refusal: Final = Refusals(NAME, invalid=frozenset({422}))
#: Codes of failed tasks that another provider may do all the same.
_ELSEWHERE: Final = frozenset({"provider_error", "provider_unavailable", "provider_timeout", "job_failed"})


@dataclass(frozen=True)
class Prediction:
    """The ``data`` of an answer, as far as it is used."""

    id: str
    status: str
    outputs: tuple[str, ...] = ()
    code: int | None = None


def read_prediction(content: Any) -> Prediction:  # Any: JSON of whatever shape
    """The prediction in an answer ``{code, message, data}``. Raises ValueError where there is none."""
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, dict):
        raise ValueError("no data")
    found, status, outputs = data.get("id"), data.get("status"), data.get("outputs") or []
    if not isinstance(found, str) or not _JOB_ID.fullmatch(found):
        raise ValueError("no id")
    if not isinstance(status, str) or not isinstance(outputs, list):
        raise ValueError("no status")
    code = data.get("code")
    return Prediction(
        found,
        status,
        tuple(output for output in outputs if isinstance(output, str)),
        code if isinstance(code, int) else None,
    )


def seen(prediction: Prediction) -> Seen:
    """What has become of a job. Failed ones are refunded, whatever they failed of."""
    if prediction.status == "completed":
        return Done(prediction.outputs)
    if prediction.status not in _NOT_DONE:
        return Running(prediction.status)
    code, why = _FAILURES.get(prediction.code or 0, ("job_failed", f"the task ended as {prediction.status}"))
    return NotDone(ProviderError(code, f"{NAME}: {why}", status_code=200, elsewhere=code in _ELSEWHERE))


class WaveSpeed(RemoteProvider):
    name = NAME
    models = MODELS
    pace = PACE
    refusals = refusal

    def quote(self, model: Model, request: ProviderRequest) -> Quote:
        quoted = quote(model, request)
        if isinstance(request, UpscaleRequest):
            check_made(*upscaled_size(request), self._finisher.bounds)
        return quoted

    async def _run(self, model: str, request: ProviderRequest, attempt: Attempt) -> ProviderResult:
        planned = plan(model, request, secrets.randbelow(SEED_MAX + 1))
        job = Job(ids=(), wanted=planned.wanted, gives=planned.gives, size=planned.size, seed=planned.seed)
        async with self._channel.turn():
            urls = [await self._upload(image) for image in planned.images]

            async def start(index: int) -> str:
                order = Order(f"/api/v3/{model}", json=planned.body(urls, index))
                return await self._ordered(order, attempt, lambda answer: read_prediction(answer.json()).id, STARTED)

            started, error = await in_order(start, job, attempt)
            return await self._finisher.follow(started, self._look, attempt, error)

    generate = character = edit = face_swap = upscale = image_to_3d = image_to_video = _run

    async def recover(self, model: str, job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
        del model
        return await self._finisher.look_once(Job.read(job_id), self._look, attempt)

    async def _look(self, job_id: str) -> Seen:
        answer = await self._channel.look(f"/api/v3/predictions/{job_id}/result")
        if answer.status == 404:
            raise OutcomeUnknownError(f"{NAME} knows nothing of the job {job_id}")
        try:
            return seen(read_prediction(answer.json()))
        except ValueError as error:
            raise TroubleError(f"{NAME} answered with status {answer.status}, and no job") from error

    async def _upload(self, image: SourceImage) -> str:
        """The URL by which a job finds the image. Costs nothing. Raises ProviderError."""
        content = await asyncio.to_thread(image.content.read)
        name = f"image.{image.media_type.rpartition('/')[2]}"
        answer = await self._channel.upload("/api/v3/media/upload/binary", (name, content, image.media_type))
        refused = refusal(answer)
        if refused is not None:
            raise refused
        try:
            url = answer.json()["data"]["download_url"]
        except (ValueError, KeyError, TypeError):
            url = None
        if not isinstance(url, str) or not url:
            raise ProviderError("provider_error", f"{NAME} took no upload (status {answer.status})", elsewhere=True)
        return url


REMOTE: Final = Remote(
    NAME,
    "wavespeed_key",
    lambda settings, key: WaveSpeed(settings.wavespeed_url, key, finisher_for(settings, RESULT_HOSTS)),
)
