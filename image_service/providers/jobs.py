"""Jobs at a provider: followed to their end by the call that started them, or by whoever finds them after a restart."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from image_service.artifacts import Artifact
from image_service.images import Bounds
from image_service.providers.attempt import Attempt
from image_service.providers.base import OutcomeUnknownError, ProviderError, ProviderResult, StillRunning
from image_service.providers.deliverables import (
    BadResultError,
    decoded,
    glb_from,
    image_from,
    image_of_size,
    mp4_from,
)
from image_service.providers.downloads import BadResultUrlError, DownloadError, Downloads
from image_service.providers.http import TroubleError

T = TypeVar("T")

RESULT_UNUSABLE: Final = "result_unusable"
POLL_SECONDS_FIRST: Final = 0.25
POLL_SECONDS_MAX: Final = 2.0
POLL_GROWTH: Final = 1.5
#: Of a job: what there is beyond is not what was ordered, and would fill the disk.
OUTPUTS_MAX: Final = 10

Gives = Literal["image", "glb", "mp4"]


class Job(BaseModel):
    """What `Attempt.accepted` keeps: all that it takes to finish an order without the request.

    ``wanted`` jobs were to be started; fewer ``ids`` say that the rest may have been started without an answer.
    """

    model_config = ConfigDict(frozen=True)

    ids: tuple[str, ...]
    wanted: int = 1
    gives: Gives = "image"
    #: Of an image that has to have this size exactly, in pixels.
    size: tuple[int, int] | None = None
    seed: int | None = None
    #: That one of the jobs is billed as, where it is not one: its megapixels, say.
    units: int | None = None

    @classmethod
    def read(cls, job_id: str | None) -> "Job":
        """Raises OutcomeUnknownError where there is none: what was ordered cannot be found again then."""
        if job_id is None:
            raise OutcomeUnknownError("the provider's answer, with the id of the job, was lost")
        try:
            return cls.model_validate_json(job_id)
        except ValidationError as error:
            raise OutcomeUnknownError("the note of the job cannot be read") from error

    def text(self) -> str:
        return self.model_dump_json(exclude_none=True)


def invoiced_ids(kept: str | None) -> tuple[str, ...]:
    """The provider's own ids of jobs, as they stand in its invoice, out of what `Attempt.accepted` kept. fal's come
    with the path by which they are asked for."""
    if kept is None:
        return ()
    try:
        ids = Job.model_validate_json(kept).ids
    except ValidationError:
        ids = (kept,)
    return tuple(found for id_ in ids if (found := id_.rpartition("/")[2]))


@dataclass(frozen=True)
class Running:
    """``state``: the provider's word."""

    state: str
    fraction: float | None = None


@dataclass(frozen=True)
class Done:
    """A job that was billed, and where its results are: URLs, base64, bytes, or a file."""

    outputs: tuple[str | bytes | Path, ...]
    seed: int | None = None


@dataclass(frozen=True)
class NotDone:
    """A job that failed. ``units``: that it is billed as, where its error has it billed, but not as a result is."""

    error: ProviderError
    units: int | None = None


Seen = Running | Done | NotDone
#: One look at a job by its id. Raises TroubleError; OutcomeUnknownError where the provider knows no such job.
Look = Callable[[str], Awaitable[Seen]]


