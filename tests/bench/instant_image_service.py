"""The image service with a provider that answers at once: what is left is the service's own work."""

import asyncio
import shutil
import sys
from pathlib import Path

from image_service.artifacts import Artifact, Content
from image_service.config import Settings
from image_service.images import encode
from image_service.main import run
from image_service.providers.attempt import Attempt
from image_service.providers.base import Model, ProviderRequest, ProviderResult, Quote, StillRunning, plain_quote
from image_service.providers.local_render import render
from image_service.providers.registry import Providers
from image_service.providers.requests import EditRequest, GenerateRequest

_RESULT = ProviderResult((encode(render("a lighthouse", 7, 64, 64, 0), "image/png"),), 10_000_000, status_code=200)


def _copy(content: Content, path: Path) -> None:
    with content.open() as source, path.open("wb") as file:
        shutil.copyfileobj(source, file)


class InstantProvider:
    """Does as a real one does, but for the network: says what it sends, which job it is, how far it is."""

    name = "instant"
    models = (
        Model("instant-1", "generate", 10_000_000),
        Model("instant-edit-1", "edit", 10_000_000, kinds=frozenset({"remove_background"})),
    )
    available = True

    def quote(self, model: Model, request: ProviderRequest) -> Quote:
        return plain_quote(model, request)

    async def generate(self, model: str, request: GenerateRequest, attempt: Attempt) -> ProviderResult:
        attempt.sending()
        attempt.progress(0.5, "processing")
        return _RESULT

    async def edit(self, model: str, request: EditRequest, attempt: Attempt) -> ProviderResult:
        """What came, as a large answer comes: into a file."""
        attempt.sending()
        path, image = attempt.spool(), request.image
        await asyncio.to_thread(_copy, image.content, path)
        return ProviderResult((Artifact.of(path, image.media_type, width=image.width, height=image.height),))

    async def recover(self, model: str, job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
        return _RESULT

    async def close(self) -> None:
        return None


def providers(settings: Settings) -> Providers:
    return Providers((InstantProvider(),))


if __name__ == "__main__":
    sys.exit(run(providers))
