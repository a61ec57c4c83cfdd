"""OpenAI's image model, and what is sent to it. Pure.

Sources, read on 2026-11-23: https://developers.openai.com/api/docs/guides/image-generation (sizes: edges in steps of 16
pixels up to 3840, at most 3:1, 655,360 to 8,294,400 pixels; quality low, medium, high; inputs always at high fidelity)
and /api/reference (images: generations, edits; n from 1 to 10; a mask's transparent parts are edited); what an image
that comes out has in tokens: https://community.openai.com/t/1382699, after the calculator of that guide. The earlier
models end on 2026-12-01 (https://developers.openai.com/api/docs/deprecations), so they are not offered.
"""

import io
import math
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from PIL import Image, ImageOps

from image_service.images import SourceImage, pixels_of
from image_service.providers.base import Model, ProviderRequest, Quote, RefusedRequestError
from image_service.providers.requests import CharacterRequest, GeneralEdit, GenerateRequest, Inpaint, sized
from image_service.providers.token_prices import Tokens, cost_nanos, text_tokens_max

GPT_IMAGE: Final = "gpt-image-2"
MODELS: Final = (
    Model(GPT_IMAGE, "generate"),
    Model(GPT_IMAGE, "character"),
    Model(GPT_IMAGE, "edit", kinds=frozenset({"general", "inpaint"})),
)

EDGE_STEP: Final = 16
EDGE_MAX: Final = 3840
PIXELS_MIN: Final = 655_360
PIXELS_MAX: Final = 8_294_400
PROPORTION_MAX: Final = 3.0
#: The longer edge has this many tokens, the shorter one its share of them; area scales the product.
_EDGE_TOKENS: Final = {"low": 16, "medium": 48, "high": 96}
QUALITY_DEAREST: Final = "high"
#: Beside the prompt; seen are 32 with an image.
TEXT_TOKENS_AROUND: Final = 200
#: A tile of 512 pixels, and what an image has beside its tiles; and what high fidelity adds at most. Inputs are scaled
#: until their shorter edge has 512 pixels, or are smaller.
_TILE_TOKENS, _IMAGE_TOKENS, _FIDELITY_TOKENS = 129, 65, 6_240
#: An answer with more raw pixels than this, as PNG in base64, might not fit into what is read of one; as WebP it does.
_PNG_PIXELS_MAX: Final = 20_000_000


@dataclass(frozen=True)
class Plan:
    """What to send. ``size`` is what comes back at OpenAI's; ``wanted`` the size that it is then fitted to."""

    path: Literal["/v1/images/generations", "/v1/images/edits"]
    fields: dict[str, str | int]
    tokens_max: Tokens
    size: tuple[int, int]
    wanted: tuple[int, int]
    images: tuple[SourceImage, ...] = ()
    mask: SourceImage | None = None
    count: int = field(default=1)


def quote(model: Model, request: ProviderRequest) -> Quote:
    """The most that the call can cost. Raises RefusedRequestError for what the model cannot do."""
    planned = plan(request)
    quality = planned.fields.get("quality")
    attributes = sized(*planned.size, quality=None if quality is None else str(quality))
    return Quote(request.quantity, attributes, cost_nanos(model.name, planned.tokens_max))


def plan(request: ProviderRequest) -> Plan:
    """Raises RefusedRequestError."""
    _refuse("seed", getattr(request, "seed", None))
    _refuse("negative_prompt", getattr(request, "negative_prompt", None))
    _refuse("strength", getattr(request, "strength", None))
    if isinstance(request, GenerateRequest):
        _refuse("steps", request.steps)
        return _plan(request.prompt, (request.width, request.height), request.count, request.quality)
    if isinstance(request, CharacterRequest):
        size = (request.width, request.height)
        return _plan(request.prompt, size, request.count, request.quality, request.references)
    if isinstance(request, GeneralEdit | Inpaint):
        size = (request.image.width, request.image.height)
        quality = request.quality if isinstance(request, GeneralEdit) else None
        return _plan(request.prompt, size, 1, quality, (request.image,), request.mask, "image")
    raise RefusedRequestError("kind", "the model does not do it")


