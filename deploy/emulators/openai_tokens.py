"""How many tokens an image of OpenAI's is, and what a token costs. See `openai.py` for the sources."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from deploy.emulators.media import Upload

IMAGES_MAX: Final = 10
CHARACTERS_A_TOKEN: Final = 4
#: Of an input image: a base, and as much for each tile of 512 pixels once its short side is 512 pixels.
INPUT_BASE: Final = 65
INPUT_TILE: Final = 129
TILE: Final = 512
#: With high fidelity come more: for a square, for any other shape.
FAITHFUL: Final = (4160, 6240)
_SIZE: Final = re.compile(r"([0-9]{2,5})x([0-9]{2,5})")
_TABLE: Final[Mapping[str, Mapping[tuple[int, int], int]]] = {
    "low": {(1024, 1024): 272, (1024, 1536): 408, (1536, 1024): 400},
    "medium": {(1024, 1024): 1056, (1024, 1536): 1584, (1536, 1024): 1568},
    "high": {(1024, 1024): 4160, (1024, 1536): 6240, (1536, 1024): 6208},
}
_FACTORS: Final = {"low": 16, "medium": 48, "high": 96}


@dataclass(frozen=True)
class Model:
    """Prices in nano-dollars a token."""

    text: int
    image: int
    output: int
    any_size: bool = False
    always_faithful: bool = False


_TWO: Final = Model(5_000, 8_000, 30_000, any_size=True, always_faithful=True)
MODELS: Final[Mapping[str, Model]] = {
    "gpt-image-1": Model(5_000, 10_000, 40_000),
    "gpt-image-1-mini": Model(2_000, 2_500, 8_000),
    "gpt-image-1.5": Model(5_000, 8_000, 32_000),
    "chatgpt-image-latest": Model(5_000, 8_000, 32_000),
    "gpt-image-2": _TWO,
    "gpt-image-2-2026-04-21": _TWO,
}


@dataclass(frozen=True)
class Usage:
    """Tokens of one request."""

    text: int
    image: int
    output: int

    def nanos(self, model: Model) -> int:
        return self.text * model.text + self.image * model.image + self.output * model.output

    def body(self) -> dict[str, object]:
        """As the answer has it."""
        return {
            "input_tokens": self.text + self.image,
            "input_tokens_details": {"text_tokens": self.text, "image_tokens": self.image},
            "output_tokens": self.output,
            "output_tokens_details": {"image_tokens": self.output, "text_tokens": 0},
            "total_tokens": self.text + self.image + self.output,
        }


def text_tokens(text: str) -> int:
    return math.ceil(len(text) / CHARACTERS_A_TOKEN)


def image_tokens(upload: Upload, faithful: bool) -> int:
    """Of an input image."""
    scale = TILE / min(upload.width, upload.height)
    tiles = math.ceil(upload.width * scale / TILE) * math.ceil(upload.height * scale / TILE)
    extra = FAITHFUL[upload.width != upload.height] if faithful else 0
    return INPUT_BASE + INPUT_TILE * tiles + extra


def output_tokens(model: Model, quality: str, width: int, height: int) -> int:
    """Of one image that comes out."""
    if not model.any_size:
        return _TABLE[quality][width, height]
    factor, long, short = _FACTORS[quality], max(width, height), min(width, height)
    other = (2 * factor * short + long) // (2 * long)
    return -(-factor * other * (2_000_000 + width * height) // 4_000_000)


def size_of(model: Model, size: str) -> tuple[int, int]:
    """Width and height. Raises ValueError with what the model can do."""
    if size == "auto":
        return 1024, 1024
    match = _SIZE.fullmatch(size)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not model.any_size:
        if (width, height) not in _TABLE["low"]:
            raise ValueError(
                f"Invalid value: '{size}'. Supported values are: '1024x1024', '1024x1536', '1536x1024', and 'auto'."
            )
        return width, height
    if not match or width % 16 or height % 16 or max(width, height) > 3 * min(width, height):
        raise ValueError(f"Invalid size '{size}': sides are divisible by 16 and of a ratio from 1:3 to 3:1.")
    if not 655_360 <= width * height <= 8_294_400 or max(width, height) > 3840:
        raise ValueError(f"Invalid size '{size}': it has from 655,360 to 8,294,400 pixels, and no side above 3840.")
    return width, height
