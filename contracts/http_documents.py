"""OpenAPI documents that tell the truth: every status that a route gives, and problems as problems."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel

from contracts.problems import (
    CONTENT_TYPE,
    HEADERS_TOO_LARGE,
    INTERNAL,
    INVALID_REQUEST,
    MALFORMED_JSON,
    REQUEST_TIMEOUT,
    TOO_LARGE,
    Problem,
    ProblemType,
)

Document = dict[str, Any]  # an OpenAPI document, or a piece of one, as FastAPI has it
#: Of one route: its method and path, and the problems that are its own.
Own = Mapping[tuple[str, str], Iterable[ProblemType]]

EVENT_STREAM: Final = "text/event-stream"
_SCHEMA: Final = {"$ref": "#/components/schemas/Problem"}
_METHODS: Final = frozenset({"get", "put", "post", "delete", "patch"})
#: See http_bounds.
_EVERYWHERE: Final = (HEADERS_TOO_LARGE, REQUEST_TIMEOUT, INTERNAL)
_OF_BODIES: Final = (MALFORMED_JSON, TOO_LARGE)
#: Of responses: what a header says, by its name.
Headers = Mapping[str, str]
#: What FastAPI says of a 422 by itself, and no service answers.
_NOT_OURS: Final = ("HTTPValidationError", "ValidationError")


def document_problems(app: FastAPI, everywhere: Iterable[ProblemType] = (), own: Own | None = None) -> None:
    """Adds to the app's document what its routes answer besides success: ``everywhere`` on the routes under /v1,
    ``own`` on single ones, and what follows from having parameters or a body.

    Raises LookupError, when the document is asked for, where ``own`` names a route that there is not.
    """
    original = app.openapi

    def openapi() -> Document:
        if app.openapi_schema is None:
            document = original()
            _complete(document, tuple(everywhere), own or {})
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def event_stream(**data: Document) -> Document:
    """The ``content`` of a response that is server-sent events: by their names, the schemas of their data as JSON."""
    kinds = [
        {
            "type": "object",
            "required": ["event", "data"],
            "properties": {
                "id": {"type": "string"},
                "event": {"const": name},
                "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": schema},
            },
        }
        for name, schema in data.items()
    ]
    return {EVENT_STREAM: {"itemSchema": {"oneOf": kinds}}}


def component(model: type[BaseModel]) -> Document:
    """The schema of a model that some route of the app answers or takes."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def document_headers(app: FastAPI, parameter: str, headers: Headers, problems: Iterable[ProblemType]) -> None:
    """Adds to the app's document, on the routes that take this parameter, the headers of their success and the problems
    that it may end in."""
    original = app.openapi
    described = {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}

    def openapi() -> Document:
        document = original()
        for operations in document["paths"].values():
            for operation in (operations[method] for method in _METHODS & operations.keys()):
                if any(one["name"] == parameter for one in operation.get("parameters", ())):
                    operation["responses"]["200"].setdefault("headers", {}).update(described)
                    _add_problems(operation["responses"], problems)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as above


def _complete(document: Document, everywhere: tuple[ProblemType, ...], own: Own) -> None:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in _NOT_OURS:
        schemas.pop(name, None)
    schemas["Problem"], more = _schema_of(Problem.model_json_schema(ref_template="#/components/schemas/{model}"))
    schemas |= more
    unknown = set(own)
    for path, operations in document["paths"].items():
        for method in _METHODS & operations.keys():
            route = (method.upper(), path)
            unknown.discard(route)
            kinds = [*own.get(route, ()), *((*everywhere, *_EVERYWHERE) if path.startswith("/v1/") else ())]
            _complete_operation(operations[method], kinds, schemas)
    if unknown:
        raise LookupError(f"there is no route {sorted(unknown)}")


def _complete_operation(operation: Document, kinds: list[ProblemType], schemas: Document) -> None:
    bodies = operation.get("requestBody", {}).get("content", {}).values()
    for content in bodies:
        content["schema"], more = _schema_of(content.get("schema", {}))
        schemas |= more
    kinds += _OF_BODIES if bodies else ()
    kinds += [INVALID_REQUEST] if bodies or operation.get("parameters") else []
    responses = operation["responses"]
    responses.pop("422", None)
    for status, response in responses.items():
        if int(status) >= HTTPStatus.BAD_REQUEST and "application/json" in response.get("content", {}):
            response["content"] = {CONTENT_TYPE: {"schema": _SCHEMA}}
    _add_problems(responses, kinds)


def _add_problems(responses: Document, kinds: Iterable[ProblemType]) -> None:
    for kind in kinds:
        empty = {"description": "", "content": {CONTENT_TYPE: {"schema": _SCHEMA}}}
        known = responses.setdefault(str(kind.status), empty)
        if kind.code not in known["description"]:
            known["description"] += f"{'; ' if known['description'] else ''}{kind.code}: {kind.title}"


def _schema_of(schema: Document) -> tuple[Document, Document]:
    """A schema without definitions of its own, and those: references look for them among the components."""
    return {name: value for name, value in schema.items() if name != "$defs"}, schema.get("$defs", {})
