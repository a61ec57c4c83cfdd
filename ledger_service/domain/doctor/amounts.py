"""Amounts as people read them."""

from typing import Final

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))
_SIZES: Final = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``5 min``, ``3 h``."""
    for length, unit in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def size(number: float) -> str:
    """``1.5 GB``, ``12 kB``."""
    for length, unit in _SIZES:
        if number >= length:
            return f"{number / length:,.1f} {unit}"
    return f"{number:,.0f} bytes"


def some(names: list[str], shown_max: int = 5) -> str:
    """The first of them, and how many more there are."""
    more = len(names) - shown_max
    return ", ".join(names[:shown_max]) + (f" and {more} more" if more > 0 else "")
