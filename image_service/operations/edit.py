"""edit: change an image, in one of several kinds."""

from collections.abc import Callable, Mapping
from typing import Annotated, Final, Literal, get_args

from pydantic import Field, StringConstraints, ValidationInfo, field_validator
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
    UploadField,
    Uploads,
    bad_field,
    check_size,
    scaled,
)
from image_service.operations.generate import Quality
from image_service.providers.capabilities import as_edit
from image_service.providers.requests import (
    EditRequest,
    Effect,
    EffectEdit,
    Erase,
    GeneralEdit,
    Inpaint,
    LightDirection,
    Outpaint,
    Relight,
    RemoveBackground,
    SearchRecolor,
    SearchReplace,
)

STRENGTH_DEFAULT: Final = 0.5

EditKind = Literal[
    "effect", "general", "remove_background", "inpaint", "outpaint", "erase", "search_replace", "search_recolor",
    "relight",
]  # fmt: skip

#: Which parameters belong to which kind, and which of them it cannot do without; any other is refused, because it
#: would do nothing.
_OPTIONAL: Final[Mapping[str, frozenset[str]]] = {
    "effect": frozenset({"effect", "prompt", "strength", "angle", "left", "top", "width", "height"}),
    "general": frozenset({"strength", "seed", "quality"}),
    "remove_background": frozenset(),
    "inpaint": frozenset({"negative_prompt", "seed"}),
    "outpaint": frozenset({"left", "right", "top", "bottom", "prompt", "seed"}),
    "erase": frozenset({"seed"}),
    "search_replace": frozenset({"negative_prompt", "seed"}),
    "search_recolor": frozenset({"seed"}),
    "relight": frozenset({"prompt", "direction", "strength", "seed"}),
}
_REQUIRED: Final[Mapping[str, frozenset[str]]] = {
    "general": frozenset({"prompt"}),
    "inpaint": frozenset({"prompt"}),
    "search_replace": frozenset({"search", "prompt"}),
    "search_recolor": frozenset({"search", "prompt"}),
}
_TAKES_MASK: Final = frozenset({"general", "inpaint", "erase"})
_NEEDS_MASK: Final = frozenset({"inpaint", "erase"})

#: The same of the effects.
_OF_EFFECT: Final[Mapping[str, frozenset[str]]] = {
    "enhance": frozenset({"strength"}),
    "grayscale": frozenset(),
    "sepia": frozenset({"strength"}),
    "blur": frozenset({"strength"}),
    "sharpen": frozenset({"strength"}),
    "rotate": frozenset({"angle"}),
    "crop": frozenset({"left", "top", "width", "height"}),
    "resize": frozenset({"width", "height"}),
}
_REQUIRED_BY_EFFECT: Final[Mapping[str, frozenset[str]]] = {
    "rotate": frozenset({"angle"}),
    "crop": frozenset({"width", "height"}),
}
_OF_SOME_EFFECT: Final = frozenset().union(*_OF_EFFECT.values())

_Offset = Annotated[int, Field(ge=0, le=65_535)]
#: May be empty, which is none.
_Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=4000)]


class EditParameters(Parameters):
    kind: Annotated[EditKind, Field(description="What to do with the image; `effect` does what needs no model.")] = (
        "effect"
    )
    effect: Annotated[Effect | None, Field(description="effect: which one; enhance by default.")] = None
    prompt: Annotated[_Text | None, Field(description="What is to be seen; the guide says it of every kind.")] = None
    search: Annotated[Prompt | None, Field(description="search_replace, search_recolor: what to look for.")] = None
    negative_prompt: Annotated[Prompt | None, Field(description="What is not to be seen.")] = None
    strength: Annotated[Strength | None, Field(description="How much of it; 0.5 of an effect by default.")] = None
    angle: Annotated[int | None, Field(description="rotate: 90, 180 or 270 degrees clockwise.")] = None
    left: Annotated[
        _Offset | None, Field(description="crop: pixels from the left edge; outpaint: pixels to add there.")
    ] = None
    right: Annotated[_Offset | None, Field(description="outpaint: pixels to add.")] = None
    top: Annotated[
        _Offset | None, Field(description="crop: pixels from the upper edge; outpaint: pixels to add there.")
    ] = None
    bottom: Annotated[_Offset | None, Field(description="outpaint: pixels to add.")] = None
    width: Annotated[Edge | None, Field(description="crop, resize: pixels that come out.")] = None
    height: Edge | None = None
    direction: Annotated[LightDirection | None, Field(description="relight: where the light comes from.")] = None
    quality: Annotated[Quality | None, Field(description="general: in the model's own terms.")] = None
    seed: Seed | None = None

    @field_validator(
        "effect", "prompt", "search", "negative_prompt", "strength", "angle", "left", "right", "top", "bottom", "width",
        "height", "direction", "quality", "seed",
    )  # fmt: skip
    @classmethod
    def _belongs(cls, value: object, info: ValidationInfo) -> object:
        if value is None or "kind" not in info.data:
            return value
        kind, field = info.data["kind"], str(info.field_name)
        if field not in _OPTIONAL[kind] | _REQUIRED.get(kind, frozenset()):
            raise PydanticCustomError("not_with_kind", "does nothing with the kind {kind}", {"kind": kind})
        effect = info.data.get("effect") or "enhance"
        if kind == "effect" and field in _OF_SOME_EFFECT and field not in _OF_EFFECT[effect]:
            raise PydanticCustomError("not_with_effect", "does nothing with the effect {effect}", {"effect": effect})
        return value

    @field_validator("angle")
    @classmethod
    def _right_angle(cls, angle: int | None) -> int | None:
        if angle not in (None, 90, 180, 270):
            raise PydanticCustomError("angle", "90, 180 or 270")
        return angle


