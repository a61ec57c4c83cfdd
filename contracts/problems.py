"""Problem details (RFC 9457): every error that leaves a service, with a stable type and code."""

from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

CONTENT_TYPE: Final = "application/problem+json"
#: Of the broken rules that an answer names: it has to fit into a message.
ERRORS_MAX: Final = 100
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
INVALID_REQUEST: Final = ProblemType("invalid_request", 422, "The request breaks a rule")
UNSUPPORTED_MEDIA_TYPE: Final = ProblemType("unsupported_media_type", 415, "The content type is not accepted")
NOT_FOUND: Final = ProblemType("not_found", 404, "There is no such thing")
METHOD_NOT_ALLOWED: Final = ProblemType("method_not_allowed", 405, "The method is not allowed here")
TOO_LARGE: Final = ProblemType("too_large", 413, "The body is too large")
CONFLICT: Final = ProblemType("conflict", 409, "The same id came before with another body")
OPERATION_CONFLICT: Final = ProblemType("operation_conflict", 409, "The operation has another outcome already")
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
LIMIT_EXCEEDED: Final = ProblemType("limit_exceeded", 429, "A limit has no room for this operation")
OPERATION_FAILED: Final = ProblemType("operation_failed", 502, "The provider did not do the operation")
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
    """An error that already knows what its caller should be told."""

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
    """``("limits", 0, "window")`` → ``limits[0].window``."""
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


def field_errors(error: ValidationError, skip: frozenset[str] = frozenset()) -> list[FieldError]:
    """The broken rules of a validation error. ``skip`` drops location steps that are ours and not the body's."""
    found = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        location = tuple(step for step in item["loc"] if step not in skip)
        if item["type"].startswith("union_tag"):  # pydantic names the union, our readers the field that chooses in it
            location = (*location, "type")
        found.append(FieldError(field=field_path(location), rule=item["type"], message=item["msg"]))
    return found


def invalid(error: ValidationError, skip: frozenset[str] = frozenset()) -> ProblemError:
    """The problem that a validation error is: malformed JSON, or fields that break a rule."""
    errors = field_errors(error, skip)[:ERRORS_MAX]
    if errors and errors[0].rule == "json_invalid":
        return ProblemError(MALFORMED_JSON, errors[0].message)
    return ProblemError(INVALID_REQUEST, describe(errors), errors)


def broken_rule(field: str, rule: str, message: str) -> ProblemError:
    """The problem that one field of a request breaks a rule which its model alone cannot know."""
    error = FieldError(field=field, rule=rule, message=message)
    return ProblemError(INVALID_REQUEST, describe([error]), [error])


def describe(errors: list[FieldError]) -> str:
    """One line for people: the first broken rule, and how many more there are."""
    if not errors:
        return "invalid"
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{first.field or 'body'}: {first.message}{more}"
