"""The operation types there are. A new one adds its name here and its file in image_service/operations/."""

from typing import Final

OPERATION_TYPES: Final[tuple[str, ...]] = (
    "generate",
    "character",
    "edit",
    "face_swap",
    "upscale",
    "control",
    "image_to_3d",
    "image_to_video",
)
