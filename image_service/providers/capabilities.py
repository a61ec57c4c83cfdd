"""What providers can do: one protocol per capability; a provider implements those it has.

``attempt``: see attempt.py; how a method may end: see base.py; what it is asked: see requests.py.
"""

from typing import Protocol, runtime_checkable

from image_service.providers.attempt import Attempt
from image_service.providers.base import Provider, ProviderResult
from image_service.providers.requests import (
    CharacterRequest,
    ControlRequest,
    EditRequest,
    FaceSwapRequest,
    GenerateRequest,
    ThreeDRequest,
    UpscaleRequest,
    VideoRequest,
)


@runtime_checkable
class ImageGeneration(Provider, Protocol):
    async def generate(self, model: str, request: GenerateRequest, attempt: Attempt) -> ProviderResult:
        """Exactly ``count`` images of exactly the asked size."""
        ...


@runtime_checkable
class ConsistentCharacter(Provider, Protocol):
    async def character(self, model: str, request: CharacterRequest, attempt: Attempt) -> ProviderResult:
        """Exactly ``count`` images of exactly the asked size."""
        ...


@runtime_checkable
class ImageEdit(Provider, Protocol):
    async def edit(self, model: str, request: EditRequest, attempt: Attempt) -> ProviderResult:
        """One image. It is only called for kinds that the model has."""
        ...


@runtime_checkable
class FaceSwap(Provider, Protocol):
    async def face_swap(self, model: str, request: FaceSwapRequest, attempt: Attempt) -> ProviderResult:
        """One image, as large as ``image``."""
        ...


@runtime_checkable
class ImageUpscale(Provider, Protocol):
    async def upscale(self, model: str, request: UpscaleRequest, attempt: Attempt) -> ProviderResult:
        """One image. It is only called for kinds that the model has."""
        ...


@runtime_checkable
class ImageControl(Provider, Protocol):
    async def control(self, model: str, request: ControlRequest, attempt: Attempt) -> ProviderResult:
        """One image. It is only called for kinds that the model has."""
        ...


@runtime_checkable
class ImageTo3d(Provider, Protocol):
    async def image_to_3d(self, model: str, request: ThreeDRequest, attempt: Attempt) -> ProviderResult:
        """One model, as a GLB (model/gltf-binary)."""
        ...


@runtime_checkable
class ImageToVideo(Provider, Protocol):
    async def image_to_video(self, model: str, request: VideoRequest, attempt: Attempt) -> ProviderResult:
        """One clip."""
        ...


# --- a provider as one that has the capability, if it has


def as_generation(provider: Provider) -> ImageGeneration | None:
    return provider if isinstance(provider, ImageGeneration) else None


def as_character(provider: Provider) -> ConsistentCharacter | None:
    return provider if isinstance(provider, ConsistentCharacter) else None


def as_edit(provider: Provider) -> ImageEdit | None:
    return provider if isinstance(provider, ImageEdit) else None


def as_face_swap(provider: Provider) -> FaceSwap | None:
    return provider if isinstance(provider, FaceSwap) else None


def as_upscale(provider: Provider) -> ImageUpscale | None:
    return provider if isinstance(provider, ImageUpscale) else None


def as_control(provider: Provider) -> ImageControl | None:
    return provider if isinstance(provider, ImageControl) else None


def as_image_to_3d(provider: Provider) -> ImageTo3d | None:
    return provider if isinstance(provider, ImageTo3d) else None


def as_image_to_video(provider: Provider) -> ImageToVideo | None:
    return provider if isinstance(provider, ImageToVideo) else None
