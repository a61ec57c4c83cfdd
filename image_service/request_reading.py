"""From an HTTP request to parameters and upload; everything wrong with it is a problem that names the field."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from fastapi import Request
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.types import Message, Receive

from contracts.http_forms import form_of
from contracts.problems import (
    INVALID_REQUEST,
    MALFORMED_JSON,
    TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
    FieldError,
    ProblemError,
    describe,
    field_errors,
)
from image_service.admission import Admission
from image_service.calls import IdempotencyKey
from image_service.operations.base import AnyOperation, Parameters, UploadField

JSON_BYTES_MAX: Final = 64 * 1024
#: Room for the form's other fields and its framing, beside the file.
FORM_OVERHEAD_BYTES_MAX: Final = 64 * 1024
FORM_FIELDS_MAX: Final = 32
FORM_FIELD_BYTES_MAX: Final = 16 * 1024

_IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
_IDEMPOTENCY_KEY: Final[TypeAdapter[str]] = TypeAdapter(IdempotencyKey)


@dataclass(frozen=True)
class ReadBody:
    """A body that was read: checked parameters, the uploads by field (on disk where they are large), and its size as
    it came."""

    parameters: Parameters
    uploads: Mapping[str, tuple[UploadFile, ...]]
    body_bytes: int

    @property
    def upload_bytes(self) -> int:
        return sum(upload.size or 0 for uploads in self.uploads.values() for upload in uploads)


def read_idempotency_key(headers: Mapping[str, str]) -> str | None:
    """The key, if there is one. Raises ProblemError."""
    key = headers.get(_IDEMPOTENCY_HEADER)
    if key is None:
        return None
    try:
        return _IDEMPOTENCY_KEY.validate_python(key)
    except ValidationError as error:
        raise _wrong_field(_IDEMPOTENCY_HEADER, "1 to 255 visible ASCII characters") from error


@asynccontextmanager
async def read_body(
    request: Request, operation: AnyOperation, upload_bytes_max: int, admission: Admission
) -> AsyncIterator[ReadBody]:
    """The body of a request for an operation; the uploads are there until the context ends. Raises ProblemError.

    ``upload_bytes_max`` is for each file; all of them together may have twice that.
    """
    # One file too many is refused by its field's name, more than that by the form's.
    files_max = sum(field.count_max for field in operation.uploads)
    bytes_max = min(files_max, 2) * upload_bytes_max + FORM_OVERHEAD_BYTES_MAX if files_max else JSON_BYTES_MAX
    body = _BoundedBody(request.receive, bytes_max)
    body.refuse_early(request.headers.get("Content-Length"))
    bounded = Request(request.scope, body.receive)
    if not files_max:
        _require_media_type(request, "application/json")
        async with admission.incoming(body.received):
            content = await bounded.body()
        yield ReadBody(_from_json(operation, content), {}, body.received_bytes)
        return
    _require_media_type(request, "multipart/form-data")
    bounds = {"fields_max": FORM_FIELDS_MAX, "field_bytes_max": FORM_FIELD_BYTES_MAX}
    async with AsyncExitStack() as files:
        async with admission.incoming(body.received):
            form = await files.enter_async_context(form_of(bounded, files_max=files_max + 1, **bounds))
        uploads = {field.name: _uploads(field, form, upload_bytes_max) for field in operation.uploads}
        yield ReadBody(_from_form(operation, form), uploads, body.received_bytes)


class _BoundedBody:
    """Counts a body's bytes as they come, and stops at a bound: what a client says of its size proves nothing."""

    def __init__(self, receive: Receive, bytes_max: int) -> None:
        self._receive = receive
        self._bytes_max = bytes_max
        self.received_bytes = 0

    def received(self) -> int:
        return self.received_bytes

    def refuse_early(self, content_length: str | None) -> None:
        if content_length is not None and content_length.isdigit() and int(content_length) > self._bytes_max:
            raise self._too_large()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.received_bytes += len(message.get("body", b""))
            if self.received_bytes > self._bytes_max:
                raise self._too_large()
        return message

    def _too_large(self) -> ProblemError:
        return ProblemError(TOO_LARGE, f"the body may have {self._bytes_max} bytes")


def _require_media_type(request: Request, wanted: str) -> None:
    given = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise ProblemError(UNSUPPORTED_MEDIA_TYPE, f"Content-Type: {wanted} is needed, not {given or 'nothing'}")


def _from_json(operation: AnyOperation, body: bytes) -> Parameters:
    try:
        parsed: Parameters = operation.parameters.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise _invalid(error) from error
    return parsed


def _from_form(operation: AnyOperation, form: FormData) -> Parameters:
    fields: dict[str, str] = {}
    files = [field.name for field in operation.uploads]
    for name, value in form.multi_items():
        if name in files:
            continue
        if isinstance(value, UploadFile):
            raise _wrong_field(name, f"a file; only {', '.join(files)} may be one")
        if name in fields:
            raise _wrong_field(name, "stands twice")
        fields[name] = value
    try:
        parsed: Parameters = operation.parameters.model_validate_strings(fields)
    except ValidationError as error:
        raise _invalid(error) from error
    return parsed


def _uploads(field: UploadField, form: FormData, bytes_max: int) -> tuple[UploadFile, ...]:
    name, files = field.name, form.getlist(field.name)
    if not files and field.required:
        raise _wrong_field(name, "the file is missing", rule="missing")
    if len(files) > field.count_max:
        often = "twice" if field.count_max == 1 else f"{len(files)} times; up to {field.count_max} will do"
        raise _wrong_field(name, f"stands {often}")
    found = []
    for file in files:
        if not isinstance(file, UploadFile):
            raise _wrong_field(name, "must be a file part, with a filename")
        if file.size is not None and file.size > bytes_max:
            raise ProblemError(TOO_LARGE, f"{name}: larger than {bytes_max} bytes")
        found.append(file)
    return tuple(found)


def _wrong_field(field: str, message: str, rule: str = "value_error") -> ProblemError:
    return ProblemError(INVALID_REQUEST, f"{field}: {message}", [FieldError(field=field, rule=rule, message=message)])


def _invalid(error: ValidationError) -> ProblemError:
    errors = field_errors(error)
    if errors and errors[0].rule == "json_invalid":
        return ProblemError(MALFORMED_JSON, errors[0].message)
    return ProblemError(INVALID_REQUEST, describe(errors), errors)
