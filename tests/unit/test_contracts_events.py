"""The rules of usage events: what is read, what is refused, and which field and rule a refusal names."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.events import (
    COMPLETED_V1,
    EVENT_MODELS,
    FAILED_V1,
    REQUESTED_V1,
    CompletedData,
    OperationCompleted,
    OperationFailed,
    OperationRequested,
    UsageEvent,
    event_to_json,
    parse_event,
)
from contracts.problems import field_errors
from contracts.subjects import STREAM_SUBJECTS, subject_of

EVENT_ID = "019aa9c1-5b2a-7c3e-8f10-1a2b3c4d5e6f"
OPERATION_ID = "019aa9c1-5b00-7123-9abc-def012345678"

_OPERATION: dict[str, object] = {
    "operation_id": OPERATION_ID,
    "account_id": "acme",
    "user_id": "ada",
    "operation": "edit",
    "provider": "local",
    "model": "m",
    "quantity": 1,
    "request_bytes": 10,
}
_OUTCOME: dict[str, object] = {
    **_OPERATION,
    "cost": "0.04",
    "requested_at": "2026-11-22T10:00:00Z",
    "duration_ms": 1200,
    "actual_provider": "local",
    "status_code": 200,
    "retry_count": 0,
}
DATA: dict[str, dict[str, object]] = {
    REQUESTED_V1: {**_OPERATION, "estimated_cost": "0.04"},
    COMPLETED_V1: {**_OUTCOME, "response_bytes": 20},
    FAILED_V1: {**_OUTCOME, "error": {"code": "timeout", "message": "no answer"}},
}


def event(event_type: str = COMPLETED_V1, /, *, without: object = "", data: object = None, **envelope: object) -> bytes:
    """An event's body; ``data`` changes its data or stands in its place, ``without`` drops a member (``data.cost``)."""
    changes = {} if data is None else data
    body: dict[str, Any] = {
        "specversion": "1.0",
        "id": EVENT_ID,
        "type": event_type,
        "source": "journal-7",
        "subject": "acme",
        "time": "2026-11-22T10:00:01Z",
        "data": {**DATA[event_type], **changes} if isinstance(changes, dict) else changes,
        **envelope,
    }
    if without:
        *path, name = str(without).split(".")
        holder = body
        for step in path:
            holder = holder[step]
        del holder[name]
    return json.dumps(body).encode()


def broken_rules(body: bytes) -> list[tuple[str, str]]:
    """The (field, rule) pairs that a refusal names."""
    with pytest.raises(ValidationError) as refused:
        parse_event(body)
    return [(error.field, error.rule) for error in field_errors(refused.value, frozenset(EVENT_MODELS))]


@pytest.mark.parametrize(
    ("event_type", "model", "outcome"),
    [
        (REQUESTED_V1, OperationRequested, None),
        (COMPLETED_V1, OperationCompleted, "completed"),
        (FAILED_V1, OperationFailed, "failed"),
    ],
)
def test_type_chooses_the_model(event_type: str, model: type[UsageEvent], outcome: str | None) -> None:
    read = parse_event(event(event_type))
    assert type(read) is model
    assert EVENT_MODELS[event_type] is model
    assert read.outcome == outcome
    assert read.id == UUID(EVENT_ID)
    assert read.data.operation_id == UUID(OPERATION_ID)


def test_every_event_type_has_a_subject_on_the_stream() -> None:
    assert {subject_of(event_type) for event_type in EVENT_MODELS} == set(STREAM_SUBJECTS)


def test_any_version_goes_to_the_same_subject() -> None:
    assert subject_of("usage.operation.completed.v1") == "usage.v1.operation.completed"
    assert subject_of("usage.operation.completed.v27") == "usage.v1.operation.completed"


# --- the envelope


@pytest.mark.parametrize(
    "event_type",
    ["usage.operation.sung.v1", "usage.operation.completed.v2", "USAGE.OPERATION.COMPLETED.V1", "", 1, None],
)
def test_unknown_type_is_named(event_type: object) -> None:
    ((field, rule),) = broken_rules(event(COMPLETED_V1, type=event_type))
    assert (field, rule[:9]) == ("type", "union_tag")


def test_missing_type_is_named() -> None:
    assert broken_rules(event(without="type")) == [("type", "union_tag_not_found")]


def test_a_missing_type_is_said_in_words() -> None:
    with pytest.raises(ValidationError) as refused:
        parse_event(event(without="type"))
    assert [one.message for one in field_errors(refused.value, frozenset(EVENT_MODELS))] == ["Field required"]


