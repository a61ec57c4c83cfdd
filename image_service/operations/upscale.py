"""upscale: the same picture with more pixels."""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from image_service.images import Bounds, SourceImage
from image_service.operations.base import Operation, Parameters, bad_field, require_image
from image_service.providers.base import ImageUpscale, ProviderResult, UpscaleRequest, as_upscale

FACTOR_DEFAULT = 2

_Edge = Annotated[int, Field(ge=1, le=65_535)]


class UpscaleParameters(Parameters):
    """Either a factor, or the size to reach; of that, one edge is enough."""

    factor: Annotated[int | None, Field(ge=2, le=4, description="2, 3 or 4; 2 where nothing else is said.")] = None
    width: Annotated[_Edge | None, Field(description="Pixels to reach, instead of a factor.")] = None
    height: _Edge | None = None

    @field_validator("width", "height")
    @classmethod
    def _instead_of_factor(cls, edge: int | None, info: ValidationInfo) -> int | None:
        if edge is not None and info.data.get("factor") is not None:
            raise PydanticCustomError("factor_or_size", "give either factor or a size")
        return edge


def target_size(parameters: UpscaleParameters, width: int, height: int) -> tuple[int, int]:
    """Pixels that come out for an image of this size. One edge alone keeps the proportions."""
    if parameters.width is not None and parameters.height is not None:
        return parameters.width, parameters.height
    if parameters.width is not None:
        return parameters.width, max(1, round(height * parameters.width / width))
    if parameters.height is not None:
        return max(1, round(width * parameters.height / height)), parameters.height
    factor = parameters.factor or FACTOR_DEFAULT
    return width * factor, height * factor


def _check(parameters: UpscaleParameters, source: SourceImage | None, bounds: Bounds) -> None:
    image = require_image(source)
    width, height = target_size(parameters, image.width, image.height)
    by_size = parameters.width is not None or parameters.height is not None
    field = "factor" if not by_size else "width" if parameters.width is not None else "height"
    if width < image.width or height < image.height:
        field = "width" if parameters.width is not None and width < image.width else "height"
        raise bad_field(field, f"{width} x {height} is smaller than the image, {image.width} x {image.height}")
    too_large = bounds.broken_by(width, height)
    if too_large:
        raise bad_field(field, too_large)


async def _run(
    provider: ImageUpscale, model: str, parameters: UpscaleParameters, source: SourceImage | None
) -> ProviderResult:
    image = require_image(source)
    width, height = target_size(parameters, image.width, image.height)
    return await provider.upscale(model, image, UpscaleRequest(width, height))


OPERATION = Operation(
    name="upscale",
    summary="Enlarge an image",
    description="By a factor, or to a size. The result has exactly that size and the media type of the upload.",
    parameters=UpscaleParameters,
    takes_image=True,
    capability=as_upscale,
    default_provider="local",
    default_model="local-upscale-1",
    check=_check,
    run=_run,
)