def _request(parameters: EditParameters, uploads: Uploads, bounds: Bounds) -> EditRequest:
    kind = parameters.kind
    for field in sorted(_REQUIRED.get(kind, frozenset())):
        if not getattr(parameters, field):
            raise bad_field(field, f"needed for the kind {kind}", "missing")
    mask = uploads.maybe("mask")
    if mask is None and kind in _NEEDS_MASK:
        raise bad_field("mask", f"needed for the kind {kind}", "missing")
    if mask is not None and kind not in _TAKES_MASK:
        raise bad_field("mask", f"does nothing with the kind {kind}", "not_with_kind")
    return _MAKERS[kind](parameters, uploads, bounds)


def _effect(parameters: EditParameters, uploads: Uploads, bounds: Bounds) -> EffectEdit:
    image, effect = uploads.one("image"), parameters.effect or "enhance"
    for field in sorted(_REQUIRED_BY_EFFECT.get(effect, frozenset())):
        if getattr(parameters, field) is None:
            raise bad_field(field, f"needed for the effect {effect}")
    width, height = _size(parameters, effect, image)
    left, top = parameters.left or 0, parameters.top or 0
    if effect == "crop":
        if left + width > image.width:
            raise bad_field("width", f"left + width is {left + width}, the image is {image.width} wide")
        if top + height > image.height:
            raise bad_field("height", f"top + height is {top + height}, the image is {image.height} high")
    check_size(width, height, bounds, "width" if parameters.width is not None else "height")
    return EffectEdit(
        image=image,
        effect=effect,
        prompt=parameters.prompt or None,
        strength=STRENGTH_DEFAULT if parameters.strength is None else parameters.strength,
        angle=parameters.angle or 0,
        left=left,
        top=top,
        width=width,
        height=height,
    )


def _size(parameters: EditParameters, effect: Effect, image: SourceImage) -> tuple[int, int]:
    """Pixels that come out: as many as came in, unless the effect says otherwise."""
    if effect == "rotate" and parameters.angle in (90, 270):
        return image.height, image.width
    if effect == "resize" and parameters.width is None and parameters.height is None:
        raise bad_field("width", "needed for the effect resize, or height")
    return scaled(parameters.width, parameters.height, image)


def _outpaint(parameters: EditParameters, uploads: Uploads, bounds: Bounds) -> Outpaint:
    request = Outpaint(
        image=uploads.one("image"),
        left=parameters.left or 0,
        right=parameters.right or 0,
        top=parameters.top or 0,
        bottom=parameters.bottom or 0,
        prompt=parameters.prompt or None,
        seed=parameters.seed,
    )
    if not (request.left or request.right or request.top or request.bottom):
        raise bad_field("left", "needed for the kind outpaint, or right, top or bottom", "missing")
    check_size(request.width, request.height, bounds, "left" if request.left else "right")
    return request


def _general(parameters: EditParameters, uploads: Uploads, bounds: Bounds) -> GeneralEdit:
    del bounds
    return GeneralEdit(
        image=uploads.one("image"),
        prompt=parameters.prompt or "",
        mask=uploads.maybe("mask"),
        strength=parameters.strength,
        seed=parameters.seed,
        quality=parameters.quality,
    )


def _relight(parameters: EditParameters, uploads: Uploads, bounds: Bounds) -> Relight:
    del bounds
    return Relight(
        uploads.one("image"), parameters.prompt or None, parameters.direction, parameters.strength, seed=parameters.seed
    )


#: Each kind's request; required fields are known to be there.
_MAKERS: Final[Mapping[str, Callable[[EditParameters, Uploads, Bounds], EditRequest]]] = {
    "effect": _effect,
    "general": _general,
    "remove_background": lambda _, uploads, __: RemoveBackground(uploads.one("image")),
    "inpaint": lambda given, uploads, _: Inpaint(
        uploads.one("image"), uploads.one("mask"), given.prompt or "", given.negative_prompt, given.seed
    ),
    "outpaint": _outpaint,
    "erase": lambda given, uploads, _: Erase(uploads.one("image"), uploads.one("mask"), given.seed),
    "search_replace": lambda given, uploads, _: SearchReplace(
        uploads.one("image"), given.search or "", given.prompt or "", given.negative_prompt, given.seed
    ),
    "search_recolor": lambda given, uploads, _: SearchRecolor(
        uploads.one("image"), given.search or "", given.prompt or "", given.seed
    ),
    "relight": _relight,
}

OPERATION = Operation(
    name="edit",
    summary="Change an image",
    description="One kind of change to an uploaded image; inpaint and erase need a mask, as large as the image, that "
    "is white where something changes. Without a kind, one of the effects that need no model: `enhance` by default.",
    parameters=EditParameters,
    uploads=(
        IMAGE,
        UploadField("mask", "inpaint, erase, general: white where something changes.", False, same_size_as="image"),
    ),
    kinds=get_args(EditKind),
    request=_request,
    capability=as_edit,
    run=lambda provider, model, request, attempt: provider.edit(model, request, attempt),
)
