"""generate: text to image."""

from typing import Annotated

from pydantic import Field, StringConstraints

from image_service.images import Bounds
from image_service.operations.base import Operation, Parameters, Prompt, Seed, Uploads, check_size
from image_service.providers.capabilities import as_generation
from image_service.providers.requests import GenerateRequest

OutputEdge = Annotated[int, Field(ge=16, le=4096)]
#: As the models and the price catalogue name it: low, medium, high, hd, standard …
Quality = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]


class GenerateParameters(Parameters):
    prompt: Prompt
    width: Annotated[OutputEdge, Field(description="Pixels of every image that comes back.")]
    height: OutputEdge
    seed: Seed | None = None
    variations: Annotated[int, Field(ge=1, le=10, description="How many images; each is a unit.")] = 1
    negative_prompt: Annotated[Prompt | None, Field(description="What is not to be seen.")] = None
    quality: Annotated[Quality | None, Field(description="In the model's own terms; by default its own choice.")] = None
    steps: Annotated[int | None, Field(ge=1, le=200, description="Of models that work in steps.")] = None


def _request(parameters: GenerateParameters, uploads: Uploads, bounds: Bounds) -> GenerateRequest:
    del uploads
    check_size(parameters.width, parameters.height, bounds, "width")
    return GenerateRequest(
        prompt=parameters.prompt,
        width=parameters.width,
        height=parameters.height,
        seed=parameters.seed,
        count=parameters.variations,
        negative_prompt=parameters.negative_prompt,
        quality=parameters.quality,
        steps=parameters.steps,
    )


OPERATION = Operation(
    name="generate",
    summary="Make images from a text",
    description="`variations` images of exactly `width` x `height`. The seed that was used is in the answer.",
    parameters=GenerateParameters,
    request=_request,
    capability=as_generation,
    run=lambda provider, model, request, attempt: provider.generate(model, request, attempt),
)
