"""The HTTP interface: one route per operation type, made from its declaration."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI, Request, Response

from contracts.access.guard import principal_of_request
from contracts.problems import INVALID_REQUEST, FieldError, Problem, ProblemError
from image_service.access import caller_of
from image_service.admission import Admission
from image_service.calls import Caller
from image_service.images import BadImageError, Bounds, SourceImage, examine
from image_service.operations.base import AnyOperation, Parameters
from image_service.providers.registry import Providers
from image_service.replies import ImagesReply, success
from image_service.request_reading import IMAGE_FIELD, ReadBody, read_body, read_idempotency_key
from image_service.runs import Request as RunRequest
from image_service.runs import Runs

_ACT_AS: Final = "For tokens with the scope `act-as`; others say it themselves."
_PROBLEMS: Final = {
    400: "Malformed",
    409: "The same key is still running, or its result is no longer kept",
    413: "Too large",
    415: "Content type not accepted",
    422: "A field breaks a rule",
    429: "A limit has no room; the decision is in the problem",
    502: "The provider did not do it",
    503: "No decision or no record could be made, so nothing was started",
}


@dataclass(frozen=True)
class ImageApi:
    """What the routes need."""

    runs: Runs
    providers: Providers
    admission: Admission
    #: Uploads are decoded here once, to know that they are sound.
    examiners: Executor
    bounds: Bounds
    upload_bytes_max: int

    async def handle(self, operation: AnyOperation, request: Request) -> Response:
        """One request, from headers to response. Everything wrong with it is said before any limit check."""
        caller = caller_of(principal_of_request(request), request.headers)
        key = read_idempotency_key(request.headers)
        with self.admission.operation():
            async with read_body(request, operation, self.upload_bytes_max) as body:
                upload_bytes = body.upload.size or 0 if body.upload is not None else 0
                async with self.admission.upload(upload_bytes):
                    ready = await self._prepare(operation, caller, key, body)
                    ran = await self.runs.run(ready)
            return await success(ran, request.headers.get("Accept"))

    async def _prepare(self, operation: AnyOperation, caller: Caller, key: str | None, body: ReadBody) -> RunRequest:
        parameters = body.parameters
        selection = self.providers.select(
            operation, parameters.provider, parameters.model, operation.quantity(parameters)
        )
        data = await body.upload.read() if body.upload is not None else b""
        source = await self._examine(data) if operation.takes_image else None
        operation.check(parameters, source, self.bounds)
        return RunRequest(
            operation=operation,
            parameters=parameters,
            source=source,
            caller=caller,
            selection=selection,
            body_bytes=body.body_bytes,
            key=key,
            request_hash=await asyncio.to_thread(request_hash, operation, caller, parameters, data) if key else "",
        )

    async def _examine(self, data: bytes) -> SourceImage:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.examiners, examine, data, self.bounds)
        except BadImageError as error:
            wrong = FieldError(field=IMAGE_FIELD, rule="image", message=str(error))
            raise ProblemError(INVALID_REQUEST, f"{IMAGE_FIELD}: {error}", [wrong]) from error


def request_hash(operation: AnyOperation, caller: Caller, parameters: Parameters, image: bytes) -> str:
    """What makes two requests the same for an idempotency key: operation, who, all parameters, the image's bytes."""
    digest = hashlib.sha256()
    for part in (operation.name, caller.model_dump_json(), parameters.model_dump_json()):
        digest.update(part.encode() + b"\n")
    digest.update(image)
    return digest.hexdigest()


def add_operation_routes(app: FastAPI, api: ImageApi, operations: dict[str, AnyOperation]) -> None:
    for operation in operations.values():
        app.add_api_route(
            operation.path,
            _endpoint(api, operation),
            methods=["POST"],
            name=operation.name,
            summary=operation.summary,
            description=operation.description,
            tags=["operations"],
            response_model=None,
            responses={
                200: {"model": ImagesReply, "content": {"image/*": {}}, "description": "Done"},
                **{status: {"model": Problem, "description": what} for status, what in _PROBLEMS.items()},
            },
            openapi_extra=_documentation(operation),
        )


def _endpoint(api: ImageApi, operation: AnyOperation) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await api.handle(operation, request)

    return endpoint


def _documentation(operation: AnyOperation) -> dict[str, Any]:  # Any: an OpenAPI fragment, as FastAPI takes it
    schema = operation.parameters.model_json_schema()
    media_type = "application/json"
    if operation.takes_image:
        media_type = "multipart/form-data"
        image = {"type": "string", "format": "binary", "description": "PNG, JPEG or WebP"}
        schema["properties"] = {IMAGE_FIELD: image, **schema["properties"]}
        schema["required"] = [IMAGE_FIELD, *schema.get("required", [])]
    return {
        "requestBody": {"required": True, "content": {media_type: {"schema": schema}}},
        "parameters": [
            _header("X-Account-Id", f"Who pays. {_ACT_AS}"),
            _header("X-User-Id", f"Who acts. {_ACT_AS}"),
            _header("X-Project-Id", f"For which project. {_ACT_AS}"),
            _header("X-Api-Key-Id", f"With which key. {_ACT_AS}"),
            _header("Idempotency-Key", "A repeat with the same key returns the first outcome and is charged once."),
        ],
    }


def _header(name: str, description: str) -> dict[str, Any]:  # Any: as above
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string"},
    }
