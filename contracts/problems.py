"""Problem details (RFC 9457): every error that leaves a service, with a stable type and code."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

CONTENT_TYPE: Final = "application/problem+json"
#: Of the broken rules that an answer names: it has to fit into a message.
ERRORS_MAX: Final = 100
#: Of a name in a field's path.
NAME_LENGTH_MAX: Final = 200
_TYPE_PREFIX: Final = "urn:usage-ledger:problem:"


@dataclass(frozen=True)
class ProblemType:
    """One kind of problem: its stable code, HTTP status and title, and after how long a retry makes sense."""

    code: str
    status: int
    title: str
    retry_after_seconds: int | None = None

    @property
    def type(self) -> str:
        return _TYPE_PREFIX + self.code.replace("_", "-")


MALFORMED_JSON: Final = ProblemType("malformed_json", 400, "The body is not JSON")
MALFORMED_REQUEST: Final = ProblemType("malformed_request", 400, "This is not an HTTP request")
INVALID_REQUEST: Final = ProblemType("invalid_request", 422, "The request breaks a rule")
UNSUPPORTED_MEDIA_TYPE: Final = ProblemType("unsupported_media_type", 415, "The content type is not accepted")
UNAUTHENTICATED: Final = ProblemType("unauthenticated", 401, "A valid bearer token is needed")
FORBIDDEN: Final = ProblemType("forbidden", 403, "The token does not allow this")
ACCESS_UNAVAILABLE: Final = ProblemType(
    "access_unavailable", 503, "The token cannot be verified at this moment", retry_after_seconds=1
)
QUERY_TOO_LARGE: Final = ProblemType("query_too_large", 422, "The query is for more than is answered at once")
NOT_FOUND: Final = ProblemType("not_found", 404, "There is no such thing")
METHOD_NOT_ALLOWED: Final = ProblemType("method_not_allowed", 405, "The method is not allowed here")
TOO_LARGE: Final = ProblemType("too_large", 413, "The body is too large")
HEADERS_TOO_LARGE: Final = ProblemType("headers_too_large", 431, "The headers are too large")
REQUEST_TIMEOUT: Final = ProblemType("request_timeout", 408, "The request did not arrive in time")
CONFLICT: Final = ProblemType("conflict", 409, "The same id came before with another body")
VERSION_CHANGED: Final = ProblemType("version_changed", 409, "Somebody changed it meanwhile")
OPERATION_CONFLICT: Final = ProblemType("operation_conflict", 409, "The operation has another outcome already")
IN_FUTURE: Final = ProblemType("in_future", 422, "The event's time is too far ahead")
OPERATION_FINISHED: Final = ProblemType("operation_finished", 409, "The operation is finished already")
OPERATION_IN_PROGRESS: Final = ProblemType(
    "operation_in_progress", 409, "The operation with this key is still running", retry_after_seconds=1
)
IDEMPOTENCY_KEY_REUSED: Final = ProblemType(
    "idempotency_key_reused", 422, "The idempotency key was used with another request"
)
RESERVATION_CLOSED: Final = ProblemType("reservation_closed", 409, "The reservation is no longer open")
LEASE_INVALID: Final = ProblemType("lease_invalid", 403, "The token is not one of this lease")
LEASE_CLOSED: Final = ProblemType("lease_closed", 409, "The lease is over")
DEAD_LETTER_CLOSED: Final = ProblemType("dead_letter_closed", 409, "The dead letter was dealt with already")
PERIOD_ARCHIVED: Final = ProblemType("period_archived", 409, "The rows of that time are in archives")
WEBHOOK_DISABLED: Final = ProblemType("webhook_disabled", 409, "The webhook is disabled already")
ALREADY_VOIDED: Final = ProblemType("already_voided", 409, "It was taken back already")
NOT_SEALED_YET: Final = ProblemType("not_sealed_yet", 409, "The row is not sealed yet", retry_after_seconds=10)
SEAL_MISMATCH: Final = ProblemType("seal_mismatch", 409, "The log is not what was sealed")
POSITION_UNKNOWN: Final = ProblemType("position_unknown", 409, "The ledger was never at this position")
POSITION_NOT_REACHED: Final = ProblemType(
    "position_not_reached", 503, "The ledger is not at this position yet", retry_after_seconds=1
)
MOMENT_UNSETTLED: Final = ProblemType(
    "moment_unsettled", 503, "What was recorded until then is not final yet", retry_after_seconds=1
)
LIMIT_EXCEEDED: Final = ProblemType("limit_exceeded", 429, "A limit has no room for this operation")
RATE_LIMITED: Final = ProblemType("rate_limited", 429, "Too many requests")
OPERATION_FAILED: Final = ProblemType("operation_failed", 502, "The provider did not do the operation")
PROVIDER_UNAVAILABLE: Final = ProblemType(
    "provider_unavailable", 503, "No provider of this operation can be reached", retry_after_seconds=10
)
PROVIDER_NOT_CONFIGURED: Final = ProblemType("provider_not_configured", 422, "The provider has no key here")
STORE_UNAVAILABLE: Final = ProblemType(
    "store_unavailable", 503, "The ledger's database cannot be reached", retry_after_seconds=1
)
LEDGER_UNAVAILABLE: Final = ProblemType(
    "ledger_unavailable", 503, "The ledger cannot be reached", retry_after_seconds=1
)
RECORDING_UNAVAILABLE: Final = ProblemType(
    "recording_unavailable", 503, "Operations cannot be recorded, so none is started", retry_after_seconds=5
)
OVERLOADED: Final = ProblemType("overloaded", 503, "Too much is waiting already", retry_after_seconds=1)
INTERNAL: Final = ProblemType("internal", 500, "Something went wrong on our side")

PROBLEM_TYPES: Final[tuple[ProblemType, ...]] = tuple(
    value for value in list(globals().values()) if isinstance(value, ProblemType)
)


class FieldError(BaseModel):
    """One broken rule: where (``data.cost``, ``limits[0].window``), which, and in words."""

    field: str
    rule: str
    message: str


class Problem(BaseModel):
    """The body of every error. Extra members carry what the problem is about, a decision for one."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[FieldError] = []


