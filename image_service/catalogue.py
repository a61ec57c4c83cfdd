"""What can be done here: the operations as they are declared, with who would do them."""

from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from image_service.operations import OPERATIONS
from image_service.operations.base import AnyOperation, UploadField
from image_service.providers.registry import Providers


class UploadReply(BaseModel):
    """A file that an operation takes."""

    name: str
    description: str
    required: bool
    count_max: int


class ModelReply(BaseModel):
    """A model that serves an operation, as it is configured here."""

    provider: str
    model: str
    kinds: Annotated[list[str], Field(description="Of an operation that has kinds, those that it does.")]
    is_long: Annotated[bool, Field(description="It usually takes longer than a caller waits.")]
    is_available: Annotated[bool, Field(description="Its provider could be reached lately.")]


class OperationTypeReply(BaseModel):
    """An operation type. ``parameters``: their JSON Schema."""

    name: str
    path: str
    summary: str
    description: str
    parameters: dict[str, Any]  # Any: a JSON Schema, as pydantic makes it
    uploads: list[UploadReply]
    models: list[ModelReply]


class CatalogueReply(BaseModel):
    operations: list[OperationTypeReply]


def add_catalogue_route(app: FastAPI, providers: Providers) -> None:
    @app.get("/v1/images", tags=["operations"], summary="What can be done")
    async def catalogue() -> CatalogueReply:
        """Every operation type, with its parameters, its files, and the models that do it here."""
        return CatalogueReply(operations=[_described(one, providers) for one in OPERATIONS.values()])


def _described(operation: AnyOperation, providers: Providers) -> OperationTypeReply:
    return OperationTypeReply(
        name=operation.name,
        path=operation.path,
        summary=operation.summary,
        description=operation.description,
        parameters=operation.parameters.model_json_schema(),
        uploads=[_upload(field) for field in operation.uploads],
        models=[
            ModelReply(
                provider=provider.name,
                model=model.name,
                kinds=sorted(model.kinds),
                is_long=model.long,
                is_available=provider.available,
            )
            for provider in providers.all()
            for model in provider.models
            if model.operation == operation.name
        ],
    )


def _upload(field: UploadField) -> UploadReply:
    return UploadReply(
        name=field.name, description=field.description, required=field.required, count_max=field.count_max
    )
