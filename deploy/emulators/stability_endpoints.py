"""Stability's endpoints: what each wants, what it makes and what it costs. See `stability.py` for the sources.

The published OpenAPI document wants a ``prompt`` of erase, which the text and the samples of the reference do not send:
the text is followed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from deploy.emulators.media import Form, Upload

PAYLOAD_BYTES_MAX: Final = 10 * 1024 * 1024
PROMPT_MAX: Final = 10_000
SEED_MAX: Final = 4_294_967_294
OUTPAINT_MAX: Final = 2_000
MEGAPIXEL: Final = 1_048_576
#: Of outputs that the reference gives in megapixels.
OUTPUT_PIXELS: Final = {"1": MEGAPIXEL, "1.5": 1_572_864, "4": 4 * MEGAPIXEL}
#: The sizes of one megapixel, as the generators give them back.
RATIOS: Final[Mapping[str, tuple[int, int]]] = {
    "21:9": (1536, 640),
    "16:9": (1344, 768),
    "3:2": (1216, 832),
    "5:4": (1152, 896),
    "1:1": (1024, 1024),
    "4:5": (896, 1152),
    "2:3": (832, 1216),
    "9:16": (768, 1344),
    "9:21": (640, 1536),
}
FORMATS: Final = ("jpeg", "png", "webp")
_SD3: Final = {"sd3.5-large": "0.065", "sd3.5-large-turbo": "0.04", "sd3.5-medium": "0.035", "sd3.5-flash": "0.025"}


@dataclass(frozen=True)
class Endpoint:
    """``images`` and ``fields`` are required, in this order; ``prices`` in dollars by the model's name."""

    prices: Mapping[str, str]
    images: Sequence[str] = ()
    fields: Sequence[str] = ()
    optional_images: Sequence[str] = ()
    sizing: str = "source"
    asynchronous: bool = False
    form: Form = Form.IMAGE
    cut_out: bool = False
    formats: Sequence[str] = FORMATS
    #: Numbers that may be given, with their bounds.
    numbers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    edge_min: int = 64
    pixels: tuple[int, int] = (4_096, 9_437_184)