class ProblemError(Exception):
    """An error that already knows what its caller should be told; ``headers`` go with it over HTTP."""

    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, kind: ProblemType, detail: str, errors: list[FieldError] | None = None, **members: object):
        super().__init__(f"{kind.code}: {detail}")
        self.kind = kind
        self.problem = problem(kind, detail, errors, **members)


def problem(kind: ProblemType, detail: str, errors: list[FieldError] | None = None, **members: object) -> Problem:
    return Problem.model_validate(
        {
            "type": kind.type,
            "title": kind.title,
            "status": kind.status,
            "code": kind.code,
            "detail": detail,
            "errors": errors or [],
            **members,
        }
    )


def field_path(location: tuple[int | str, ...]) -> str:
    """``("limits", 0, "window")`` → ``limits[0].window``. Names that no field of ours has are the sender's, and as long
    as it likes: those are cut."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            name = step if len(step) <= NAME_LENGTH_MAX else f"{step[:NAME_LENGTH_MAX]}…"
            path += f".{name}" if path else name
    return path


def field_errors(
    error: ValidationError, skip: frozenset[str] = frozenset(), at_most: int = ERRORS_MAX
) -> list[FieldError]:
    """The broken rules of a validation error, up to ``at_most``. ``skip`` drops location steps that are ours and not
    the body's."""
    found = []
    for place, rule, message in _first_errors(error, at_most):
        location = tuple(step for step in place if step not in skip)
        if rule.startswith("union_tag"):  # pydantic names the union, our readers the field that chooses in it
            location = (*location, "type")
        # Not validated: that costs more than reading the body did, where thousands of rules are broken.
        said = "Field required" if rule == "union_tag_not_found" else message
        found.append(FieldError.model_construct(field=field_path(location), rule=rule, message=said))
    return found


def _first_errors(error: ValidationError, at_most: int) -> list[tuple[tuple[int | str, ...], str, str]]:
    if error.error_count() <= at_most:
        items = error.errors(include_url=False, include_context=False, include_input=False)
        return [(item["loc"], item["type"], item["msg"]) for item in items]
    # As JSON, all of them take a fraction of the time.
    written = orjson.loads(error.json(include_url=False, include_context=False, include_input=False))
    return [(tuple(item["loc"]), item["type"], item["msg"]) for item in written[:at_most]]


def invalid(error: ValidationError, skip: frozenset[str] = frozenset(), at_most: int = ERRORS_MAX) -> ProblemError:
    """The problem that a validation error is: malformed JSON, or fields that break a rule."""
    errors = field_errors(error, skip, at_most)
    if errors and errors[0].rule == "json_invalid":
        return ProblemError(MALFORMED_JSON, errors[0].message)
    return ProblemError(INVALID_REQUEST, describe(errors, error.error_count()), errors)


def broken_rule(field: str, rule: str, message: str) -> ProblemError:
    """The problem that one field of a request breaks a rule which its model alone cannot know."""
    error = FieldError(field=field, rule=rule, message=message)
    return ProblemError(INVALID_REQUEST, describe([error]), [error])


def describe(errors: list[FieldError], count: int = 0) -> str:
    """One line for people: the first broken rule, and how many more there are (``count`` in all, where not all are
    given)."""
    if not errors:
        return "invalid"
    first = errors[0]
    others = max(len(errors), count) - 1
    more = f" (and {others} more)" if others else ""
    return f"{first.field or 'body'}: {first.message}{more}"
