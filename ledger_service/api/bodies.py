"""Request bodies, bounded, as bytes.

FastAPI's own way is bytes → dict → model, with dependencies solved around it; on the hot path that is half the cost.
"""

from typing import Any, Final
from uuid import UUID

import orjson
from fastapi import Request
from pydantic import BaseModel

from contracts.problems import MALFORMED_JSON, TOO_LARGE, ProblemError, broken_rule
from contracts.strict_json import Model, read_json, refuse_repeated_members
from ledger_service.calls import CHECK_BYTES_MAX

#: Of any body, before a byte of it is read; a route may take less.
ADMINISTRATION_BYTES_MAX: Final = 1024 * 1024
EVENTS_BYTES_MAX: Final = 16 * 1024 * 1024
EVENTS_PATH: Final = "/v1/events"


def body_bytes_max(path: str) -> int:
    """What a request to this path may have as its body."""
    return EVENTS_BYTES_MAX if path == EVENTS_PATH else ADMINISTRATION_BYTES_MAX


async def refuse_ambiguous(request: Request) -> None:
    """Dependency of routes whose bodies FastAPI reads: refuses members that stand twice."""
    body = await request.body()
    if body:
        refuse_repeated_members(body)


async def read_body(request: Request, bytes_max: int) -> bytes:
    """The whole body. Raises ProblemError where it is larger than ``bytes_max``."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > bytes_max:
            raise ProblemError(TOO_LARGE, f"at most {bytes_max} bytes a request")
        chunks.append(chunk)
    return b"".join(chunks)


async def read_model(request: Request, model: type[Model], bytes_max: int) -> Model:
    """The body as a model. Raises ProblemError that names the fields which break a rule."""
    return read_json(model, await read_body(request, bytes_max))


def json_body(model: type[BaseModel]) -> dict[str, Any]:  # Any: a piece of an OpenAPI document
    """What FastAPI would document by itself, had it to read the body: for ``openapi_extra``."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def named_in_path(request: Request, field: str, named: UUID) -> bytes:
    """The body, where there is one, with the id that the path names in ``field``."""
    body = await read_body(request, CHECK_BYTES_MAX)
    try:
        fields = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise ProblemError(MALFORMED_JSON, f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise broken_rule("", "object", "not a JSON object")
    if body:
        refuse_repeated_members(body)
    if fields.setdefault(field, str(named)) != str(named):
        raise broken_rule(field, "contradiction", "the address names another")
    return orjson.dumps(fields)
