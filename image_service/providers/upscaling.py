"""What is known before an upscale of a model that has sizes of its own: whether what it makes can be delivered. Pure.

Where it cannot, the provider would do its work, and be paid for it, for nothing.
"""

from image_service.images import Bounds
from image_service.providers.base import RefusedRequestError
from image_service.providers.deliverables import can_be_cropped
from image_service.providers.requests import UpscaleRequest


def check_proportions(request: UpscaleRequest) -> None:
    """Of a model that keeps those of its image. Raises RefusedRequestError."""
    given = (request.image.width, request.image.height)
    if request.exact and not can_be_cropped(*given, request.width, request.height):
        message = f"the model keeps the image's proportions, {given[0]} x {given[1]}; give one edge alone"
        raise RefusedRequestError("width", message)


def check_made(width: float, height: float, bounds: Bounds) -> None:
    """Of a model that makes this size, whatever is asked for. Raises RefusedRequestError."""
    too_large = bounds.broken_by(round(width), round(height))
    if too_large:
        raise RefusedRequestError("width", f"the model would make {too_large}")
