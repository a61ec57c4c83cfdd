"""WaveSpeed's models, and what is sent to each. Pure.

Every model has a page of its own with its parameters, https://wavespeed.ai/models/MODEL/llms.txt, and one with its
price, https://wavespeed.ai/docs/docs-api/MODEL; read on 2026-11-23. Images are passed as URLs (of files uploaded
before); size is "width*height"; a seed is -1 (random) to 2147483647.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from image_service.images import SourceImage
from image_service.providers.base import Model, ProviderRequest, Quote, RefusedRequestError, plain_quote
from image_service.providers.jobs import Gives
from image_service.providers.requests import (
    CharacterRequest,
    Erase,
    FaceSwapRequest,
    GeneralEdit,
    GenerateRequest,
    Inpaint,
    ThreeDRequest,
    UpscaleRequest,
    VideoRequest,
    sized,
)
from image_service.providers.upscaling import check_proportions

SEED_MAX: Final = 2_147_483_647

FLUX_DEV: Final = "wavespeed-ai/flux-dev-ultra-fast"
KONTEXT: Final = "wavespeed-ai/flux-kontext-dev"
KONTEXT_FAST: Final = "wavespeed-ai/flux-kontext-dev-ultra-fast"
SEEDREAM: Final = "bytedance/seedream-v4"
SEEDREAM_EDIT: Final = "bytedance/seedream-v4/edit"
ERASER: Final = "wavespeed-ai/image-eraser"
FACE_SWAP: Final = "wavespeed-ai/image-face-swap"
UPSCALER: Final = "wavespeed-ai/image-upscaler"
ULTIMATE_UPSCALER: Final = "wavespeed-ai/ultimate-image-upscaler"
HUNYUAN_3D: Final = "wavespeed-ai/hunyuan3d-v3/image-to-3d"
WAN_480P: Final = "wavespeed-ai/wan-2.2/i2v-480p-ultra-fast"
WAN_720P: Final = "wavespeed-ai/wan-2.1/i2v-720p"

MODELS: Final = (
    Model(FLUX_DEV, "generate"),
    Model(SEEDREAM, "generate"),
    Model(SEEDREAM_EDIT, "character"),
    Model(KONTEXT, "edit", kinds=frozenset({"general"})),
    Model(KONTEXT_FAST, "edit", kinds=frozenset({"general"})),
    Model(FLUX_DEV, "edit", kinds=frozenset({"general", "inpaint"})),
    Model(ERASER, "edit", kinds=frozenset({"erase"})),
    Model(FACE_SWAP, "face_swap"),
    Model(UPSCALER, "upscale", kinds=frozenset({"fast", "conservative"})),
    Model(ULTIMATE_UPSCALER, "upscale", kinds=frozenset({"creative"})),
    Model(HUNYUAN_3D, "image_to_3d", unit="call", long=True),
    Model(WAN_720P, "image_to_video", unit="second", long=True),
    Model(WAN_480P, "image_to_video", unit="second", long=True),
)

#: Pixels of an edge.
_FLUX_EDGES: Final = range(256, 1536 + 1)
_SEEDREAM_EDGES: Final = range(1024, 4096 + 1)
_FLUX_STEPS_MAX: Final = 50
_CLIPS: Final = {WAN_720P: ("720p", (5, 10)), WAN_480P: ("480p", (5, 8))}
#: The edge that target_resolution names.
_RESOLUTIONS: Final = {"2k": 2048, "4k": 4096, "8k": 8192}

Body = dict[str, Any]  # Any: JSON


@dataclass(frozen=True)
class Plan:
    """An order, but for the images' URLs: ``bodies`` takes those, in the order of ``images``, and the number of the job
    (0 …), of which there are ``wanted``."""

    images: tuple[SourceImage, ...]
    body: Callable[[Sequence[str], int], Body]
    gives: Gives = "image"
    wanted: int = 1
    size: tuple[int, int] | None = None
    seed: int | None = None


def quote(model: Model, request: ProviderRequest) -> Quote:
    """Raises RefusedRequestError for what the model cannot do."""
    plan(model.name, request, seed=0)
    quoted = plain_quote(model, request)
    if isinstance(request, UpscaleRequest):
        resolution = _resolution(request)
        return Quote(quoted.quantity, sized(request.width, request.height, resolution=resolution))
    return quoted


def plan(model: str, request: ProviderRequest, seed: int) -> Plan:
    """What to send. ``seed`` is used where the request names none and the model takes one.

    Raises RefusedRequestError.
    """
    chosen = getattr(request, "seed", None)
    if chosen is not None and chosen > SEED_MAX:
        raise RefusedRequestError("seed", f"at most {SEED_MAX}")
    return _PLANS[type(request)](model, request, seed if chosen is None else chosen)


def _generate(model: str, request: GenerateRequest, seed: int) -> Plan:
    _refuse("negative_prompt", request.negative_prompt)
    _refuse("quality", request.quality)
    size = (request.width, request.height)
    if model == SEEDREAM:
        _check_edges(size, _SEEDREAM_EDGES)
        _refuse("seed", request.seed)
        _refuse("steps", request.steps)
        return Plan((), lambda _, __: {"prompt": request.prompt, "size": _text(size)}, "image", request.count, size)
    _check_edges(size, _FLUX_EDGES)
    if request.steps is not None and request.steps > _FLUX_STEPS_MAX:
        raise RefusedRequestError("steps", f"at most {_FLUX_STEPS_MAX}")
    body: Body = {"prompt": request.prompt, "size": _text(size), "num_images": 1, "output_format": "png"}
    if request.steps is not None:
        body["num_inference_steps"] = request.steps
    return Plan((), lambda _, n: {**body, "seed": _nth_seed(seed, n)}, "image", request.count, size, seed)


def _character(model: str, request: CharacterRequest, seed: int) -> Plan:
    del model, seed
    _refuse("seed", request.seed)
    _refuse("quality", request.quality)
    size = (request.width, request.height)
    _check_edges(size, _SEEDREAM_EDGES)
    return Plan(
        request.references,
        lambda urls, _: {"prompt": request.prompt, "images": list(urls), "size": _text(size)},
        wanted=request.count,
        size=size,
    )


def _general(model: str, request: GeneralEdit, seed: int) -> Plan:
    _refuse("quality", request.quality)
    if model == FLUX_DEV:
        strength = {} if request.strength is None else {"strength": max(0.01, request.strength)}
        return _flux_edit(request.image, request.mask, {"prompt": request.prompt, **strength}, seed)
    _refuse("mask", request.mask)
    _refuse("strength", request.strength)
    body = {"prompt": request.prompt, "seed": seed, "output_format": "png"}
    return Plan((request.image,), lambda urls, _: {**body, "image": urls[0]}, seed=seed)


def _inpaint(model: str, request: Inpaint, seed: int) -> Plan:
    del model
    _refuse("negative_prompt", request.negative_prompt)
    return _flux_edit(request.image, request.mask, {"prompt": request.prompt}, seed)


def _flux_edit(image: SourceImage, mask: SourceImage | None, given: Body, seed: int) -> Plan:
    """``mask_image``: white where new pixels are made, as here."""
    size = (image.width, image.height)
    _check_edges(size, _FLUX_EDGES, "image")
    body = {**given, "size": _text(size), "seed": seed, "num_images": 1, "output_format": "png"}
    if mask is None:
        return Plan((image,), lambda urls, _: {**body, "image": urls[0]}, size=size, seed=seed)
    return Plan((image, mask), lambda urls, _: {**body, "image": urls[0], "mask_image": urls[1]}, size=size, seed=seed)


def _erase(model: str, request: Erase, seed: int) -> Plan:
    del model, seed
    _refuse("seed", request.seed)
    return Plan(
        (request.image, request.mask),
        lambda urls, _: {"image": urls[0], "mask_image": urls[1], "output_format": "png"},
        size=(request.image.width, request.image.height),
    )


def _face_swap(model: str, request: FaceSwapRequest, seed: int) -> Plan:
    """``target_index``: 0 is the largest face, which is also the default."""
    del model, seed
    body: Body = {"output_format": "png"} | ({"target_index": request.index} if request.index else {})
    return Plan(
        (request.image, request.face),
        lambda urls, _: {**body, "image": urls[0], "face_image": urls[1]},
        size=(request.image.width, request.image.height),
    )


def _upscale(model: str, request: UpscaleRequest, seed: int) -> Plan:
    del model, seed
    _refuse("prompt", request.prompt)
    _refuse("creativity", request.creativity)
    _refuse("seed", request.seed)
    check_proportions(request)
    body = {"target_resolution": _resolution(request), "output_format": "png"}
    size = (request.width, request.height) if request.exact else None
    return Plan((request.image,), lambda urls, _: {**body, "image": urls[0]}, size=size)


def _resolution(request: UpscaleRequest) -> str:
    """The smallest that reaches what is asked for; more is scaled down to that."""
    edge = max(request.width, request.height)
    for name, reached in _RESOLUTIONS.items():
        if edge <= reached:
            return name
    raise RefusedRequestError("width", f"at most {max(_RESOLUTIONS.values())} pixels an edge")


def upscaled_size(request: UpscaleRequest) -> tuple[float, float]:
    """What comes out: the longer edge is the resolution's."""
    scale = _RESOLUTIONS[_resolution(request)] / max(request.image.width, request.image.height)
    return request.image.width * scale, request.image.height * scale


