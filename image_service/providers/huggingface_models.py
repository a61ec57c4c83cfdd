"""Models of fal, as Hugging Face's router passes requests on to them, and what is sent to each. Pure.

Every model has a page with its parameters and price, https://fal.ai/models/MODEL/llms.txt, or one below
https://fal.ai/docs/model-api-reference; read on 2026-11-23. Images are passed as data URLs. One job makes one image.
A megapixel is 1024 x 1024 pixels (an image of that size costs one unit, https://www.workflowlab.dev/cost/flux-dev-fal),
and "images are billed by rounding up to the nearest megapixel".
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from image_service.images import SourceImage
from image_service.providers.base import SEED_MAX, Model, ProviderRequest, Quote, RefusedRequestError
from image_service.providers.jobs import Gives
from image_service.providers.requests import (
    GeneralEdit,
    GenerateRequest,
    RemoveBackground,
    ThreeDRequest,
    UpscaleRequest,
    VideoRequest,
    sized,
)
from image_service.providers.upscaling import check_proportions

SCHNELL: Final = "fal-ai/flux/schnell"
FLUX_DEV: Final = "fal-ai/flux/dev"
QWEN: Final = "fal-ai/qwen-image"
SEEDREAM: Final = "fal-ai/bytedance/seedream/v4/text-to-image"
KONTEXT: Final = "fal-ai/flux-pro/kontext"
BRIA: Final = "fal-ai/bria/background/remove"
CLARITY: Final = "fal-ai/clarity-upscaler"
TRELLIS: Final = "fal-ai/trellis"
SEEDANCE: Final = "bytedance/seedance-2.0/image-to-video"

MODELS: Final = (
    Model(SCHNELL, "generate", unit="megapixel"),
    Model(FLUX_DEV, "generate", unit="megapixel"),
    Model(QWEN, "generate", unit="megapixel"),
    Model(SEEDREAM, "generate"),
    Model(KONTEXT, "edit", kinds=frozenset({"general"})),
    Model(BRIA, "edit", kinds=frozenset({"remove_background"})),
    Model(CLARITY, "upscale", kinds=frozenset({"creative"}), unit="megapixel"),
    Model(TRELLIS, "image_to_3d", unit="call", long=True),
    Model(SEEDANCE, "image_to_video", unit="second", long=True),
)

MEGAPIXEL: Final = 1024 * 1024
#: Pixels of an edge, and the steps that a model's images have.
_EDGES: Final = {SCHNELL: range(256, 2049), FLUX_DEV: range(256, 2049), QWEN: range(256, 2049)}
_EDGE_STEP: Final = 16
_SEEDREAM_EDGES: Final = range(1024, 4097)
#: num_inference_steps.
_STEPS: Final = {SCHNELL: range(1, 13), FLUX_DEV: range(1, 51), QWEN: range(2, 251)}
_FACTORS: Final = (1.0, 4.0)
_TEXTURES: Final = (512, 1024)
_SECONDS: Final = range(4, 16)

Body = dict[str, Any]  # Any: JSON


@dataclass(frozen=True)
class Plan:
    """``body`` takes the images' data URLs, in the order of ``images``, and the number of the job (0 …), of which there
    are ``wanted``. ``made``: the size that the model makes; ``size``: that it is fitted to. ``units`` of one job."""

    body: Callable[[Sequence[str], int], Body]
    images: tuple[SourceImage, ...] = ()
    gives: Gives = "image"
    wanted: int = 1
    made: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    seed: int | None = None
    units: int = 1


def quote(model: Model, request: ProviderRequest) -> Quote:
    """Raises RefusedRequestError for what the model cannot do."""
    planned = plan(model.name, request, seed=0)
    attributes = request.attributes
    if planned.made is not None:
        named = {name: value for name, value in attributes.items() if name not in ("size", "megapixels")}
        attributes = {**sized(*planned.made), "megapixels": megapixels(*planned.made), **named}
    return Quote(planned.units * planned.wanted, dict(attributes))


def plan(model: str, request: ProviderRequest, seed: int) -> Plan:
    """What to send. ``seed`` is used where the request names none and the model takes one.

    Raises RefusedRequestError.
    """
    for name in ("quality", "mask", "strength"):
        _refuse(name, getattr(request, name, None))
    chosen = getattr(request, "seed", None)
    planned = _PLANS[type(request)](model, request, seed if chosen is None else chosen)
    if planned.made is not None and next(one for one in MODELS if one.name == model).unit == "megapixel":
        return replace(planned, units=megapixels(*planned.made))
    return planned


def megapixels(width: int, height: int) -> int:
    return -(-width * height // MEGAPIXEL)


def _generate(model: str, request: GenerateRequest, seed: int) -> Plan:
    wanted = (request.width, request.height)
    if model == SEEDREAM:
        _refuse("steps", request.steps)
        _refuse("negative_prompt", request.negative_prompt)
        _check_edges(wanted, _SEEDREAM_EDGES)
        made = wanted
        body: Body = {"prompt": request.prompt, "num_images": 1, "max_images": 1}
    else:
        _check_edges(wanted, _EDGES[model])
        made = _stepped(wanted[0]), _stepped(wanted[1])
        body = {"prompt": request.prompt, "num_images": 1, "output_format": "png"}
        if request.steps is not None:
            if request.steps not in _STEPS[model]:
                allowed = _STEPS[model]
                raise RefusedRequestError("steps", f"{allowed.start} to {allowed.stop - 1}")
            body["num_inference_steps"] = request.steps
        if request.negative_prompt is not None:
            if model != QWEN:
                _refuse("negative_prompt", request.negative_prompt)
            body["negative_prompt"] = request.negative_prompt
    body["image_size"] = {"width": made[0], "height": made[1]}
    body["enable_safety_checker"] = True
    return Plan(
        lambda _, n: {**body, "seed": (seed + n) % (SEED_MAX + 1)},
        wanted=request.count,
        made=made,
        size=wanted,
        seed=seed,
    )


def _general(model: str, request: GeneralEdit, seed: int) -> Plan:
    del model
    body = {"prompt": request.prompt, "num_images": 1, "output_format": "png", "seed": seed}
    return Plan(lambda urls, _: {**body, "image_url": urls[0]}, (request.image,), seed=seed)


def _remove_background(model: str, request: RemoveBackground, seed: int) -> Plan:
    del model, seed
    size = (request.image.width, request.image.height)
    return Plan(lambda urls, _: {"image_url": urls[0]}, (request.image,), size=size)


def _upscale(model: str, request: UpscaleRequest, seed: int) -> Plan:
    """The factor that covers what is wanted; what is beyond is cropped."""
    del model
    check_proportions(request)
    given = request.image
    factor = max(request.width / given.width, request.height / given.height)
    if not _FACTORS[0] <= factor <= _FACTORS[1]:
        raise RefusedRequestError("width", f"{_FACTORS[0]:g} to {_FACTORS[1]:g} times the image's")
    body: Body = {"upscale_factor": factor, "seed": seed}
    if request.prompt is not None:
        body["prompt"] = request.prompt
    if request.creativity is not None:
        body["creativity"] = request.creativity
    made = math.ceil(given.width * factor - 1e-6), math.ceil(given.height * factor - 1e-6)
    size = (request.width, request.height) if request.exact else None
    return Plan(lambda urls, _: {**body, "image_url": urls[0]}, (given,), made=made, size=size, seed=seed)


def _image_to_3d(model: str, request: ThreeDRequest, seed: int) -> Plan:
    del model, seed
    _refuse("seed", request.seed)
    if request.texture_resolution not in _TEXTURES:
        raise RefusedRequestError("texture_resolution", " or ".join(map(str, _TEXTURES)))
    texture = request.texture_resolution
    return Plan(lambda urls, _: {"image_url": urls[0], "texture_size": texture}, (request.image,), "glb")


def _image_to_video(model: str, request: VideoRequest, seed: int) -> Plan:
    del model
    if request.prompt is None:
        raise RefusedRequestError("prompt", "the model needs one")
    if request.seconds not in _SECONDS:
        raise RefusedRequestError("seconds", f"{_SECONDS.start} to {_SECONDS.stop - 1}")
    body: Body = {
        "prompt": request.prompt,
        "duration": str(request.seconds),
        "resolution": request.resolution,
        "seed": seed,
    }
    return Plan(
        lambda urls, _: {**body, "image_url": urls[0]}, (request.image,), "mp4", seed=seed, units=request.seconds
    )


#: By the request's type; each function gets requests of that type only.
_PLANS: Final[Mapping[type[Any], Callable[[str, Any, int], Plan]]] = {  # Any: see above
    GenerateRequest: _generate,
    GeneralEdit: _general,
    RemoveBackground: _remove_background,
    UpscaleRequest: _upscale,
    ThreeDRequest: _image_to_3d,
    VideoRequest: _image_to_video,
}


def _stepped(edge: int) -> int:
    return max(1, round(edge / _EDGE_STEP)) * _EDGE_STEP


def _refuse(field: str, value: object) -> None:
    if value is not None:
        raise RefusedRequestError(field, "the model does not take it")


def _check_edges(size: tuple[int, int], edges: range) -> None:
    for edge, name in zip(size, ("width", "height"), strict=True):
        if edge not in edges:
            raise RefusedRequestError(name, f"an edge has {edges.start} to {edges.stop - 1} pixels, not {edge}")
