"""Stability: forms to /v2beta, answered with the image itself, or with the id of a job.

Sources: see stability_models.py; https://kb.stability.ai/knowledge-base/api-key-rate-limit-information (150 requests in
10 seconds). What is billed: of every endpoint "You will not be charged for failed generations", and "your request was
denied and you were not charged" (403); a result with finish-reason CONTENT_FILTERED was made, and comes blurred: it
counts as billed. That does not make a 500 free: nothing was found that says that the generation failed then. It may
come from before it or from behind it, and of a job, the result may be there at the next look; so it is in doubt.
"""

import asyncio
import re
from typing import Final

import httpx

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
from image_service.providers.http import Answer, AnswerLostError, Channel, Order, Pace, TroubleError
from image_service.providers.jobs import (
    RESULT_UNUSABLE,
    Done,
    Job,
    NotDone,
    Running,
    Seen,
    at_once,
    partly_billed,
)
from image_service.providers.refusals import FILTERED, Refusals
from image_service.providers.remote import Remote, finisher_for
from image_service.providers.requests import UpscaleRequest
from image_service.providers.stability_models import MODELS, Plan, plan, quote, upscaled_size
from image_service.providers.upscaling import check_made

NAME: Final = "stability"
PACE: Final = Pace(calls_max=64, requests_max=150, per_seconds=10.0)
#: "Rate-limiting or other errors may occur if you poll more than once every 10 seconds."
POLL_SECONDS: Final = (10.0, 10.0)

_JOB_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,200}")
_SEED: Final = re.compile(r"[0-9]{1,10}")
refusal: Final = Refusals(
    NAME,
    invalid=frozenset({422}),
    word_at=("name",),
    codes={"content_moderation": FILTERED, "public_figure": FILTERED},
)


def is_result(headers: httpx.Headers) -> bool:
    """Whether these are the headers of something that was made, and so is billed, whatever becomes of its bytes."""
    media_type = str(headers.get("content-type", "")).partition(";")[0].strip().lower()
    return media_type.startswith("image/") or media_type == "model/gltf-binary"


def read_result(answer: Answer) -> Done:
    """The result in an answer with status 200. Raises ProviderError, billed: it is held back by the filter;
    OutcomeUnknownError: these are no words of Stability's."""
    if not is_result(answer.headers) or answer.file is None:
        raise OutcomeUnknownError(f"{NAME} answered with status 200, and no result")
    if answer.headers.get("finish-reason", "SUCCESS") == "CONTENT_FILTERED":
        raise ProviderError(
            FILTERED, f"{NAME} made it, and held it back as against its rules", cost_nanos=None,
            status_code=200, retry_count=answer.retries,
        )  # fmt: skip
    seed = answer.headers.get("seed", "")
    return Done((answer.file,), int(seed) if _SEED.fullmatch(seed) else None)


def read_job_id(answer: Answer) -> str:
    """Of ``{"id"}``. Raises OutcomeUnknownError."""
    try:
        content = answer.json()
    except ValueError:
        content = None
    found = content.get("id") if isinstance(content, dict) else None
    if not isinstance(found, str) or not _JOB_ID.fullmatch(found):
        raise OutcomeUnknownError(f"{NAME} took a request, but its answer names no job")
    return found


def _made_but_lost(error: AnswerLostError) -> ProviderError:
    return ProviderError(RESULT_UNUSABLE, f"{NAME} made it, but {error}", cost_nanos=None, status_code=error.status)


class Stability(RemoteProvider):
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
        planned = plan(model, request)
        uploads = await asyncio.to_thread(_uploads, planned)
        async with self._channel.turn():
            if planned.is_job:
                return await self._run_job(planned, uploads, attempt)
            orders = self._orders(planned, uploads)
            made, errors = await at_once(self._ordered(order, attempt, read_result) for order in orders)
        if errors:
            raise partly_billed(errors, len(made), attempt)
        job = Job(ids=(), wanted=len(made), gives=planned.gives, size=planned.size)
        artifacts = [artifact for one in made for artifact in await self._finisher.artifacts(one, job, attempt)]
        return ProviderResult(tuple(artifacts), status_code=200, seed=made[0].seed)

    generate = edit = upscale = control = image_to_3d = _run

    async def recover(self, model: str, job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
        """Only jobs can be found again; what is answered with the image itself cannot."""
        del model
        return await self._finisher.look_once(Job.read(job_id), self._looking(attempt), attempt)

    def _orders(self, planned: Plan, uploads: "_Uploads") -> list[Order]:
        return [
            Order(
                planned.path,
                form=form,
                files=uploads,
                headers={"Accept": "image/*" if planned.gives == "image" else "*/*"},
                spool=True,
                bytes_max=self._finisher.bytes_max,
            )
            for form in planned.forms
        ]

    async def _run_job(self, planned: Plan, uploads: "_Uploads", attempt: Attempt) -> ProviderResult:
        headers = {"Accept": "application/json"}
        order = Order(planned.path, form=planned.forms[0], files=uploads, headers=headers)
        job_id = await self._ordered(order, attempt, read_job_id, STARTED)
        job = Job(ids=(job_id,), gives=planned.gives, size=planned.size)
        await attempt.accepted(job.text())
        return await self._finisher.follow(job, self._looking(attempt), attempt)

    def _lost(self, error: AnswerLostError) -> ProviderError | OutcomeUnknownError:
        return _made_but_lost(error) if is_result(error.headers) else super()._lost(error)

    def _looking(self, attempt: Attempt) -> "_Looking":
        return _Looking(self._channel, attempt, self._finisher.bytes_max)


class _Looking:
    """Looks at a job, with its result going to a file of the attempt."""

    def __init__(self, channel: Channel, attempt: Attempt, bytes_max: int) -> None:
        self._channel = channel
        self._attempt = attempt
        self._bytes_max = bytes_max

    async def __call__(self, job_id: str) -> Seen:
        path = f"/v2beta/results/{job_id}"
        try:
            answer = await self._channel.look_spooled(path, self._attempt, self._bytes_max, {"Accept": "image/*"})
        except AnswerLostError as error:
            if error.status != 200:
                raise TroubleError(f"{NAME}: {error}") from error
            return NotDone(_made_but_lost(error))
        if answer.status == 202:
            return Running("in-progress")
        if answer.status == 404:
            raise OutcomeUnknownError(f"{NAME} knows nothing of the job {job_id}")
        refused = refusal(answer)
        if refused is not None and refused.code == FILTERED:
            return NotDone(refused)
        if answer.status != 200:
            raise TroubleError(f"{NAME} answered with status {answer.status}")
        try:
            return read_result(answer)
        except ProviderError as error:
            return NotDone(error)
        except OutcomeUnknownError as error:
            raise TroubleError(str(error)) from error


_Uploads = tuple[tuple[str, tuple[str, bytes, str]], ...]


def _uploads(planned: Plan) -> _Uploads:
    """Reads files: for a worker thread."""
    return tuple(
        (name, (f"{name}.{image.media_type.rpartition('/')[2]}", image.content.read(), image.media_type))
        for name, image in planned.images.items()
    )


REMOTE: Final = Remote(
    NAME,
    "stability_key",
    lambda settings, key: Stability(settings.stability_url, key, finisher_for(settings, (), POLL_SECONDS)),
)
