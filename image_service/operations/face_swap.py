"""face_swap: another face in an image."""

from typing import Annotated

from pydantic import Field

from image_service.images import Bounds
from image_service.operations.base import IMAGE, Operation, Parameters, UploadField, Uploads
from image_service.providers.capabilities import as_face_swap
from image_service.providers.requests import FaceSwapRequest


class FaceSwapParameters(Parameters):
    index: Annotated[int, Field(ge=0, le=9, description="Of several faces in the image: 0 is the largest.")] = 0


def _request(parameters: FaceSwapParameters, uploads: Uploads, bounds: Bounds) -> FaceSwapRequest:
    del bounds
    return FaceSwapRequest(image=uploads.one("image"), face=uploads.one("face"), index=parameters.index)


OPERATION = Operation(
    name="face_swap",
    summary="Put another face into an image",
    description="The face of one image takes the place of a face in the other.",
    parameters=FaceSwapParameters,
    uploads=(IMAGE, UploadField("face", "An image of the face that is put in.")),
    request=_request,
    capability=as_face_swap,
    run=lambda provider, model, request, attempt: provider.face_swap(model, request, attempt),
)
