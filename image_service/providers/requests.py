"""What providers are asked, one shape per capability, and for edits one per kind.

Every request is complete and checked: sizes within the service's bounds, images upright, 8 bits a channel, in mode L,
RGB or RGBA, masks as large as their image (white is what changes).
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from image_service.images import SourceImage
from image_service.providers.base import Attributes

_MEGAPIXEL: Final = 1_000_000


def sized(width: int, height: int, **others: str | int | None) -> Attributes:
    """Price attributes of something of this size in pixels; what is None is left out."""
    known = {name: value for name, value in others.items() if value is not None}
    return {"size": f"{width}x{height}", "megapixels": math.ceil(width * height / _MEGAPIXEL), **known}


# --- generate, character


@dataclass(frozen=True)
class GenerateRequest:
    """Sizes in pixels; ``count`` variations of one prompt. Without a seed the provider chooses one.

    ``quality`` and ``steps`` in the model's own terms, where the caller named any.
    """

    prompt: str
    width: int
    height: int
    seed: int | None
    count: int
    negative_prompt: str | None = None
    quality: str | None = None
    steps: int | None = None

    kind: ClassVar[None] = None

    @property
    def quantity(self) -> int:
        return self.count

    @property
    def attributes(self) -> Attributes:
        return sized(self.width, self.height, quality=self.quality, steps=self.steps)


@dataclass(frozen=True)
class CharacterRequest:
    """``count`` images of the character that the references show, doing what the prompt says."""

    prompt: str
    references: tuple[SourceImage, ...]
    width: int
    height: int
    seed: int | None
    count: int
    quality: str | None = None

    kind: ClassVar[None] = None

    @property
    def quantity(self) -> int:
        return self.count

    @property
    def attributes(self) -> Attributes:
        return sized(self.width, self.height, quality=self.quality, reference_images=len(self.references))


# --- edit: one request per kind; `Model.kinds` says which of them a model does

Effect = Literal["enhance", "grayscale", "sepia", "blur", "sharpen", "rotate", "crop", "resize"]
LightDirection = Literal["above", "below", "left", "right"]


@dataclass(frozen=True)
class _OneImage:
    """A request that changes one image and gives one back."""

    image: SourceImage

    @property
    def quantity(self) -> int:
        return 1

    @property
    def attributes(self) -> Attributes:
        return sized(self.image.width, self.image.height)


@dataclass(frozen=True)
class EffectEdit(_OneImage):
    """One effect and what it needs; lengths in pixels, the angle in degrees clockwise, strength from 0 to 1."""

    effect: Effect
    prompt: str | None
    strength: float
    angle: int
    left: int
    top: int
    #: The size that comes out.
    width: int
    height: int

    kind: ClassVar[Literal["effect"]] = "effect"


@dataclass(frozen=True)
class GeneralEdit(_OneImage):
    """What the prompt says, to the whole image; with a mask, where the mask is white."""

    prompt: str
    mask: SourceImage | None = None
    strength: float | None = None
    seed: int | None = None
    quality: str | None = None

    kind: ClassVar[Literal["general"]] = "general"

    @property
    def attributes(self) -> Attributes:
        return sized(self.image.width, self.image.height, quality=self.quality)


@dataclass(frozen=True)
class RemoveBackground(_OneImage):
    """The subject on transparency: PNG or WebP with alpha."""

    kind: ClassVar[Literal["remove_background"]] = "remove_background"


@dataclass(frozen=True)
class Inpaint(_OneImage):
    """Where the mask is white: what the prompt says, in keeping with what is around it."""

    mask: SourceImage
    prompt: str
    negative_prompt: str | None = None
    seed: int | None = None

    kind: ClassVar[Literal["inpaint"]] = "inpaint"


@dataclass(frozen=True)
class Outpaint(_OneImage):
    """The picture goes on beyond its edges, by so many pixels on each side; not all are 0."""

    left: int
    right: int
    top: int
    bottom: int
    prompt: str | None = None
    seed: int | None = None

    kind: ClassVar[Literal["outpaint"]] = "outpaint"

    @property
    def width(self) -> int:
        """Of what comes out."""
        return self.left + self.image.width + self.right

    @property
    def height(self) -> int:
        return self.top + self.image.height + self.bottom

    @property
    def attributes(self) -> Attributes:
        return sized(self.width, self.height)


@dataclass(frozen=True)
class Erase(_OneImage):
    """What is under the white of the mask goes away; what is around it takes its place."""

    mask: SourceImage
    seed: int | None = None

    kind: ClassVar[Literal["erase"]] = "erase"


@dataclass(frozen=True)
class SearchReplace(_OneImage):
    """What ``search`` names becomes what the prompt says."""

    search: str
    prompt: str
    negative_prompt: str | None = None
    seed: int | None = None

    kind: ClassVar[Literal["search_replace"]] = "search_replace"


@dataclass(frozen=True)
class SearchRecolor(_OneImage):
    """What ``search`` names gets the colour that the prompt says."""

    search: str
    prompt: str
    seed: int | None = None

    kind: ClassVar[Literal["search_recolor"]] = "search_recolor"


@dataclass(frozen=True)
class Relight(_OneImage):
    """The subject in another light, before another background where the prompt names one. Strength from 0 to 1."""

    prompt: str | None
    direction: LightDirection | None
    strength: float | None = None
    seed: int | None = None

    kind: ClassVar[Literal["relight"]] = "relight"


EditRequest = (
    EffectEdit
    | GeneralEdit
    | RemoveBackground
    | Inpaint
    | Outpaint
    | Erase
    | SearchReplace
    | SearchRecolor
    | Relight
)  # fmt: skip


# --- face_swap, upscale, control


@dataclass(frozen=True)
class FaceSwapRequest(_OneImage):
    """The face in ``face`` takes the place of the one in ``image``; of several there the one with this index, from the
    largest (0) on."""

    face: SourceImage
    index: int = 0

    kind: ClassVar[None] = None


UpscaleKind = Literal["fast", "conservative", "creative"]


@dataclass(frozen=True)
class UpscaleRequest(_OneImage):
    """``width`` x ``height`` pixels are to come out: exactly, where ``exact``, as the caller named them; else the model
    may have a size of its own (refuse in `quote` what it cannot do exactly)."""

    kind: UpscaleKind
    width: int
    height: int
    exact: bool = True
    #: Of conservative and creative: what the picture shows, and how much may be invented, from 0 to 1.
    prompt: str | None = None
    creativity: float | None = None
    seed: int | None = None

    @property
    def attributes(self) -> Attributes:
        return sized(self.width, self.height)


ControlKind = Literal["sketch", "structure", "style"]


@dataclass(frozen=True)
class ControlRequest(_OneImage):
    """A new image by the prompt that keeps the lines (sketch), the composition (structure) or the look (style) of
    ``image``, as closely as ``strength`` says (0 to 1). It has ``width`` x ``height`` pixels: for sketch and structure
    those of ``image``."""

    kind: ControlKind
    prompt: str
    width: int
    height: int
    strength: float | None = None
    negative_prompt: str | None = None
    seed: int | None = None

    @property
    def attributes(self) -> Attributes:
        return sized(self.width, self.height)


# --- image_to_3d, image_to_video


@dataclass(frozen=True)
class ThreeDRequest(_OneImage):
    """A textured mesh of what the image shows; the texture's edge in pixels."""

    texture_resolution: int
    seed: int | None = None

    kind: ClassVar[None] = None

    @property
    def attributes(self) -> Attributes:
        return {"texture_resolution": self.texture_resolution}


VideoResolution = Literal["480p", "720p", "1080p"]


@dataclass(frozen=True)
class VideoRequest(_OneImage):
    """A clip of so many whole seconds that begins with the image; counted in seconds."""

    prompt: str | None
    seconds: int
    resolution: VideoResolution
    seed: int | None = None

    kind: ClassVar[None] = None

    @property
    def quantity(self) -> int:
        return self.seconds

    @property
    def attributes(self) -> Attributes:
        return {"resolution": self.resolution, "seconds": self.seconds}
