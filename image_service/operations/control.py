"""control: a new image that keeps something of another."""

from typing import Annotated, get_args

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from image_service.images import Bounds
from image_service.operations.base import IMAGE, Operation, Parameters, Prompt, Seed, Strength, Uploads, check_size
from image_service.operations.generate import OutputEdge
from image_service.providers.capabilities import as_control
from image_service.providers.requests import ControlKind, ControlRequest


class ControlParameters(Parameters):
    kind: Annotated[ControlKind, Field(description="What stays: the lines, the composition, or the look.")]
    prompt: Annotated[Prompt, Field(description="What the new image shows.")]
    strength: Annotated[Strength | None, Field(description="How closely; by default the model's own choice.")] = None
    width: Annotated[OutputEdge | None, Field(description="style: pixels that come out, as the image's without.")] = (
        None
    )
    height: OutputEdge | None = None
    negative_prompt: Annotated[Prompt | None, Field(description="What is not to be seen.")] = None
    seed: Seed | None = None

    @field_validator("width", "height")
    @classmethod
    def _size_of_style_only(cls, edge: int | None, info: ValidationInfo) -> int | None:
        if edge is not None and info.data.get("kind") in ("sketch", "structure"):
            raise PydanticCustomError("not_with_kind", "the size is the image's, but for the kind style")
        return edge


def _request(parameters: ControlParameters, uploads: Uploads, bounds: Bounds) -> ControlRequest:
    image = uploads.one("image")
    width, height = parameters.width or image.width, parameters.height or image.height
    check_size(width, height, bounds, "width")
    return ControlRequest(
        image=image,
        kind=parameters.kind,
        prompt=parameters.prompt,
        width=width,
        height=height,
        strength=parameters.strength,
        negative_prompt=parameters.negative_prompt,
        seed=parameters.seed,
    )


OPERATION = Operation(
    name="control",
    summary="Make an image after another",
    description="A new image by the prompt that keeps the lines (`sketch`), the composition (`structure`) or the look "
    "(`style`) of the uploaded one.",
    parameters=ControlParameters,
    uploads=(IMAGE,),
    kinds=get_args(ControlKind),
    request=_request,
    capability=as_control,
    run=lambda provider, model, request, attempt: provider.control(model, request, attempt),
)
