"""image_to_3d: a textured mesh of what an image shows."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from image_service.images import Bounds
from image_service.operations.base import IMAGE, Operation, Parameters, Seed, Uploads
from image_service.providers.capabilities import as_image_to_3d
from image_service.providers.requests import ThreeDRequest


def _number(value: object) -> object:
    # A form's fields are texts, and pydantic compares those with the choices as they are.
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


class ThreeDParameters(Parameters):
    texture_resolution: Annotated[
        Literal[512, 1024, 2048], BeforeValidator(_number), Field(description="The texture's edge in pixels.")
    ] = 1024
    seed: Seed | None = None


def _request(parameters: ThreeDParameters, uploads: Uploads, bounds: Bounds) -> ThreeDRequest:
    del bounds
    return ThreeDRequest(
        image=uploads.one("image"), texture_resolution=parameters.texture_resolution, seed=parameters.seed
    )


OPERATION = Operation(
    name="image_to_3d",
    summary="Make a 3D model of an image",
    description="A textured mesh as a GLB file (binary glTF 2.0), `model/gltf-binary`.",
    parameters=ThreeDParameters,
    uploads=(IMAGE,),
    request=_request,
    capability=as_image_to_3d,
    run=lambda provider, model, request, attempt: provider.image_to_3d(model, request, attempt),
)
