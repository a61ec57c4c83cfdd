"""The HTTP interface: one route per operation type, made from its declaration."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI, Request, Response

from contracts.access.guard import principal_of_request
from contracts.problems import INVALID_REQUEST, FieldError, Problem, ProblemError
from image_service.access import caller_of
from image_service.admission import Admission
from image_service.artifacts import Content
from image_service.calls import Caller
from image_service.images import BadImageError, Bounds, SourceImage, examine, stripped
from image_service.operations.base import AnyOperation, Parameters, UploadField, Uploads, bad_field
from image_service.preferences import Preferences, read_preferences
from image_service.providers.registry import Providers
from image_service.replies import REPEATED_HEADER, OperationReply, StatusReply, success
from image_service.request_reading import ReadBody, read_body, read_idempotency_key
from image_service.results_api import accepted
from image_service.runs import Request as RunRequest
from image_service.runs import Running, Runs
from image_service.spool import Spool, digest

_ACT_AS: Final = "For tokens with the scope `act-as`; others say it themselves."
_PROBLEMS: Final = {
    400: "Malformed",
    408: "The body does not come, or slower than others that wait",
    409: "The same key is still running, or its result is no longer kept",
    413: "Too large",
    415: "Content type not accepted",
    422: "A field breaks a rule",
    429: "A limit has no room; the decision is in the problem",
    502: "The provider did not do it",
    503: "No decision or no record could be made, or no provider is up, so nothing was started",
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
    spool_folder: Path
    #: For so long a caller without other wishes is kept waiting for its result.
    patience_seconds: float

    async def handle(self, operation: AnyOperation, request: Request) -> Response:
        """One request, from headers to response. Everything wrong with it is said before any limit check."""
        caller = caller_of(principal_of_request(request), request.headers)
        key = read_idempotency_key(request.headers)
        preferences = read_preferences(request.headers.getlist("Prefer"))
        async with read_body(request, operation, self.upload_bytes_max, self.admission) as body:
            # Only now that all of the body is here: it is nobody's to keep who sends slowly.
            place = self.admission.enter()
            try:
                ready = await self._read(operation, caller, key, preferences, body)
                running = self.runs.start(ready)
            except BaseException:
                place.leave()
                raise
            # It is taken for as long as the operation runs, whoever waits for it.
            running.task.add_done_callback(lambda _: place.leave())
        return await self._answer(request, preferences, ready, running)

    async def _read(
        self, operation: AnyOperation, caller: Caller, key: str | None, preferences: Preferences, body: ReadBody
    ) -> RunRequest:
        spool = Spool(self.spool_folder)
        try:
            async with self.admission.upload(body.upload_bytes):
                return await self._prepare(operation, caller, key, preferences, body, spool)
        except BaseException:
            await asyncio.to_thread(spool.clear)
            raise

    async def _prepare(
        self,
        operation: AnyOperation,
        caller: Caller,
        key: str | None,
        preferences: Preferences,
        body: ReadBody,
        spool: Spool,
    ) -> RunRequest:
        parameters = body.parameters
        uploads, hashed = await self._uploads(operation, body, spool, key is not None)
        asked = operation.request(parameters, uploads, self.bounds)
        selection = self.providers.select(operation, parameters.provider, parameters.model, asked)
        return RunRequest(
            operation=operation,
            request=asked,
            caller=caller,
            selection=selection,
            body_bytes=body.body_bytes,
            key=key,
            request_hash=request_hash(operation, caller, parameters, hashed) if key else "",
            keep=preferences.minimal or preferences.patience(selection.is_long, 1) == 0,
            spool=spool,
        )

    async def _uploads(
        self, operation: AnyOperation, body: ReadBody, spool: Spool, with_hash: bool
    ) -> tuple[Uploads, bytes]:
        """The uploads, known to be sound and to fit each other, and their hash where one is wanted."""
        if not operation.uploads:
            return Uploads(), b""
        loop = asyncio.get_running_loop()
        images: dict[str, tuple[SourceImage, ...]] = {}
        contents: list[Content] = []
        for field in operation.uploads:
            found = []
            for upload in body.uploads.get(field.name, ()):
                content = await asyncio.to_thread(spool.take, upload.file, upload.size or 0)
                contents.append(content)
                try:
                    found.append(await loop.run_in_executor(self.examiners, _taken_in, content, self.bounds, spool))
                except BadImageError as error:
                    wrong = FieldError(field=field.name, rule="image", message=str(error))
                    raise ProblemError(INVALID_REQUEST, f"{field.name}: {error}", [wrong]) from error
            images[field.name] = tuple(found)
        for field in operation.uploads:
            _check_sizes(field, images)
        hashed = await asyncio.to_thread(digest, contents) if with_hash else b""
        return Uploads(images), hashed

    async def _answer(
        self, request: Request, preferences: Preferences, ready: RunRequest, running: Running
    ) -> Response:
        patience = preferences.patience(ready.selection.is_long, self.patience_seconds)
        if not running.repeated or patience < self.patience_seconds:
            await asyncio.wait({running.task}, timeout=patience)
            # Only what is admitted can be followed; a denial is said at once.
            await running.begun()
            if not (running.task.done() or running.watch.over or running.watch.unkept):
                running.watch.wanted = True
                return accepted(running.watch, preferences.applied(waited=False, minimal=False))
        ran = await self.runs.result(running)
        headers = {REPEATED_HEADER: "true"} if ran.repeated else {}
        by_url = ran.outcome.kept_at is not None and preferences.minimal
        applied = preferences.applied(waited=True, minimal=by_url)
        if applied:
            headers["Preference-Applied"] = applied
        return success(ran.outcome, request.headers.get("Accept"), headers, by_url=by_url)


def _taken_in(content: Content, bounds: Bounds, spool: Spool) -> SourceImage:
    """What a provider may get of an upload. Raises BadImageError. For a worker thread."""
    found = examine(content, bounds)
    return replace(found, content=spool.keep(stripped(found)))


def _check_sizes(field: UploadField, images: Mapping[str, tuple[SourceImage, ...]]) -> None:
    if field.same_size_as is None:
        return
    [other] = images[field.same_size_as]
    for image in images[field.name]:
        if (image.width, image.height) != (other.width, other.height):
            message = (
                f"{image.width} x {image.height} pixels, and {field.same_size_as} has {other.width} x {other.height}"
            )
            raise bad_field(field.name, message, "size")


def request_hash(operation: AnyOperation, caller: Caller, parameters: Parameters, uploads: bytes) -> str:
    """What makes two requests the same for an idempotency key: operation, who, all parameters, the uploads' bytes."""
    whole = hashlib.sha256()
    for part in (operation.name, caller.model_dump_json(), parameters.model_dump_json()):
        whole.update(part.encode() + b"\n")
    whole.update(uploads)
    return whole.hexdigest()


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
                200: {"model": OperationReply, "content": {"image/*": {}}, "description": "Done"},
                202: {
                    "model": StatusReply,
                    "description": "Under way; the header Location says where it can be followed",
                },
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
    if operation.uploads:
        media_type = "multipart/form-data"
        files = {field.name: _file(field) for field in operation.uploads}
        required = [field.name for field in operation.uploads if field.required]
        schema["properties"] = {**files, **schema["properties"]}
        schema["required"] = [*required, *schema.get("required", [])]
    return {
        "requestBody": {"required": True, "content": {media_type: {"schema": schema}}},
        "parameters": [
            header("X-Account-Id", f"Who pays. {_ACT_AS}"),
            header("X-User-Id", f"Who acts. {_ACT_AS}"),
            header("X-Project-Id", f"For which project. {_ACT_AS}"),
            header("X-Api-Key-Id", f"With which key. {_ACT_AS}"),
            header("Idempotency-Key", "A repeat with the same key returns the first outcome and is charged once."),
            header(
                "Prefer",
                "`respond-async`: 202 at once. `wait=n`: 202 after n seconds. `return=minimal`: results by URL.",
            ),
        ],
    }


def _file(field: UploadField) -> dict[str, Any]:  # Any: as above
    one = {"type": "string", "format": "binary", "description": f"PNG, JPEG or WebP. {field.description}"}
    if field.count_max == 1:
        return one
    return {"type": "array", "items": one, "minItems": int(field.required), "maxItems": field.count_max}


def header(name: str, description: str) -> dict[str, Any]:  # Any: as above
    """An optional request header in OpenAPI."""
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string"},
    }