@pytest.mark.parametrize("event_type", sorted(EVENT_MODELS))
@pytest.mark.parametrize("name", ["specversion", "id", "source", "subject", "time", "data"])
def test_missing_attribute_is_named(event_type: str, name: str) -> None:
    assert broken_rules(event(event_type, without=name)) == [(name, "missing")]


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("specversion", "0.3", "literal_error"),
        ("specversion", 1.0, "literal_error"),
        ("id", "6ba7b810-9dad-41d1-80b4-00c04fd430c8", "uuid_version"),
        ("id", "abc", "uuid_parsing"),
        ("id", 7, "uuid_type"),
        ("source", "", "string_too_short"),
        ("source", "a b", "string_pattern_mismatch"),
        ("source", "a\r\nb", "string_pattern_mismatch"),
        ("source", "é", "string_pattern_mismatch"),
        ("source", "s" * 257, "string_too_long"),
        ("subject", "acme\n", "string_pattern_mismatch"),
        ("subject", None, "string_type"),
        ("datacontenttype", "text/xml", "literal_error"),
        ("sourcesequence", 0, "greater_than_equal"),
        ("sourcesequence", -1, "greater_than_equal"),
        ("sourcesequence", 2**63 - 1, "less_than"),
        ("sourcesequence", "1", "int_type"),
        ("sourcesequence", 1.0, "int_type"),
        ("sourcesequence", True, "int_type"),
        ("data", [], "model_type"),
        ("data", "{}", "model_type"),
    ],
)
def test_wrong_attribute_is_named(name: str, value: object, rule: str) -> None:
    assert broken_rules(event(COMPLETED_V1, **{name: value})) == [(name, rule)]


@pytest.mark.parametrize("sequence", [1, 2**63 - 2, None])
def test_source_sequence_counts_from_one(sequence: int | None) -> None:
    assert parse_event(event(sourcesequence=sequence)).sourcesequence == sequence


def test_subject_must_be_the_account() -> None:
    assert broken_rules(event(subject="other")) == [("", "subject_account")]


def test_extensions_of_others_are_let_through() -> None:
    read = parse_event(event(traceparent="00-ab", partitionkey="acme"))
    assert read.model_extra == {"traceparent": "00-ab", "partitionkey": "acme"}
    assert orjson.loads(event_to_json(read))["traceparent"] == "00-ab"


# --- time


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22T10:00:01Z", datetime(2026, 11, 22, 10, 0, 1, tzinfo=UTC)),
        ("2026-11-22T10:00:01+00:00", datetime(2026, 11, 22, 10, 0, 1, tzinfo=UTC)),
        ("2026-11-22T15:30:01.5+05:30", datetime(2026, 11, 22, 10, 0, 1, 500_000, tzinfo=UTC)),
        ("2026-11-22T00:00:01-10:00", datetime(2026, 11, 22, 10, 0, 1, tzinfo=UTC)),
        ("2027-01-01T00:30:00+01:00", datetime(2026, 12, 31, 23, 30, tzinfo=UTC)),
        ("2000-01-01T00:00:00Z", datetime(2000, 1, 1, tzinfo=UTC)),
        ("2199-12-31T23:59:59.999999Z", datetime(2199, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ],
)
def test_offset_is_part_of_the_time(text: str, moment: datetime) -> None:
    read = parse_event(event(time=text, data={"requested_at": text}))
    assert isinstance(read.data, CompletedData)
    for value in (read.time, read.data.requested_at):
        assert value == moment
        assert value.utcoffset() is not None


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("2026-11-22T10:00:01", "time_rfc3339"),
        ("2026-11-22", "time_rfc3339"),
        ("yesterday", "time_rfc3339"),
        ("", "time_rfc3339"),
        ("2026-02-30T00:00:00Z", "time_rfc3339"),
        ("2026-11-22T24:00:01Z", "time_rfc3339"),
        ("1763805601", "time_rfc3339"),
        ("2026-11-22 10:00:01Z", "time_rfc3339"),
        ("2026-11-22T10:00:01+0530", "time_rfc3339"),
        (1763805601, "time_rfc3339"),
        (None, "time_rfc3339"),
        ("1999-12-31T23:59:59Z", "greater_than_equal"),
        ("2000-01-01T00:00:00+01:00", "greater_than_equal"),
        ("2200-01-01T00:00:00Z", "less_than"),
        ("9999-12-31T23:59:59Z", "less_than"),
    ],
)
def test_wrong_time_is_named(value: object, rule: str) -> None:
    assert broken_rules(event(time=value)) == [("time", rule)]
    assert broken_rules(event(data={"requested_at": value})) == [("data.requested_at", rule)]


@settings(max_examples=200)
@given(
    st.datetimes(datetime(2000, 1, 2), datetime(2199, 12, 30)),  # noqa: DTZ001 - the zone comes with the offset
    st.integers(-14 * 60, 14 * 60),
)
def test_offset_never_changes_the_moment(local: datetime, offset_minutes: int) -> None:
    offset = timedelta(minutes=offset_minutes)
    sign, minutes = "-" if offset_minutes < 0 else "+", abs(offset_minutes)
    text = f"{local.isoformat()}{sign}{minutes // 60:02d}:{minutes % 60:02d}"
    assert parse_event(event(time=text)).time == (local - offset).replace(tzinfo=UTC)


# --- data


