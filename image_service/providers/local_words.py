"""What the local models read in a text: names of colours, and a few words for changes. Nothing else."""

import re
from typing import Final

Colour = tuple[int, int, int]

COLOURS: Final[dict[str, Colour]] = {
    "red": (214, 40, 40), "orange": (240, 140, 30), "yellow": (245, 215, 50), "green": (52, 160, 70),
    "turquoise": (50, 190, 180), "cyan": (40, 200, 220), "blue": (45, 90, 210), "purple": (130, 60, 180),
    "violet": (140, 80, 200), "pink": (240, 130, 180), "magenta": (210, 40, 160), "brown": (125, 80, 45),
    "gold": (215, 170, 50), "white": (248, 248, 248), "grey": (128, 128, 128), "gray": (128, 128, 128),
    "black": (20, 20, 20),
}  # fmt: skip

#: Words of a general edit, and what each of them does.
CHANGES: Final[dict[str, str]] = {
    "brighter": "brighter", "bright": "brighter", "lighter": "brighter", "darker": "darker", "dark": "darker",
    "night": "darker", "contrast": "contrast", "contrasty": "contrast", "vivid": "vivid", "saturated": "vivid",
    "colourful": "vivid", "colorful": "vivid", "muted": "muted", "pale": "muted", "grayscale": "grayscale",
    "greyscale": "grayscale", "monochrome": "grayscale", "sepia": "sepia", "vintage": "sepia", "blur": "blur",
    "blurred": "blur", "blurry": "blur", "soft": "blur", "sharp": "sharpen", "sharper": "sharpen", "warm": "warm",
    "warmer": "warm", "sunset": "warm", "cool": "cool", "cooler": "cool", "cold": "cool", "invert": "invert",
    "inverted": "invert", "negative": "invert", "mirror": "mirror", "mirrored": "mirror", "flip": "mirror",
}  # fmt: skip

_WORD: Final = re.compile(r"[a-z]+")


def colour_in(text: str | None) -> Colour | None:
    """The first colour that the text names."""
    for word in _WORD.findall((text or "").lower()):
        if word in COLOURS:
            return COLOURS[word]
    return None


def changes_in(text: str | None) -> list[str]:
    """The changes that the text names, each once, in its order."""
    found = [CHANGES[word] for word in _WORD.findall((text or "").lower()) if word in CHANGES]
    if "black and white" in (text or "").lower():
        found.append("grayscale")
    return list(dict.fromkeys(found))
