"""generate: text to image."""

from typing import Annotated

from pydantic import Field, StringConstraints

from image_service.images import Bounds, SourceImage
from image_service.operations.base import Operation, Parameters, bad_field
from image_service.providers.base import SEED_MAX, GenerateRequest, ImageGeneration, ProviderResult, as_generation

_Edge = Annotated[int, Field(ge=16, le=4096)]


class GenerateParameters(Parameters):
    prompt: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]
    width: Annotated[_Edge, Field(description="Pixels of every image that comes back.")]
    height: _Edge
    seed: Annotated[
        int | None, Field(ge=0, le=SEED_MAX, description="The same seed and prompt give the same image.")
    ] = None
    variations: Annotated[int, Field(ge=1, le=10, description="How many images; each is a unit.")] = 1


def _check(parameters: GenerateParameters, source: SourceImage | None, bounds: Bounds) -> None:
    del source
    too_large = bounds.broken_by(parameters.width, parameters.height)
    if too_large:
        raise bad_field("width", too_large)


async def _run(
    provider: ImageGeneration, model: str, parameters: GenerateParameters, source: SourceImage | None
) -> ProviderResult:
    del source
    return await provider.generate(
        model,
        GenerateRequest(
            parameters.prompt, parameters.width, parameters.height, parameters.seed, count=parameters.variations
        ),
    )


def _quantity(parameters: GenerateParameters) -> int:
    return parameters.variations


OPERATION = Operation(
    name="generate",
    summary="Make images from a text",
    description="`variations` images of exactly `width` x `height`. The seed that was used is in the answer.",
    parameters=GenerateParameters,
    takes_image=False,
    capability=as_generation,
    default_provider="local",
    default_model="local-render-1",
    check=_check,
    run=_run,
    quantity=_quantity,
)
