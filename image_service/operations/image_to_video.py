"""image_to_video: a clip that begins with an image."""

from typing import Annotated

from pydantic import Field

from image_service.images import Bounds
from image_service.operations.base import IMAGE, Operation, Parameters, Prompt, Seed, Uploads
from image_service.providers.capabilities import as_image_to_video
from image_service.providers.requests import VideoRequest, VideoResolution


class VideoParameters(Parameters):
    prompt: Annotated[Prompt | None, Field(description="What moves, and how.")] = None
    seconds: Annotated[int, Field(ge=1, le=20, description="How long; each second is a unit.")] = 5
    resolution: Annotated[VideoResolution, Field(description="Lines of the picture, as videos count them.")] = "720p"
    seed: Seed | None = None


def _request(parameters: VideoParameters, uploads: Uploads, bounds: Bounds) -> VideoRequest:
    del bounds
    return VideoRequest(
        image=uploads.one("image"),
        prompt=parameters.prompt,
        seconds=parameters.seconds,
        resolution=parameters.resolution,
        seed=parameters.seed,
    )


OPERATION = Operation(
    name="image_to_video",
    summary="Make a clip of an image",
    description="A clip of `seconds` seconds that begins with the image.",
    parameters=VideoParameters,
    uploads=(IMAGE,),
    request=_request,
    capability=as_image_to_video,
    run=lambda provider, model, request, attempt: provider.image_to_video(model, request, attempt),
)
