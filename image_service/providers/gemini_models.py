"""Google's image models behind the Gemini API, and what is sent to each. Pure.

Sources, read on 2026-11-23: https://ai.google.dev/gemini-api/docs/image-generation (imageConfig: aspectRatio,
imageSize; the sizes and tokens of what comes out, by both), /docs/tokens and /docs/media-resolution (of what goes in),
/docs/thinking (maxOutputTokens bounds thoughts too), /docs/pricing. A model knows proportions and steps of resolution
only, so what comes out is scaled and cropped to the size that was asked for.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from image_service.images import SourceImage
from image_service.providers.base import Model, ProviderRequest, Quote, RefusedRequestError
from image_service.providers.requests import CharacterRequest, GeneralEdit, GenerateRequest, sized
from image_service.providers.token_prices import TOKEN_PRICES, Tokens, cost_nanos, text_tokens_max

FLASH: Final = "gemini-3.1-flash-image"
PRO: Final = "gemini-3-pro-image"
FLASH_2_5: Final = "gemini-2.5-flash-image"

MODELS: Final = tuple(
    Model(name, operation, kinds=frozenset({"general"} if operation == "edit" else ()))
    for operation in ("generate", "character", "edit")
    for name in (FLASH, PRO, FLASH_2_5)
)

#: Pixels at 1K, by aspectRatio; the other resolutions have twice and four times as many each way, or half.
_PIXELS: Final = {
    "1:1": (1024, 1024),
    "2:3": (848, 1264),
    "3:2": (1264, 848),
    "3:4": (896, 1200),
    "4:3": (1200, 896),
    "4:5": (928, 1152),
    "5:4": (1152, 928),
    "9:16": (768, 1376),
    "16:9": (1376, 768),
    "21:9": (1584, 672),
}
_PIXELS_2_5: Final = {
    **_PIXELS,
    "2:3": (832, 1248),
    "3:2": (1248, 832),
    "3:4": (864, 1184),
    "4:3": (1184, 864),
    "4:5": (896, 1152),
    "5:4": (1152, 896),
    "9:16": (768, 1344),
    "16:9": (1344, 768),
    "21:9": (1536, 672),
}
#: imageSize, how many times the pixels of 1K each way, and the tokens of one image; from the smallest on.
_RESOLUTIONS: Final[Mapping[str, Mapping[str, tuple[float, int]]]] = {
    FLASH: {"512": (0.5, 747), "1K": (1, 1_120), "2K": (2, 1_680), "4K": (4, 2_520)},
    PRO: {"1K": (1, 1_120), "2K": (2, 1_120), "4K": (4, 2_000)},
    FLASH_2_5: {"1K": (1, 1_290)},
}
#: Output beside the image: thoughts and words. maxOutputTokens is the sum, so that no answer costs more.
_TOKENS_BESIDE: Final = {FLASH: 2_048, PRO: 2_048, FLASH_2_5: 512}
#: Beside the prompt.
_TEXT_TOKENS_AROUND: Final = 200
#: Of an image that goes in: at the highest media resolution; and a tile of earlier models, which have edges of 256
#: pixels at least.
_IMAGE_IN_TOKENS, _TILE_TOKENS, _TILE_PIXELS_MIN, _TILE_PIXELS_MAX = 2_240, 258, 256, 768
#: How far proportions may be from a model's; more is lost to cropping than is worth it.
PROPORTIONS_OFF_MAX: Final = 0.03


@dataclass(frozen=True)
class Plan:
    """What to send, ``wanted`` times, with the images in it as base64. ``size``: that it is fitted to; None: any."""

    path: str
    prompt: str
    images: tuple[SourceImage, ...]
    config: dict[str, Any]  # Any: JSON
    resolution: str
    wanted: int
    size: tuple[int, int] | None
    tokens_max: Tokens

    def body(self, encoded: tuple[tuple[str, str], ...]) -> dict[str, Any]:  # Any: JSON
        """``encoded``: media type and base64 of each image."""
        parts: list[dict[str, Any]] = [{"text": self.prompt}]  # Any: JSON
        parts += [{"inlineData": {"mimeType": media_type, "data": data}} for media_type, data in encoded]
        return {"contents": [{"role": "user", "parts": parts}], "generationConfig": self.config}


def quote(model: Model, request: ProviderRequest) -> Quote:
    """The most that the call can cost. Raises RefusedRequestError for what the model cannot do."""
    planned = plan(model.name, request)
    size = planned.size or (1024, 1024)
    attributes = sized(*size, resolution=planned.resolution)
    return Quote(request.quantity, attributes, most(model.name, planned) * planned.wanted)


def most(model: str, planned: Plan) -> int:
    """Nano-dollars that one of the requests can cost."""
    return cost_nanos(model, planned.tokens_max)


def plan(model: str, request: ProviderRequest) -> Plan:
    """Raises RefusedRequestError."""
    for name in ("seed", "negative_prompt", "quality", "steps", "strength", "mask"):
        if getattr(request, name, None) is not None:
            raise RefusedRequestError(name, "the model does not take it")
    if isinstance(request, GenerateRequest):
        return _plan(model, request.prompt, (), (request.width, request.height), request.count)
    if isinstance(request, CharacterRequest):
        return _plan(model, request.prompt, request.references, (request.width, request.height), request.count)
    if isinstance(request, GeneralEdit):
        return _plan(model, request.prompt, (request.image,), None, 1)
    raise RefusedRequestError("kind", "the model does not do it")


def _plan(model: str, prompt: str, images: tuple[SourceImage, ...], size: tuple[int, int] | None, wanted: int) -> Plan:
    # An edit keeps the proportions of its image by itself.
    ratio = None if size is None else aspect_ratio(model, *size)
    edges = (images[0].width, images[0].height) if size is None else size
    resolution = _resolution(model, ratio, edges, is_bound=size is not None)
    image_tokens = _RESOLUTIONS[model][resolution][1]
    config: dict[str, Any] = {  # Any: JSON
        "responseModalities": ["IMAGE"],
        "maxOutputTokens": image_tokens + _TOKENS_BESIDE[model],
    }
    image_config = {} if ratio is None else {"aspectRatio": ratio}
    if len(_RESOLUTIONS[model]) > 1:
        image_config["imageSize"] = resolution
    if image_config:
        config["imageConfig"] = image_config
    # A second image is rare, but may be among the output: all of it is taken at the price of images.
    tokens = Tokens(
        text_in=text_tokens_max(prompt) + _TEXT_TOKENS_AROUND,
        image_in=sum(image_in_tokens_max(image.width, image.height) for image in images),
        image_out=image_tokens + _TOKENS_BESIDE[model],
    )
    path = f"/v1beta/models/{model}:generateContent"
    return Plan(path, prompt, images, config, resolution, wanted, size, tokens)


def aspect_ratio(model: str, width: int, height: int) -> str:
    """The one whose images are nearest to these proportions. Raises RefusedRequestError."""
    pixels = _PIXELS_2_5 if model == FLASH_2_5 else _PIXELS
    off, found = min((abs(w * height / (h * width) - 1), name) for name, (w, h) in pixels.items())
    if off > PROPORTIONS_OFF_MAX:
        raise RefusedRequestError("width", f"the model knows the proportions {', '.join(pixels)}")
    return found


def _resolution(model: str, ratio: str | None, size: tuple[int, int], *, is_bound: bool) -> str:
    """The smallest that is as large as what is wanted."""
    pixels = _PIXELS_2_5 if model == FLASH_2_5 else _PIXELS
    width, height = pixels[ratio or "1:1"]
    for name, (times, _) in _RESOLUTIONS[model].items():
        # Within a step of cropping; an image without a ratio is measured by its area.
        if ratio is None and size[0] * size[1] <= width * height * times**2 * 1.1:
            return name
        if ratio is not None and max(size[0] / width, size[1] / height) <= times * (1 + PROPORTIONS_OFF_MAX):
            return name
    largest = list(_RESOLUTIONS[model])[-1]
    if is_bound:
        times = _RESOLUTIONS[model][largest][0]
        raise RefusedRequestError("width", f"at most {width * times:g}x{height * times:g} pixels of these proportions")
    return largest


def image_in_tokens_max(width: int, height: int) -> int:
    """Of one image that goes in, whichever way it is counted."""
    tile = min(_TILE_PIXELS_MAX, max(_TILE_PIXELS_MIN, math.floor(min(width, height) / 1.5)))
    tiles = math.ceil(width / tile) * math.ceil(height / tile)
    return max(_IMAGE_IN_TOKENS, (tiles + 1) * _TILE_TOKENS)


assert all(model.name in TOKEN_PRICES for model in MODELS)