def fitting_size(width: int, height: int, field: str = "width") -> tuple[int, int]:
    """The size to ask for where this one is wanted: its proportions, in the steps and within the bounds of the model.

    Raises RefusedRequestError naming ``field``.
    """
    if max(width, height) > PROPORTION_MAX * min(width, height):
        raise RefusedRequestError(field, f"the model makes images of up to {PROPORTION_MAX:g}:1")
    scale = max(1.0, math.sqrt(PIXELS_MIN / (width * height)))
    scale = min(scale, EDGE_MAX / max(width, height), math.sqrt(PIXELS_MAX / (width * height)))
    shrinks = scale < 1
    if shrinks and field == "width":
        raise RefusedRequestError(field, f"edges of {EDGE_MAX} and {PIXELS_MAX} pixels at most")
    found = (0, 0)
    for step in (math.floor if shrinks else math.ceil, math.floor):  # upwards, unless that leads over a bound
        found = _stepped(width * scale, step), _stepped(height * scale, step)
        if _is_size(*found):
            return found
    # At the bounds, one step may take more from one edge than from the other.
    near = ((found[0] + dx, found[1] + dy) for dx in (0, EDGE_STEP) for dy in (0, EDGE_STEP))
    for candidate in near:
        if _is_size(*candidate):
            return candidate
    raise RefusedRequestError(field, "the model makes no images of this size")


def _is_size(width: int, height: int) -> bool:
    return (
        max(width, height) <= min(EDGE_MAX, PROPORTION_MAX * min(width, height))
        and PIXELS_MIN <= width * height <= PIXELS_MAX
    )


def image_out_tokens(width: int, height: int, quality: str) -> int:
    """Of one image that comes out."""
    longer, shorter = max(width, height), min(width, height)
    edge = _EDGE_TOKENS[quality]
    other = (2 * edge * shorter + longer) // (2 * longer)
    return -(-edge * other * (2_000_000 + width * height) // 4_000_000)


def image_in_tokens_max(width: int, height: int) -> int:
    """Of one image that goes in, whatever its fidelity."""
    tiles = math.ceil(max(width, height) / max(1, min(width, height)))
    return _IMAGE_TOKENS + _TILE_TOKENS * (tiles + 1) + _FIDELITY_TOKENS


def mask_file(mask: SourceImage) -> bytes:
    """As OpenAI wants it: a PNG that is transparent where something changes, which here is white. Blocks."""
    changes = pixels_of(mask).convert("RGB").convert("L")
    turned = Image.merge("LA", (changes, ImageOps.invert(changes))).convert("RGBA")
    return _png(turned)


def image_file(image: SourceImage, *, with_mask: bool) -> tuple[bytes, str]:
    """The file and its media type; beside a mask it has to have the mask's format. Blocks."""
    if with_mask and image.media_type != "image/png":
        return _png(pixels_of(image)), "image/png"
    return image.content.read(), image.media_type


def _plan(
    prompt: str,
    wanted: tuple[int, int],
    count: int,
    quality: str | None,
    images: tuple[SourceImage, ...] = (),
    mask: SourceImage | None = None,
    size_field: str = "width",
) -> Plan:
    if quality is not None and quality not in _EDGE_TOKENS:
        raise RefusedRequestError("quality", f"one of {', '.join(_EDGE_TOKENS)}")
    size = fitting_size(*wanted, size_field)
    fields: dict[str, str | int] = {
        "model": GPT_IMAGE,
        "prompt": prompt,
        "n": count,
        "size": f"{size[0]}x{size[1]}",
        "output_format": "png" if size[0] * size[1] * count <= _PNG_PIXELS_MAX else "webp",
    }
    if quality is not None:
        fields["quality"] = quality
    masks = () if mask is None else (mask,)
    inputs = sum(image_in_tokens_max(image.width, image.height) for image in (*images, *masks))
    text = text_tokens_max(prompt) + TEXT_TOKENS_AROUND
    # Without a quality the model chooses it. Inputs may be counted for every image that comes out.
    tokens = Tokens(
        text_in=text * count,
        image_in=inputs * count,
        image_out=image_out_tokens(*size, quality or QUALITY_DEAREST) * count,
    )
    path: Literal["/v1/images/generations", "/v1/images/edits"] = "/v1/images/generations"
    if images:
        path = "/v1/images/edits"
    # A large image that is edited comes back as large as the model makes it.
    fits = wanted if size[0] * size[1] >= wanted[0] * wanted[1] else size
    return Plan(path, fields, tokens, size, fits, images, mask, count)


def _stepped(edge: float, step: Any) -> int:  # Any: floor or ceil, which the stubs type apart
    # A hair below a step is that step.
    return max(1, int(step(edge / EDGE_STEP - (1e-9 if step is math.ceil else -1e-9)))) * EDGE_STEP


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=4)
    return out.getvalue()


def _refuse(field: str, value: object) -> None:
    if value is not None:
        raise RefusedRequestError(field, "the model does not take it")
