"""The operation types there are. A new one adds its name here and its file in image_service/operations/."""

from typing import Final

OPERATION_TYPES: Final[tuple[str, ...]] = (
    "generate",
    "edit",
    "upscale",
)