_STRENGTH: Final = {"control_strength": (0.0, 1.0)}
_EDIT: Final = "/v2beta/stable-image/edit"
_GENERATE: Final = "/v2beta/stable-image/generate"
_UPSCALE: Final = "/v2beta/stable-image/upscale"
_CONTROL: Final = "/v2beta/stable-image/control"
ENDPOINTS: Final[Mapping[str, Endpoint]] = {
    f"{_GENERATE}/ultra": Endpoint(
        {"stable-image-ultra": "0.08"},
        fields=("prompt",),
        optional_images=("image",),
        sizing="ratio",
        numbers={"strength": (0, 1)},
    ),
    f"{_GENERATE}/core": Endpoint({"stable-image-core": "0.03"}, fields=("prompt",), sizing="ratio-1.5"),
    f"{_GENERATE}/sd3": Endpoint(
        _SD3,
        fields=("prompt",),
        optional_images=("image",),
        sizing="ratio",
        numbers={"strength": (0, 1), "cfg_scale": (1, 10)},
    ),
    f"{_EDIT}/erase": Endpoint(
        {"erase": "0.05"}, images=("image",), optional_images=("mask",), numbers={"grow_mask": (0, 20)}
    ),
    f"{_EDIT}/inpaint": Endpoint(
        {"inpaint": "0.05"},
        images=("image",),
        fields=("prompt",),
        optional_images=("mask",),
        numbers={"grow_mask": (0, 100)},
    ),
    f"{_EDIT}/outpaint": Endpoint(
        {"outpaint": "0.04"},
        images=("image",),
        sizing="outpaint",
        numbers=dict.fromkeys(("left", "right", "up", "down"), (0, OUTPAINT_MAX)) | {"creativity": (0, 1)},
    ),
    f"{_EDIT}/search-and-replace": Endpoint(
        {"search-and-replace": "0.05"},
        images=("image",),
        fields=("prompt", "search_prompt"),
        numbers={"grow_mask": (0, 20)},
    ),
    f"{_EDIT}/search-and-recolor": Endpoint(
        {"search-and-recolor": "0.05"},
        images=("image",),
        fields=("prompt", "select_prompt"),
        numbers={"grow_mask": (0, 20)},
    ),
    f"{_EDIT}/remove-background": Endpoint(
        {"remove-background": "0.05"},
        images=("image",),
        cut_out=True,
        formats=("png", "webp"),
        pixels=(4_096, 4_194_304),
    ),
    f"{_EDIT}/replace-background-and-relight": Endpoint(
        {"replace-background-and-relight": "0.08"},
        images=("subject_image",),
        optional_images=("background_reference", "light_reference"),
        asynchronous=True,
        numbers={
            "preserve_original_subject": (0, 1),
            "original_background_depth": (0, 1),
            "light_source_strength": (0, 1),
        },
    ),
    f"{_UPSCALE}/fast": Endpoint(
        {"upscale-fast": "0.02"}, images=("image",), sizing="times-4", edge_min=32, pixels=(1_024, MEGAPIXEL)
    ),
    f"{_UPSCALE}/conservative": Endpoint(
        {"upscale-conservative": "0.40"},
        images=("image",),
        fields=("prompt",),
        sizing="to-4",
        numbers={"creativity": (0.2, 0.5)},
    ),
    f"{_UPSCALE}/creative": Endpoint(
        {"upscale-creative": "0.60"},
        images=("image",),
        fields=("prompt",),
        sizing="to-4",
        asynchronous=True,
        numbers={"creativity": (0.1, 0.5)},
        pixels=(4_096, MEGAPIXEL),
    ),
    f"{_CONTROL}/sketch": Endpoint(
        {"control-sketch": "0.05"}, images=("image",), fields=("prompt",), numbers=_STRENGTH
    ),
    f"{_CONTROL}/structure": Endpoint(
        {"control-structure": "0.05"}, images=("image",), fields=("prompt",), numbers=_STRENGTH
    ),
    f"{_CONTROL}/style": Endpoint(
        {"control-style": "0.05"},
        images=("image",),
        fields=("prompt",),
        sizing="ratio",
        numbers={"fidelity": (0, 1)},
    ),
    f"{_CONTROL}/style-transfer": Endpoint(
        {"style-transfer": "0.08"},
        images=("init_image", "style_image"),
        numbers={"style_strength": (0, 1), "composition_fidelity": (0, 1), "change_strength": (0.1, 1)},
    ),
    "/v2beta/3d/stable-fast-3d": Endpoint(
        {"stable-fast-3d": "0.10"},
        images=("image",),
        form=Form.MODEL,
        numbers={"foreground_ratio": (0.1, 1), "vertex_count": (-1, 20_000)},
        pixels=(4_096, 4_194_304),
    ),
    "/v2beta/3d/stable-point-aware-3d": Endpoint(
        {"stable-point-aware-3d": "0.04"},
        images=("image",),
        form=Form.MODEL,
        numbers={"foreground_ratio": (1, 2), "guidance_scale": (1, 10)},
        pixels=(4_096, 4_194_304),
    ),
}


def wrong_with(endpoint: Endpoint, fields: Mapping[str, str], images: Mapping[str, Upload]) -> list[str]:
    """What the provider would refuse, one message each; empty where it takes the request on."""
    wrong = [f"{name}: is required" for name in endpoint.images if name not in images]
    wrong += [f"{name}: is required" for name in endpoint.fields if not fields.get(name)]
    wrong += [
        f"{name}: must be at most {PROMPT_MAX} characters" for name, text in fields.items() if len(text) > PROMPT_MAX
    ]
    for name, upload in images.items():
        wrong += _wrong_with_image(endpoint, name, upload)
    numbers = {**endpoint.numbers, "seed": (0, SEED_MAX)}
    wrong += [
        f"{name}: must be a number between {low:g} and {high:g}"
        for name, (low, high) in numbers.items()
        if name in fields and not _is_between(fields[name], low, high)
    ]
    if endpoint.form is Form.IMAGE and fields.get("output_format", "png") not in endpoint.formats:
        wrong.append(f"output_format: must be one of: {', '.join(endpoint.formats)}")
    return wrong + _wrong_with_choice(endpoint, fields, images)


