"""Stability's models, and the form that is sent to each. Pure.

Source: the reference https://platform.stability.ai/docs/api-reference, read on 2026-11-23 in its OpenAPI document as
https://github.com/tryAGI/StabilityAI (src/libs/StabilityAI/openapi.yaml) keeps it, and limits of uploads also in
https://github.com/aself101/stability-ai-api (src/config.ts). A seed is 1 to 4294967294; 0 would be a random one.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from image_service.images import SourceImage
from image_service.providers.base import Model, ProviderRequest, Quote, RefusedRequestError, plain_quote
from image_service.providers.jobs import Gives
from image_service.providers.requests import (
    ControlRequest,
    Erase,
    GeneralEdit,
    GenerateRequest,
    Inpaint,
    Outpaint,
    Relight,
    RemoveBackground,
    SearchRecolor,
    SearchReplace,
    ThreeDRequest,
    UpscaleRequest,
)
from image_service.providers.upscaling import check_proportions

ULTRA: Final = "stable-image-ultra"
CORE: Final = "stable-image-core"
SD_LARGE: Final = "sd3.5-large"

_IMAGE: Final = "/v2beta/stable-image"
_GENERATE: Final = {ULTRA: f"{_IMAGE}/generate/ultra", CORE: f"{_IMAGE}/generate/core"}
_SD3: Final = f"{_IMAGE}/generate/sd3"

#: The first of an operation's models that does a kind is its default.
MODELS: Final = (
    Model(CORE, "generate"),
    Model(ULTRA, "generate"),
    Model(SD_LARGE, "generate"),
    Model("sd3.5-large-turbo", "generate"),
    Model("sd3.5-medium", "generate"),
    Model(SD_LARGE, "edit", kinds=frozenset({"general"})),
    Model("erase", "edit", kinds=frozenset({"erase"})),
    Model("inpaint", "edit", kinds=frozenset({"inpaint"})),
    Model("outpaint", "edit", kinds=frozenset({"outpaint"})),
    Model("search-and-replace", "edit", kinds=frozenset({"search_replace"})),
    Model("search-and-recolor", "edit", kinds=frozenset({"search_recolor"})),
    Model("remove-background", "edit", kinds=frozenset({"remove_background"})),
    Model("replace-background-and-relight", "edit", kinds=frozenset({"relight"}), long=True),
    Model("upscale-fast", "upscale", kinds=frozenset({"fast"})),
    Model("upscale-conservative", "upscale", kinds=frozenset({"conservative"})),
    Model("upscale-creative", "upscale", kinds=frozenset({"creative"}), long=True),
    Model("control-sketch", "control", kinds=frozenset({"sketch"})),
    Model("control-structure", "control", kinds=frozenset({"structure"})),
    Model("control-style", "control", kinds=frozenset({"style"})),
    Model("stable-fast-3d", "image_to_3d", unit="call"),
)

SEED_MAX: Final = 4_294_967_294
#: "payloads cannot be larger than 10MiB in size"; the rest is for the form's other fields.
UPLOAD_BYTES_MAX: Final = 10 * 1024 * 1024 - 64 * 1024
STRENGTH_DEFAULT: Final = 0.7
_OUTPAINT_PIXELS_MAX: Final = 2_000
_PROPORTIONS_MAX: Final = 2.5
#: What conservative and creative upscale to, in pixels.
_UPSCALED_PIXELS: Final = 4 * 1024 * 1024
_FAST_FACTOR: Final = 4
#: Generated images have about 1 megapixel, those of Core 1.5; more is not to be made of them.
_GENERATED_PIXELS_MAX: Final = 1_600_000
_RATIOS: Final = ((1, 1), (16, 9), (9, 16), (21, 9), (9, 21), (2, 3), (3, 2), (4, 5), (5, 4))
#: Their real sizes are multiples of 64, so that 16:9 comes as 1344 x 768; what is asked for is cut out of that.
_RATIO_OFF_MAX: Final = 0.03


@dataclass(frozen=True)
class Plan:
    """An order. ``field`` of the form to text, or to an image; ``forms`` has one per generation."""

    path: str
    forms: tuple[Mapping[str, str], ...]
    images: Mapping[str, SourceImage] = field(default_factory=dict)
    gives: Gives = "image"
    size: tuple[int, int] | None = None
    #: The answer is a job's id.
    is_job: bool = False


def quote(model: Model, request: ProviderRequest) -> Quote:
    """Raises RefusedRequestError for what the model cannot do."""
    plan(model.name, request)
    return plain_quote(model, request)


def plan(model: str, request: ProviderRequest) -> Plan:
    """What to send. Raises RefusedRequestError."""
    seed = getattr(request, "seed", None)
    if seed is not None and not 1 <= seed <= SEED_MAX:
        raise RefusedRequestError("seed", f"1 to {SEED_MAX}")
    made = _PLANS[type(request)](model, request)
    if sum(image.content.size_bytes for image in made.images.values()) > UPLOAD_BYTES_MAX:
        raise RefusedRequestError("image", f"uploads may have {UPLOAD_BYTES_MAX} bytes together")
    return made


def _form(**fields: str | float | None) -> dict[str, str]:
    """Without what is None. Results as PNG: nothing is lost, and alpha is kept."""
    known = {name: str(value) for name, value in fields.items() if value is not None}
    return {**known, "output_format": "png"}


def _generate(model: str, request: GenerateRequest) -> Plan:
    _refuse("quality", request.quality)
    _refuse("steps", request.steps)
    size = (request.width, request.height)
    fields = _form(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        aspect_ratio=_ratio(size),
        model=None if model in _GENERATE else model,
    )
    forms = []
    for index in range(request.count):
        seed = {} if request.seed is None else {"seed": str((request.seed - 1 + index) % SEED_MAX + 1)}
        forms.append({**fields, **seed})
    return Plan(_GENERATE.get(model, _SD3), tuple(forms), size=size)


def _general(model: str, request: GeneralEdit) -> Plan:
    """Image to image, where ``strength`` is how far it may go from the image."""
    _refuse("mask", request.mask)
    _refuse("quality", request.quality)
    _check_image(request.image)
    strength = STRENGTH_DEFAULT if request.strength is None else request.strength
    form = _form(prompt=request.prompt, mode="image-to-image", strength=strength, model=model, seed=request.seed)
    return Plan(_SD3, (form,), {"image": request.image})


def _erase(model: str, request: Erase) -> Plan:
    return _edit(model, request.image, _form(seed=request.seed), mask=request.mask)


def _inpaint(model: str, request: Inpaint) -> Plan:
    form = _form(prompt=request.prompt, negative_prompt=request.negative_prompt, seed=request.seed)
    return _edit(model, request.image, form, mask=request.mask)


def _outpaint(model: str, request: Outpaint) -> Plan:
    sides = {"left": request.left, "right": request.right, "up": request.top, "down": request.bottom}
    if max(sides.values()) > _OUTPAINT_PIXELS_MAX:
        raise RefusedRequestError("left", f"at most {_OUTPAINT_PIXELS_MAX} pixels a side")
    _check_image(request.image, proportions=True)
    form = _form(**{side: pixels or None for side, pixels in sides.items()}, prompt=request.prompt, seed=request.seed)
    path = f"{_IMAGE}/edit/{model}"
    return Plan(path, (form,), {"image": request.image}, size=(request.width, request.height))


def _search_replace(model: str, request: SearchReplace) -> Plan:
    form = _form(
        prompt=request.prompt,
        search_prompt=request.search,
        negative_prompt=request.negative_prompt,
        seed=request.seed,
    )
    return _edit(model, request.image, form, proportions=True)


def _search_recolor(model: str, request: SearchRecolor) -> Plan:
    form = _form(prompt=request.prompt, select_prompt=request.search, seed=request.seed)
    return _edit(model, request.image, form, proportions=True)


def _remove_background(model: str, request: RemoveBackground) -> Plan:
    return _edit(model, request.image, _form(), pixels_max=4_194_304)


def _relight(model: str, request: Relight) -> Plan:
    """The light's strength counts only together with where it comes from."""
    _check_image(request.image, proportions=True)
    if request.prompt is None:
        raise RefusedRequestError("prompt", "the model needs one: what the background shows")
    if request.strength is not None and request.direction is None:
        raise RefusedRequestError("strength", "the model takes it together with a direction")
    form = _form(
        background_prompt=request.prompt,
        light_source_direction=request.direction,
        light_source_strength=request.strength,
        seed=request.seed,
    )
    return Plan(f"{_IMAGE}/edit/{model}", (form,), {"subject_image": request.image}, is_job=True)