class Finisher:
    """Makes results of finished jobs. ``poll_seconds``: between two looks, at first and at most."""

    def __init__(
        self,
        downloads: Downloads,
        bounds: Bounds,
        *,
        poll_seconds: tuple[float, float] = (POLL_SECONDS_FIRST, POLL_SECONDS_MAX),
    ) -> None:
        self._downloads = downloads
        self._bounds = bounds
        self._poll_seconds_first, self._poll_seconds_max = poll_seconds

    @property
    def bytes_max(self) -> int:
        """Of one result."""
        return self._downloads.bytes_max

    @property
    def bounds(self) -> Bounds:
        """Of an image that is a result."""
        return self._bounds

    async def close(self) -> None:
        await self._downloads.close()

    async def follow(
        self, job: Job, look: Look, attempt: Attempt, error: ProviderError | None = None
    ) -> ProviderResult:
        """Until all of them have ended; the attempt's deadline is the service's to keep.

        Raises ProviderError, as soon as all is known that is to be paid: where a job failed, or where ``error`` kept
        further ones from being started. OutcomeUnknownError where the provider knows nothing of a job.
        """
        pause = self._poll_seconds_first
        ended: dict[str, Done | NotDone] = {}
        while True:
            asked_for = await self._look_at_all(job, look, attempt, ended)
            if len(ended) == len(job.ids):
                return await self._finish(job, list(ended.values()), attempt, error)
            await asyncio.sleep(max(pause, asked_for))
            pause = min(pause * POLL_GROWTH, self._poll_seconds_max)

    async def look_once(self, job: Job, look: Look, attempt: Attempt) -> ProviderResult | StillRunning:
        """For `Provider.recover`. Raises ProviderError, OutcomeUnknownError, TroubleError."""
        if len(job.ids) < job.wanted:
            raise OutcomeUnknownError(f"{job.wanted} jobs were to be started; the ids of {len(job.ids)} are known")
        ended: dict[str, Done | NotDone] = {}
        await self._look_at_all(job, look, attempt, ended, raising=True)
        if len(ended) < len(job.ids):
            return StillRunning(self._poll_seconds_max)
        return await self._finish(job, list(ended.values()), attempt)

    async def _look_at_all(
        self, job: Job, look: Look, attempt: Attempt, ended: dict[str, Done | NotDone], *, raising: bool = False
    ) -> float:
        """Returns for how many seconds the provider asked not to be looked at again."""
        for job_id in job.ids:
            if job_id in ended:
                continue
            try:
                seen = await look(job_id)
            except TroubleError as trouble:
                if raising:
                    raise
                attempt.progress(None, "cannot be asked at the moment")
                return trouble.after_seconds
            if isinstance(seen, Running):
                attempt.progress(seen.fraction or (len(ended) / job.wanted or None), seen.state)
            else:
                ended[job_id] = seen
        return 0.0

    async def _finish(
        self, job: Job, ended: list[Done | NotDone], attempt: Attempt, error: ProviderError | None = None
    ) -> ProviderResult:
        done = [one for one in ended if isinstance(one, Done)]
        failed = [one for one in ended if isinstance(one, NotDone)]
        if error is not None or failed:
            errors = [*(one.error for one in failed), *([error] if error is not None else [])]
            raise partly_billed(errors, len(done), attempt, _billed_units(job, ended, error))
        artifacts = []
        for one in done:
            artifacts.extend(await self.artifacts(one, job, attempt))
        seed = job.seed if job.seed is not None else done[0].seed
        return ProviderResult(tuple(artifacts), status_code=200, seed=seed)

    async def artifacts(self, done: Done, job: Job, attempt: Attempt) -> list[Artifact]:
        """What a finished job gave. Raises ProviderError, billed like a result: the provider did its work."""
        attempt.progress(None, "fetching the result")
        try:
            if not done.outputs:
                raise BadResultError("the job has no result")
            sources = [await self._source(output, attempt) for output in done.outputs[:OUTPUTS_MAX]]
            return [await asyncio.to_thread(self._check, source, job) for source in sources]
        except (BadResultError, BadResultUrlError, DownloadError) as error:
            raise ProviderError(
                RESULT_UNUSABLE, f"the provider did it, but its result cannot be used: {error}", cost_nanos=None,
                status_code=200,
            ) from error  # fmt: skip

    async def priced(
        self, done: Done, job: Job, attempt: Attempt, cost_nanos: int, retry_count: int = 0
    ) -> ProviderResult:
        """The same, of a provider whose answer says what it billed. Raises ProviderError at that price."""
        try:
            artifacts = await self.artifacts(done, job, attempt)
        except ProviderError as error:
            raise ProviderError(error.code, error.message, cost_nanos=cost_nanos, status_code=200) from error
        return ProviderResult(tuple(artifacts), cost_nanos, status_code=200, retry_count=retry_count)

    async def _source(self, output: str | bytes | Path, attempt: Attempt) -> bytes | Path:
        if isinstance(output, str):
            is_url = output[:6].lower() in ("http:/", "https:")
            return await (self._downloads.fetch(output, attempt) if is_url else asyncio.to_thread(decoded, output))
        return output

    def _check(self, source: bytes | Path, job: Job) -> Artifact:
        if job.gives == "glb":
            return glb_from(source)
        if job.gives == "mp4":
            return mp4_from(source)
        if job.size is None:
            return image_from(source, self._bounds)
        return image_of_size(source, self._bounds, *job.size)


def _billed_units(job: Job, ended: Sequence[Done | NotDone], error: ProviderError | None) -> int | None:
    if job.units is None:
        return None
    units = 1 if error is not None and error.cost_nanos is None else 0
    for one in ended:
        if isinstance(one, Done):
            units += job.units
        elif one.error.cost_nanos is None:
            units += job.units if one.units is None else one.units
    return units


def partly_billed(
    errors: Sequence[ProviderError], done: int, attempt: Attempt, units: int | None = None
) -> ProviderError:
    """Of an order's jobs some failed, and ``done`` did not: the operation failed, at the price of all that was billed,
    failed ones among it where their error says so. ``units``: what those come to, where that is not one for each."""
    first = errors[0]
    billed = done + sum(error.cost_nanos is None for error in errors)
    if billed and units is not None:
        attempt.used(quantity=units)
    if not billed or len(errors) + done == 1:
        return first
    attempt.used(quantity=billed if units is None else units)
    message = f"{first.message} ({billed} of the images were billed)"
    return ProviderError(first.code, message, cost_nanos=None, status_code=first.status_code)


async def in_order(
    start: Callable[[int], Awaitable[str]], job: Job, attempt: Attempt
) -> tuple[Job, ProviderError | None]:
    """Start the jobs that ``job`` wants, one after the other, each id kept before the next order goes out.

    ``start`` raises ProviderError where nothing was started: the job then has fewer ids than wanted, and what they do
    is still to be paid.
    """
    for index in range(job.wanted):
        try:
            job = job.model_copy(update={"ids": (*job.ids, await start(index))})
        except ProviderError as error:
            if not job.ids:
                raise
            return job, error
        await attempt.accepted(job.text())
    return job, None


async def at_once(orders: Iterable[Awaitable[T]]) -> tuple[list[T], list[ProviderError]]:
    """What several orders gave that are answered with their results, and what became of the rest, once all have ended.

    Raises what any of them raised that is no ProviderError: not known of one, not known of the operation.
    """
    given: list[T] = []
    errors: list[ProviderError] = []
    for ended in await asyncio.gather(*orders, return_exceptions=True):
        if isinstance(ended, ProviderError):
            errors.append(ended)
        elif isinstance(ended, BaseException):
            raise ended
        else:
            given.append(ended)
    return given, errors
