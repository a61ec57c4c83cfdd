"""A provider that does as a test says: delivers, fails, hangs, forgets; and counts what it would bill."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from image_service.artifacts import Artifact
from image_service.providers.attempt import Attempt
from image_service.providers.base import Model, ProviderRequest, ProviderResult, Quote, StillRunning, plain_quote
from image_service.providers.requests import GenerateRequest, VideoRequest
from tests.integration.image_harness import picture

PICTURE = Artifact.of(picture((48, 32)), "image/png", width=48, height=32)

Step = Callable[[Attempt], Awaitable[ProviderResult]]
Look = Callable[[str | None, Attempt], Awaitable[ProviderResult | StillRunning]]


def delivered(cost_nanos: int | None = None) -> ProviderResult:
    return ProviderResult((PICTURE,), cost_nanos, status_code=200)


async def deliver(attempt: Attempt) -> ProviderResult:
    attempt.sending()
    return delivered()


def raising(error: Exception, *, sent: bool = True, job: str | None = None) -> Step:
    async def step(attempt: Attempt) -> ProviderResult:
        if sent:
            attempt.sending()
        if job is not None:
            await attempt.accepted(job)
        raise error

    return step


def hanging(job: str | None = None, *, sent: bool = True) -> Step:
    async def step(attempt: Attempt) -> ProviderResult:
        if sent:
            attempt.sending()
        if job is not None:
            await attempt.accepted(job)
        await asyncio.sleep(3600)
        raise AssertionError("nobody waits so long")

    return step


async def unknown_job(job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
    raise AssertionError("nothing is to be recovered")


@dataclass
class ScriptedProvider:
    """``script``: what its calls do, in turn, then ``otherwise``. ``look``: what `recover` finds."""

    name: str = "paid"
    script: deque[Step] = field(default_factory=deque)
    otherwise: Step = deliver
    look: Look = unknown_job
    available: bool = True
    calls: int = 0
    looks: list[str | None] = field(default_factory=list)
    models: tuple[Model, ...] = (
        Model("paint-1", "generate"),
        Model("fixed-1", "generate", 10_000_000),
        Model("film-1", "image_to_video", 1_000_000, unit="second", long=True),
    )

    def quote(self, model: Model, request: ProviderRequest) -> Quote:
        return plain_quote(model, request)

    async def generate(self, model: str, request: GenerateRequest, attempt: Attempt) -> ProviderResult:
        return await self._next(attempt)

    async def image_to_video(self, model: str, request: VideoRequest, attempt: Attempt) -> ProviderResult:
        return await self._next(attempt)

    async def recover(self, model: str, job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
        self.looks.append(job_id)
        return await self.look(job_id, attempt)

    async def close(self) -> None:
        return None

    async def _next(self, attempt: Attempt) -> ProviderResult:
        self.calls += 1
        step = self.script.popleft() if self.script else self.otherwise
        return await step(attempt)