def _edit(
    model: str,
    image: SourceImage,
    form: Mapping[str, str],
    mask: SourceImage | None = None,
    *,
    proportions: bool = False,
    pixels_max: int = 9_437_184,
) -> Plan:
    """One whose result is as large as its image. Masks are white where something changes, as here."""
    _check_image(image, proportions=proportions, pixels_max=pixels_max)
    images = {"image": image} if mask is None else {"image": image, "mask": mask}
    return Plan(f"{_IMAGE}/edit/{model}", (form,), images, size=(image.width, image.height))


def _upscale(model: str, request: UpscaleRequest) -> Plan:
    del model
    image, kind = request.image, request.kind
    wanted = request.width * request.height
    size = (request.width, request.height) if request.exact else None
    check_proportions(request)
    path = f"{_IMAGE}/upscale/{kind}"
    if kind == "fast":
        _check_image(image, edge_min=32, pixels_min=1_024, pixels_max=1_048_576)
        if max(request.width / image.width, request.height / image.height) > _FAST_FACTOR:
            raise RefusedRequestError("factor", f"at most {_FAST_FACTOR} times the image's edges")
        return Plan(path, (_form(),), {"image": image}, size=size)
    if request.prompt is None:
        raise RefusedRequestError("prompt", "the model needs one")
    if size is not None and wanted > _UPSCALED_PIXELS:
        raise RefusedRequestError("width", f"at most {_UPSCALED_PIXELS} pixels in all")
    _check_image(image, pixels_max=9_437_184 if kind == "conservative" else 1_048_576)
    low, high = (0.2, 0.5) if kind == "conservative" else (0.1, 0.5)
    creativity = None if request.creativity is None else round(low + (high - low) * request.creativity, 3)
    form = _form(prompt=request.prompt, creativity=creativity, seed=request.seed)
    return Plan(path, (form,), {"image": image}, size=size, is_job=kind == "creative")


