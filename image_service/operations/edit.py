"""edit: change an image."""

from typing import Annotated, Final

from pydantic import Field, StringConstraints, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from image_service.images import Bounds, SourceImage
from image_service.operations.base import Operation, Parameters, bad_field, require_image
from image_service.providers.base import EditRequest, Effect, ImageEdit, ProviderResult, as_edit

STRENGTH_DEFAULT: Final = 0.5

#: Which parameters belong to which effect; any other with it is refused, because it would do nothing.
_BELONGING: Final[dict[str, frozenset[str]]] = {
    "enhance": frozenset({"strength"}),
    "grayscale": frozenset(),
    "sepia": frozenset({"strength"}),
    "blur": frozenset({"strength"}),
    "sharpen": frozenset({"strength"}),
    "rotate": frozenset({"angle"}),
    "crop": frozenset({"left", "top", "width", "height"}),
    "resize": frozenset({"width", "height"}),
}
#: What an effect cannot do without.
_REQUIRED: Final[dict[str, frozenset[str]]] = {
    "rotate": frozenset({"angle"}),
    "crop": frozenset({"width", "height"}),
}

_Edge = Annotated[int, Field(ge=1, le=65_535)]
_Offset = Annotated[int, Field(ge=0, le=65_535)]


class EditParameters(Parameters):
    effect: Annotated[Effect, Field(description="What to do with the image.")] = "enhance"
    prompt: Annotated[
        Annotated[str, StringConstraints(max_length=4000)] | None,
        Field(description="For models that follow a text; local-edit-1 does not read it."),
    ] = None
    strength: Annotated[float | None, Field(ge=0, le=1, description="How much of the effect; 0.5 by default.")] = None
    angle: Annotated[int | None, Field(description="rotate: 90, 180 or 270 degrees clockwise.")] = None
    left: Annotated[_Offset | None, Field(description="crop: pixels from the left edge.")] = None
    top: Annotated[_Offset | None, Field(description="crop: pixels from the upper edge.")] = None
    width: Annotated[_Edge | None, Field(description="crop, resize: pixels that come out.")] = None
    height: _Edge | None = None

    @field_validator("strength", "angle", "left", "top", "width", "height")
    @classmethod
    def _belongs_to_effect(cls, value: float | None, info: ValidationInfo) -> float | None:
        effect = info.data.get("effect")
        if value is not None and effect is not None and info.field_name not in _BELONGING[effect]:
            raise PydanticCustomError("not_with_effect", "does nothing with the effect {effect}", {"effect": effect})
        return value

    @field_validator("angle")
    @classmethod
    def _right_angle(cls, angle: int | None) -> int | None:
        if angle not in (None, 90, 180, 270):
            raise PydanticCustomError("angle", "90, 180 or 270")
        return angle


def request_of(parameters: EditParameters, image: SourceImage) -> EditRequest:
    """The edit with everything filled in for an image. Raises ProblemError where the two do not go together."""
    for field in sorted(_REQUIRED.get(parameters.effect, frozenset())):
        if getattr(parameters, field) is None:
            raise bad_field(field, f"needed for the effect {parameters.effect}")
    width, height = _size(parameters, image)
    left, top = parameters.left or 0, parameters.top or 0
    if parameters.effect == "crop":
        if left + width > image.width:
            raise bad_field("width", f"left + width is {left + width}, the image is {image.width} wide")
        if top + height > image.height:
            raise bad_field("height", f"top + height is {top + height}, the image is {image.height} high")
    return EditRequest(
        effect=parameters.effect,
        prompt=parameters.prompt,
        strength=STRENGTH_DEFAULT if parameters.strength is None else parameters.strength,
        angle=parameters.angle or 0,
        left=left,
        top=top,
        width=width,
        height=height,
    )


def _size(parameters: EditParameters, image: SourceImage) -> tuple[int, int]:
    """Pixels that come out: as many as came in, unless the edit says otherwise. One edge keeps the proportions."""
    width, height = parameters.width, parameters.height
    if parameters.effect == "rotate" and parameters.angle in (90, 270):
        return image.height, image.width
    if parameters.effect == "resize" and width is None and height is None:
        raise bad_field("width", "needed for the effect resize, or height")
    if width is not None:
        return width, height if height is not None else max(1, round(image.height * width / image.width))
    if height is not None:
        return max(1, round(image.width * height / image.height)), height
    return image.width, image.height


def _check(parameters: EditParameters, source: SourceImage | None, bounds: Bounds) -> None:
    request = request_of(parameters, require_image(source))
    too_large = bounds.broken_by(request.width, request.height)
    if too_large:
        raise bad_field("width" if parameters.width is not None else "height", too_large)


async def _run(
    provider: ImageEdit, model: str, parameters: EditParameters, source: SourceImage | None
) -> ProviderResult:
    image = require_image(source)
    return await provider.edit(model, image, request_of(parameters, image))


OPERATION = Operation(
    name="edit",
    summary="Change an image",
    description="One effect on an uploaded image. Size and media type stay, unless the effect is about the size.",
    parameters=EditParameters,
    takes_image=True,
    capability=as_edit,
    default_provider="local",
    default_model="local-edit-1",
    check=_check,
    run=_run,
)
