"""Problems: what callers program against never changes, and the field that is wrong is named as they wrote it."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from contracts.events import EVENT_MODELS, parse_event
from contracts.limits import Plan
from contracts.problems import (
    CONFLICT,
    LIMIT_EXCEEDED,
    PROBLEM_TYPES,
    FieldError,
    Problem,
    ProblemError,
    describe,
    field_errors,
    field_path,
    invalid,
    problem,
)

#: code: (type, status, Retry-After). Rows are added, never changed and never removed.
PINNED: dict[str, tuple[str, int, int | None]] = {
    "malformed_json": ("urn:usage-ledger:problem:malformed-json", 400, None),
    "invalid_request": ("urn:usage-ledger:problem:invalid-request", 422, None),
    "unsupported_media_type": ("urn:usage-ledger:problem:unsupported-media-type", 415, None),
    "unauthenticated": ("urn:usage-ledger:problem:unauthenticated", 401, None),
    "forbidden": ("urn:usage-ledger:problem:forbidden", 403, None),
    "access_unavailable": ("urn:usage-ledger:problem:access-unavailable", 503, 1),
    "query_too_large": ("urn:usage-ledger:problem:query-too-large", 422, None),
    "not_found": ("urn:usage-ledger:problem:not-found", 404, None),
    "method_not_allowed": ("urn:usage-ledger:problem:method-not-allowed", 405, None),
    "malformed_request": ("urn:usage-ledger:problem:malformed-request", 400, None),
    "headers_too_large": ("urn:usage-ledger:problem:headers-too-large", 431, None),
    "request_timeout": ("urn:usage-ledger:problem:request-timeout", 408, None),
    "too_large": ("urn:usage-ledger:problem:too-large", 413, None),
    "conflict": ("urn:usage-ledger:problem:conflict", 409, None),
    "version_changed": ("urn:usage-ledger:problem:version-changed", 409, None),
    "operation_conflict": ("urn:usage-ledger:problem:operation-conflict", 409, None),
    "in_future": ("urn:usage-ledger:problem:in-future", 422, None),
    "operation_finished": ("urn:usage-ledger:problem:operation-finished", 409, None),
    "operation_in_progress": ("urn:usage-ledger:problem:operation-in-progress", 409, 1),
    "idempotency_key_reused": ("urn:usage-ledger:problem:idempotency-key-reused", 422, None),
    "reservation_closed": ("urn:usage-ledger:problem:reservation-closed", 409, None),
    "lease_invalid": ("urn:usage-ledger:problem:lease-invalid", 403, None),
    "lease_closed": ("urn:usage-ledger:problem:lease-closed", 409, None),
    "webhook_disabled": ("urn:usage-ledger:problem:webhook-disabled", 409, None),
    "dead_letter_closed": ("urn:usage-ledger:problem:dead-letter-closed", 409, None),
    "period_archived": ("urn:usage-ledger:problem:period-archived", 409, None),
    "already_voided": ("urn:usage-ledger:problem:already-voided", 409, None),
    "not_sealed_yet": ("urn:usage-ledger:problem:not-sealed-yet", 409, 10),
    "seal_mismatch": ("urn:usage-ledger:problem:seal-mismatch", 409, None),
    "position_unknown": ("urn:usage-ledger:problem:position-unknown", 409, None),
    "position_not_reached": ("urn:usage-ledger:problem:position-not-reached", 503, 1),
    "moment_unsettled": ("urn:usage-ledger:problem:moment-unsettled", 503, 1),
    "limit_exceeded": ("urn:usage-ledger:problem:limit-exceeded", 429, None),
    "rate_limited": ("urn:usage-ledger:problem:rate-limited", 429, None),
    "operation_failed": ("urn:usage-ledger:problem:operation-failed", 502, None),
    "provider_unavailable": ("urn:usage-ledger:problem:provider-unavailable", 503, 10),
    "provider_not_configured": ("urn:usage-ledger:problem:provider-not-configured", 422, None),
    "store_unavailable": ("urn:usage-ledger:problem:store-unavailable", 503, 1),
    "ledger_unavailable": ("urn:usage-ledger:problem:ledger-unavailable", 503, 1),
    "recording_unavailable": ("urn:usage-ledger:problem:recording-unavailable", 503, 5),
    "overloaded": ("urn:usage-ledger:problem:overloaded", 503, 1),
    "internal": ("urn:usage-ledger:problem:internal", 500, None),
}


def test_codes_types_and_statuses_are_stable() -> None:
    assert {kind.code: (kind.type, kind.status, kind.retry_after_seconds) for kind in PROBLEM_TYPES} == PINNED


def test_each_code_stands_once_and_says_something() -> None:
    assert len({kind.code for kind in PROBLEM_TYPES}) == len(PROBLEM_TYPES)
    assert all(kind.title for kind in PROBLEM_TYPES)


def test_every_503_says_when_to_come_back() -> None:
    assert [kind.code for kind in PROBLEM_TYPES if kind.status == 503 and not kind.retry_after_seconds] == []


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ((), ""),
        (("name",), "name"),
        (("data", "cost"), "data.cost"),
        (("limits", 0, "window"), "limits[0].window"),
        (("limits", 12, "selector", "operation", 3), "limits[12].selector.operation[3]"),
        ((0,), "[0]"),
        ((0, "time"), "[0].time"),
        ((1, 2, "a"), "[1][2].a"),
        (("data", "n" * 201, 3), f"data.{'n' * 200}…[3]"),
    ],
)
def test_field_path_is_written_as_in_javascript(location: tuple[int | str, ...], path: str) -> None:
    assert field_path(location) == path


def test_problem_has_the_members_of_its_kind_and_its_own() -> None:
    made = problem(LIMIT_EXCEEDED, "no room", decision={"allowed": False}, event_id="e")
    assert made.model_dump() == {
        "type": "urn:usage-ledger:problem:limit-exceeded",
        "title": "A limit has no room for this operation",
        "status": 429,
        "code": "limit_exceeded",
        "detail": "no room",
        "errors": [],
        "decision": {"allowed": False},
        "event_id": "e",
    }
    assert Problem.model_validate_json(made.model_dump_json()) == made


def test_problem_error_knows_what_its_caller_is_told() -> None:
    broken = FieldError(field="a", rule="r", message="m")
    error = ProblemError(CONFLICT, "came before", [broken], event_id="e")
    assert str(error) == "conflict: came before"
    assert error.kind is CONFLICT
    assert error.problem.status == 409
    assert error.problem.errors == [broken]
    assert error.problem.model_dump()["event_id"] == "e"


@pytest.mark.parametrize(
    ("errors", "line"),
    [
        ([], "invalid"),
        ([("data.cost", "no")], "data.cost: no"),
        ([("", "no")], "body: no"),
        ([("a", "no"), ("b", "nor")], "a: no (and 1 more)"),
        ([("a", "no"), ("b", "nor"), ("c", "neither")], "a: no (and 2 more)"),
    ],
)
def test_one_line_names_the_first_and_counts_the_rest(errors: list[tuple[str, str]], line: str) -> None:
    assert describe([FieldError(field=field, rule="r", message=message) for field, message in errors]) == line


def _refusal(model: type[BaseModel], body: Any) -> ValidationError:
    with pytest.raises(ValidationError) as refused:
        model.model_validate_json(body)
    return refused.value


def test_refused_body_names_its_fields() -> None:
    body = '{"name": "p", "limits": [{"limit_id": "a", "meter": "calls", "window": "week", "maximum": -1}]}'
    refused = invalid(_refusal(Plan, body)).problem
    assert (refused.code, refused.status) == ("invalid_request", 422)
    assert [(error.field, error.rule) for error in refused.errors] == [
        ("limits[0].window", "enum"),
        ("limits[0].maximum", "maximum_range"),
    ]
    assert refused.detail.startswith("limits[0].window: ")
    assert refused.detail.endswith(" (and 1 more)")


@pytest.mark.parametrize("body", ["", "{", '{"name": }', "\x00"])
def test_body_that_is_no_json_is_a_problem_of_its_own(body: str) -> None:
    refused = invalid(_refusal(Plan, body)).problem
    assert (refused.code, refused.status, refused.errors) == ("malformed_json", 400, [])


def test_refused_event_names_fields_of_the_event_and_not_our_models() -> None:
    with pytest.raises(ValidationError) as error:
        parse_event(b'{"type": "usage.operation.failed.v1", "data": {"cost": 1}}')
    refused = invalid(error.value, skip=frozenset(EVENT_MODELS)).problem
    fields = {error.field for error in refused.errors}
    assert {"id", "time", "data.operation_id", "data.cost"} <= fields
    assert not any("usage.operation" in field for field in fields)


@pytest.mark.parametrize("body", [b"{}", b'{"type": "sung"}', b'{"type": 1}'])
def test_event_without_a_known_type_is_told_so(body: bytes) -> None:
    with pytest.raises(ValidationError) as error:
        parse_event(body)
    assert [broken.field for broken in field_errors(error.value, frozenset(EVENT_MODELS))] == ["type"]


def test_refusal_never_repeats_what_was_sent() -> None:
    refused = invalid(_refusal(Plan, '{"name": 5, "secret": "s3cr3t"}')).problem
    assert "s3cr3t" not in refused.model_dump_json()