def upscaled_size(request: UpscaleRequest) -> tuple[float, float]:
    """What the model makes, before that is cut to what was asked for."""
    width, height = request.image.width, request.image.height
    factor = _FAST_FACTOR if request.kind == "fast" else max(1.0, math.sqrt(_UPSCALED_PIXELS / (width * height)))
    return width * factor, height * factor


def _control(model: str, request: ControlRequest) -> Plan:
    del model
    _check_image(request.image, proportions=True)
    common = {"prompt": request.prompt, "negative_prompt": request.negative_prompt, "seed": request.seed}
    size = (request.width, request.height)
    if request.kind == "style":
        form = _form(**common, fidelity=request.strength, aspect_ratio=_ratio(size))
    else:
        form = _form(**common, control_strength=request.strength)
    return Plan(f"{_IMAGE}/control/{request.kind}", (form,), {"image": request.image}, size=size)


def _image_to_3d(model: str, request: ThreeDRequest) -> Plan:
    _refuse("seed", request.seed)
    _check_image(request.image, pixels_max=4_194_304)
    form = {"texture_resolution": str(request.texture_resolution)}
    return Plan(f"/v2beta/3d/{model}", (form,), {"image": request.image}, "glb")


#: By the request's type; each function gets requests of that type only.
_PLANS: Final[Mapping[type[Any], Callable[[str, Any], Plan]]] = {  # Any: see above
    GenerateRequest: _generate,
    GeneralEdit: _general,
    Erase: _erase,
    Inpaint: _inpaint,
    Outpaint: _outpaint,
    SearchReplace: _search_replace,
    SearchRecolor: _search_recolor,
    RemoveBackground: _remove_background,
    Relight: _relight,
    UpscaleRequest: _upscale,
    ControlRequest: _control,
    ThreeDRequest: _image_to_3d,
}


def _ratio(size: tuple[int, int]) -> str:
    """The proportions that come closest, ``16:9``. Raises RefusedRequestError."""
    width, height = size
    if width * height > _GENERATED_PIXELS_MAX:
        raise RefusedRequestError("width", f"at most {_GENERATED_PIXELS_MAX} pixels in all")

    def off(ratio: tuple[int, int]) -> float:
        return abs(math.log(width * ratio[1] / (height * ratio[0])))

    best = min(_RATIOS, key=off)
    if off(best) > _RATIO_OFF_MAX:
        known = ", ".join(f"{across}:{down}" for across, down in _RATIOS)
        raise RefusedRequestError("width", f"the model makes images of {known}, which {width} x {height} is not")
    return f"{best[0]}:{best[1]}"


def _check_image(
    image: SourceImage,
    *,
    edge_min: int = 64,
    pixels_min: int = 4_096,
    pixels_max: int = 9_437_184,
    proportions: bool = False,
) -> None:
    width, height = image.width, image.height
    if min(width, height) < edge_min:
        raise RefusedRequestError("image", f"{width} x {height} pixels; an edge has at least {edge_min}")
    if not pixels_min <= width * height <= pixels_max:
        raise RefusedRequestError("image", f"{width * height} pixels; it has {pixels_min} to {pixels_max}")
    if proportions and max(width / height, height / width) > _PROPORTIONS_MAX:
        raise RefusedRequestError("image", f"{width} x {height}; at most {_PROPORTIONS_MAX} times as long as wide")


def _refuse(field_name: str, value: object) -> None:
    if value is not None:
        raise RefusedRequestError(field_name, "the model does not take it")