def _image_to_3d(model: str, request: ThreeDRequest, seed: int) -> Plan:
    del model, seed
    _refuse("seed", request.seed)
    if request.texture_resolution != 1024:
        raise RefusedRequestError("texture_resolution", "the model chooses it; leave it out")
    return Plan((request.image,), lambda urls, _: {"image": urls[0]}, "glb")


def _image_to_video(model: str, request: VideoRequest, seed: int) -> Plan:
    resolution, lengths = _CLIPS[model]
    if request.resolution != resolution:
        raise RefusedRequestError("resolution", f"the model makes clips of {resolution}")
    if request.seconds not in lengths:
        raise RefusedRequestError("seconds", " or ".join(map(str, lengths)))
    if request.prompt is None:
        raise RefusedRequestError("prompt", "the model needs one")
    body = {"prompt": request.prompt, "duration": request.seconds, "seed": seed}
    return Plan((request.image,), lambda urls, _: {**body, "image": urls[0]}, "mp4", seed=seed)


#: By the request's type; each function gets requests of that type only.
_PLANS: Final[Mapping[type[Any], Callable[[str, Any, int], Plan]]] = {  # Any: see above
    GenerateRequest: _generate,
    CharacterRequest: _character,
    GeneralEdit: _general,
    Inpaint: _inpaint,
    Erase: _erase,
    FaceSwapRequest: _face_swap,
    UpscaleRequest: _upscale,
    ThreeDRequest: _image_to_3d,
    VideoRequest: _image_to_video,
}


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}*{size[1]}"


def _nth_seed(seed: int, index: int) -> int:
    return (seed + index) % (SEED_MAX + 1)


def _refuse(field: str, value: object) -> None:
    if value is not None:
        raise RefusedRequestError(field, "the model does not take it")


def _check_edges(size: tuple[int, int], edges: range, field: str = "width") -> None:
    for edge, name in zip(size, (field, "height" if field == "width" else field), strict=True):
        if edge not in edges:
            raise RefusedRequestError(name, f"an edge has {edges.start} to {edges.stop - 1} pixels, not {edge}")
