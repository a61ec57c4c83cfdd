"""upscale: the same picture with more pixels."""

from typing import Annotated, Final, get_args

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from image_service.images import Bounds, SourceImage
from image_service.operations.base import (
    IMAGE,
    Edge,
    Operation,
    Parameters,
    Prompt,
    Seed,
    Strength,
    Uploads,
    bad_field,
    check_size,
    scaled,
)
from image_service.providers.capabilities import as_upscale
from image_service.providers.requests import UpscaleKind, UpscaleRequest

FACTOR_DEFAULT: Final = 2


class UpscaleParameters(Parameters):
    """Either a factor, or the size to reach; of that, one edge is enough."""

    kind: Annotated[
        UpscaleKind,
        Field(description="fast: more pixels; conservative: details that are there; creative: details that may be."),
    ] = "fast"
    factor: Annotated[int | None, Field(ge=2, le=4, description="2, 3 or 4; 2 where nothing else is said.")] = None
    width: Annotated[Edge | None, Field(description="Pixels to reach, instead of a factor.")] = None
    height: Edge | None = None
    prompt: Annotated[Prompt | None, Field(description="conservative, creative: what the picture shows.")] = None
    creativity: Annotated[Strength | None, Field(description="conservative, creative: how much may be invented.")] = (
        None
    )
    seed: Annotated[Seed | None, Field(description="conservative, creative.")] = None

    @field_validator("width", "height")
    @classmethod
    def _instead_of_factor(cls, edge: int | None, info: ValidationInfo) -> int | None:
        if edge is not None and info.data.get("factor") is not None:
            raise PydanticCustomError("factor_or_size", "give either factor or a size")
        return edge

    @field_validator("prompt", "creativity", "seed")
    @classmethod
    def _not_with_fast(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and info.data.get("kind") == "fast":
            raise PydanticCustomError("not_with_kind", "does nothing with the kind {kind}", {"kind": "fast"})
        return value


def target_size(parameters: UpscaleParameters, image: SourceImage) -> tuple[int, int]:
    """Pixels that come out for an image. One edge alone keeps the proportions."""
    if parameters.width is not None or parameters.height is not None:
        return scaled(parameters.width, parameters.height, image)
    factor = parameters.factor or FACTOR_DEFAULT
    return image.width * factor, image.height * factor


def _request(parameters: UpscaleParameters, uploads: Uploads, bounds: Bounds) -> UpscaleRequest:
    image = uploads.one("image")
    width, height = target_size(parameters, image)
    by_size = parameters.width is not None or parameters.height is not None
    field = "factor" if not by_size else "width" if parameters.width is not None else "height"
    if width < image.width or height < image.height:
        field = "width" if parameters.width is not None and width < image.width else "height"
        raise bad_field(field, f"{width} x {height} is smaller than the image, {image.width} x {image.height}")
    check_size(width, height, bounds, field)
    return UpscaleRequest(
        image=image,
        kind=parameters.kind,
        width=width,
        height=height,
        exact=by_size or parameters.factor is not None,
        prompt=parameters.prompt,
        creativity=parameters.creativity,
        seed=parameters.seed,
    )


OPERATION = Operation(
    name="upscale",
    summary="Enlarge an image",
    description="By a factor, or to a size. A model that has factors of its own says so; where neither is given, its "
    "own is used. The local models give exactly the size, in the media type of the upload.",
    parameters=UpscaleParameters,
    uploads=(IMAGE,),
    kinds=get_args(UpscaleKind),
    request=_request,
    capability=as_upscale,
    run=lambda provider, model, request, attempt: provider.upscale(model, request, attempt),
)