@pytest.mark.parametrize(
    ("event_type", "name"), [(event_type, name) for event_type in sorted(DATA) for name in DATA[event_type]]
)
def test_missing_field_is_named(event_type: str, name: str) -> None:
    body = event(event_type, without=f"data.{name}")
    if name == "status_code":  # null where the provider gave no answer, and null may be left out
        assert parse_event(body).data.model_dump()["status_code"] is None
    else:
        assert broken_rules(body) == [(f"data.{name}", "missing")]


@pytest.mark.parametrize("event_type", sorted(DATA))
@pytest.mark.parametrize("name", ["surprise", "prompt", "Quantity", "project"])
def test_unknown_field_is_named(event_type: str, name: str) -> None:
    assert broken_rules(event(event_type, data={name: 1})) == [(f"data.{name}", "extra_forbidden")]


@pytest.mark.parametrize(
    ("event_type", "name"),
    [
        (REQUESTED_V1, "cost"),
        (REQUESTED_V1, "response_bytes"),
        (COMPLETED_V1, "estimated_cost"),
        (COMPLETED_V1, "error"),
        (FAILED_V1, "response_bytes"),
        (FAILED_V1, "estimated_cost"),
    ],
)
def test_field_of_another_event_is_refused(event_type: str, name: str) -> None:
    assert broken_rules(event(event_type, data={name: None})) == [(f"data.{name}", "extra_forbidden")]


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("operation_id", "abc", "uuid_parsing"),
        ("operation_id", "6ba7b810-9dad-41d1-80b4-00c04fd430c8", "uuid_version"),
        ("user_id", "", "string_pattern_mismatch"),
        ("user_id", "a\x00", "string_pattern_mismatch"),
        ("user_id", 1, "string_type"),
        ("operation", "Edit", "string_pattern_mismatch"),
        ("provider", None, "string_type"),
        ("model", "m" * 129, "string_pattern_mismatch"),
        ("project_id", "", "string_pattern_mismatch"),
        ("api_key_id", "a\r\n", "string_pattern_mismatch"),
        ("endpoint", "a\x00b", "string_pattern_mismatch"),
        ("endpoint", "e" * 1025, "string_too_long"),
        ("metadata", [], "dict_type"),
        ("metadata", "{}", "dict_type"),
        ("quantity", 0, "greater_than_equal"),
        ("quantity", -1, "greater_than_equal"),
        ("quantity", 1_000_001, "less_than_equal"),
        ("quantity", "1", "int_type"),
        ("quantity", 1.0, "int_type"),
        ("quantity", True, "int_type"),
        ("request_bytes", -1, "greater_than_equal"),
        ("request_bytes", 2**63, "less_than_equal"),
        ("response_bytes", None, "int_type"),
        ("duration_ms", -1, "greater_than_equal"),
        ("duration_ms", 1.5, "int_type"),
        ("status_code", -1, "greater_than_equal"),
        ("status_code", 1000, "less_than_equal"),
        ("status_code", "200", "int_type"),
        ("retry_count", 2**31, "less_than_equal"),
        ("retry_count", 10**40, "less_than_equal"),
        ("cost", 0.04, "money_string"),
        ("cost", 0, "money_string"),
        ("cost", None, "money_string"),
        ("cost", "0.0400000000", "money_decimals"),
        ("cost", "NaN", "money_decimal"),
        ("cost", "Infinity", "money_decimal"),
        ("cost", "-0.01", "greater_than_equal"),
        ("cost", "1000000.01", "less_than_equal"),
    ],
)
def test_wrong_field_is_named(name: str, value: object, rule: str) -> None:
    assert broken_rules(event(data={name: value})) == [(f"data.{name}", rule)]


@pytest.mark.parametrize(
    ("error", "field", "rule"),
    [
        (None, "data.error", "model_type"),
        ("timeout", "data.error", "model_type"),
        ({"code": "timeout"}, "data.error.message", "missing"),
        ({"code": "", "message": "m"}, "data.error.code", "string_pattern_mismatch"),
        ({"code": "a b", "message": "m"}, "data.error.code", "string_pattern_mismatch"),
        ({"code": "c", "message": "m" * 1025}, "data.error.message", "string_too_long"),
        ({"code": "c", "message": "m", "trace": "t"}, "data.error.trace", "extra_forbidden"),
    ],
)
def test_wrong_error_is_named(error: object, field: str, rule: str) -> None:
    assert broken_rules(event(FAILED_V1, data={"error": error})) == [(field, rule)]


def test_every_broken_rule_is_named() -> None:
    assert broken_rules(event(time="no", data={"cost": 1, "quantity": 0})) == [
        ("time", "time_rfc3339"),
        ("data.quantity", "greater_than_equal"),
        ("data.cost", "money_string"),
    ]


@pytest.mark.parametrize("name", ["project_id", "api_key_id", "endpoint", "metadata"])
def test_null_means_left_out(name: str) -> None:
    assert parse_event(event(data={name: None})) == parse_event(event())
