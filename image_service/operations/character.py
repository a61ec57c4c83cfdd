"""character: the same character as in the reference images, somewhere else."""

from typing import Annotated

from pydantic import Field

from image_service.images import Bounds
from image_service.operations.base import Operation, Parameters, Prompt, Seed, UploadField, Uploads, check_size
from image_service.operations.generate import OutputEdge, Quality
from image_service.providers.capabilities import as_character
from image_service.providers.requests import CharacterRequest

REFERENCES_MAX = 4


class CharacterParameters(Parameters):
    prompt: Annotated[Prompt, Field(description="What the character does, and where.")]
    width: Annotated[OutputEdge, Field(description="Pixels of every image that comes back.")]
    height: OutputEdge
    seed: Seed | None = None
    variations: Annotated[int, Field(ge=1, le=10, description="How many images; each is a unit.")] = 1
    quality: Annotated[Quality | None, Field(description="In the model's own terms; by default its own choice.")] = None


def _request(parameters: CharacterParameters, uploads: Uploads, bounds: Bounds) -> CharacterRequest:
    check_size(parameters.width, parameters.height, bounds, "width")
    return CharacterRequest(
        prompt=parameters.prompt,
        references=uploads.all("reference"),
        width=parameters.width,
        height=parameters.height,
        seed=parameters.seed,
        count=parameters.variations,
        quality=parameters.quality,
    )


OPERATION = Operation(
    name="character",
    summary="Make images of a character",
    description="`variations` images of the character that the reference images show, of exactly `width` x `height`.",
    parameters=CharacterParameters,
    uploads=(UploadField("reference", "Who the character is; up to 4 images.", count_max=REFERENCES_MAX),),
    request=_request,
    capability=as_character,
    run=lambda provider, model, request, attempt: provider.character(model, request, attempt),
)