def _wrong_with_image(endpoint: Endpoint, name: str, upload: Upload) -> list[str]:
    low, high = endpoint.pixels
    wrong = []
    if min(upload.width, upload.height) < endpoint.edge_min:
        wrong.append(f"{name}: every side must be at least {endpoint.edge_min} pixels")
    if not low <= upload.pixels <= high:
        wrong.append(f"{name}: total pixel count must be between {low:,} and {high:,} pixels")
    return wrong


def _wrong_with_choice(endpoint: Endpoint, fields: Mapping[str, str], images: Mapping[str, Upload]) -> list[str]:
    wrong = []
    to_image = fields.get("mode") == "image-to-image"
    if endpoint.sizing.startswith("ratio") and fields.get("aspect_ratio", "1:1") not in RATIOS:
        wrong.append(f"aspect_ratio: must be one of: {', '.join(RATIOS)}")
    if len(endpoint.prices) > 1:
        if fields.get("model", next(iter(endpoint.prices))) not in endpoint.prices:
            wrong.append(f"model: must be one of: {', '.join(endpoint.prices)}")
        if fields.get("mode", "text-to-image") not in ("text-to-image", "image-to-image"):
            wrong.append("mode: must be one of: text-to-image, image-to-image")
        wrong += [f"{name}: is required" for name in ("image",) if to_image and name not in images]
        if not to_image and "image" in images:
            wrong.append("image: is only allowed when mode is image-to-image")
    if "image" in images and "strength" in endpoint.numbers and "strength" not in fields:
        wrong.append("strength: is required")
    if endpoint.sizing == "outpaint" and not any(_pixels(fields, side) for side in ("left", "right", "up", "down")):
        wrong.append("body: at least one of left, right, up, down must be greater than 0")
    background = "background_prompt" in fields or "background_reference" in images
    if "subject_image" in endpoint.images and not background:
        wrong.append("body: at least one of background_prompt, background_reference is required")
    return wrong


def _is_between(text: str, low: float, high: float) -> bool:
    try:
        return low <= float(text) <= high
    except ValueError:
        return False


def _pixels(fields: Mapping[str, str], side: str) -> int:
    text = fields.get(side, "0")
    return int(float(text)) if _is_between(text, 0, OUTPAINT_MAX) else 0


def credits_of(endpoint: Endpoint, fields: Mapping[str, str]) -> tuple[str, str]:
    """The model that does it, and its price in dollars."""
    default = next(iter(endpoint.prices))
    model = fields.get("model", default) if len(endpoint.prices) > 1 else default
    return model, endpoint.prices[model]


def size_of(endpoint: Endpoint, fields: Mapping[str, str], images: Mapping[str, Upload]) -> tuple[int, int]:
    """Of the result, in pixels. The request has nothing wrong with it."""
    source = next((images[name] for name in (*endpoint.images, "image") if name in images), None)
    if source is None or (endpoint.sizing.startswith("ratio") and "strength" not in fields):
        width, height = RATIOS[fields.get("aspect_ratio", "1:1")]
        if endpoint.sizing == "ratio-1.5":
            return _scaled(width, height, OUTPUT_PIXELS["1.5"])
        return width, height
    match endpoint.sizing:
        case "times-4":
            return 4 * source.width, 4 * source.height
        case "to-4":
            return _scaled(source.width, source.height, OUTPUT_PIXELS["4"])
        case "outpaint":
            across = _pixels(fields, "left") + _pixels(fields, "right")
            return source.width + across, source.height + _pixels(fields, "up") + _pixels(fields, "down")
        case _:
            return source.width, source.height


def _scaled(width: int, height: int, pixels: int) -> tuple[int, int]:
    """Of the same shape, with about so many pixels, and sides that 64 divides."""
    scale = (pixels / (width * height)) ** 0.5
    return max(64, round(width * scale / 64) * 64), max(64, round(height * scale / 64) * 64)
