"""Usage events as bytes: free metadata, bodies that are hardly JSON, and what is written is read back."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.events import (
    COMPLETED_V1,
    EVENT_MODELS,
    FAILED_V1,
    METADATA_BYTES_MAX,
    CompletedData,
    RecordedRanges,
    event_to_json,
    parse_event,
)
from contracts.problems import field_errors

GOLDEN = Path(__file__).parents[2] / "contracts" / "schemas" / "golden"


def event(event_type: str = COMPLETED_V1, data: dict[str, Any] | None = None, **envelope: object) -> bytes:
    """The smallest event of a type, with changes."""
    body = json.loads((GOLDEN / f"{event_type}.minimal.json").read_text(encoding="utf-8"))
    return json.dumps({**body, **envelope, "data": {**body["data"], **(data or {})}}).encode()


def broken_rules(body: bytes) -> list[tuple[str, str]]:
    """The (field, rule) pairs that a refusal names."""
    with pytest.raises(ValidationError) as refused:
        parse_event(body)
    return [(error.field, error.rule) for error in field_errors(refused.value, frozenset(EVENT_MODELS))]


# --- metadata


def _metadata_of(size: int) -> dict[str, str]:
    return {"k": "x" * (size - len(b'{"k":""}'))}


def test_metadata_may_have_4096_bytes() -> None:
    metadata = _metadata_of(4096)
    assert len(orjson.dumps(metadata)) == METADATA_BYTES_MAX == 4096
    assert parse_event(event(data={"metadata": metadata})).data.metadata == metadata


def test_metadata_of_4097_bytes_is_refused() -> None:
    assert broken_rules(event(data={"metadata": _metadata_of(4097)})) == [("data.metadata", "metadata_size")]


def test_metadata_is_measured_in_bytes_not_in_characters() -> None:
    assert broken_rules(event(data={"metadata": {"k": "é" * 2045}})) == [("data.metadata", "metadata_size")]


def test_metadata_is_measured_without_white_space() -> None:
    body = event(data={"metadata": {"k": 1}}).replace(b'{"k": 1}', b'{"k":' + b" " * 5000 + b"1}")
    assert parse_event(body).data.metadata == {"k": 1}


def test_metadata_keeps_its_values() -> None:
    metadata = {"null": None, "true": True, "int": 2**53, "float": 0.1, "nested": {"list": [1, "a", None]}, "": "é"}
    read = parse_event(event(data={"metadata": metadata}))
    assert read.data.metadata == metadata
    assert parse_event(event_to_json(read)).data.metadata == metadata


@pytest.mark.parametrize("number", ["1" + "0" * 30, "9" * 1000, "-9223372036854775809"])
def test_metadata_with_a_number_past_64_bits_is_a_refusal_and_no_crash(number: str) -> None:
    body = event(data={"metadata": {"k": 0}}).replace(b'{"k": 0}', f'{{"k": {number}}}'.encode())
    ((field, _),) = broken_rules(body)
    assert field == "data.metadata"


# --- bodies that are not JSON


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not json",
        b"\xff\xfe",
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b'{"a": 1,}',
        b"{'a': 1}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        event() + b"x",
        b"\xef\xbb\xbf" + event(),
    ],
    ids=range(12),
)
def test_malformed_json_is_refused(body: bytes) -> None:
    assert broken_rules(body) == [("", "json_invalid")]


@pytest.mark.parametrize("body", [b"null", b"[]", b"1", b'"text"', b"true"])
def test_json_that_is_no_object_is_refused(body: bytes) -> None:
    assert len(broken_rules(body)) == 1


@pytest.mark.parametrize("token", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999"])
@pytest.mark.parametrize("place", ["metadata", "extension"])
def test_numbers_that_json_does_not_have_are_refused(token: bytes, place: str) -> None:
    body = event(data={"metadata": {"k": "HERE"}}) if place == "metadata" else event(myextension="HERE")
    with pytest.raises(ValidationError):
        parse_event(body.replace(b'"HERE"', token))


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with pytest.raises(ValidationError):
        parse_event(body)


_JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200)
@given(name=st.sampled_from(sorted(CompletedData.model_fields)), value=_JSON_VALUES)
def test_any_value_in_any_field_is_read_or_refused_and_survives_writing(name: str, value: object) -> None:
    try:
        read = parse_event(event(data={name: value}))
    except ValidationError:
        return
    assert parse_event(event_to_json(read)) == read


# --- writing


@pytest.mark.parametrize("event_type", sorted(EVENT_MODELS))
def test_what_is_written_is_read_back(event_type: str) -> None:
    read = parse_event(event(event_type, sourcesequence=3, data={"metadata": {"a": None}}))
    assert parse_event(event_to_json(read)) == read


@pytest.mark.parametrize("event_type", [COMPLETED_V1, FAILED_V1])
def test_outcome_without_an_http_status_is_read_back(event_type: str) -> None:
    read = parse_event(event(event_type, data={"status_code": None}))
    assert parse_event(event_to_json(read)) == read


def test_written_event_leaves_out_what_is_not_set_and_writes_money_as_string() -> None:
    written = orjson.loads(event_to_json(parse_event(event(data={"cost": "0.04"}, time="2026-11-22T10:00:01Z"))))
    assert "sourcesequence" not in written
    assert "project_id" not in written["data"]
    assert written["data"]["cost"] == "0.040000000"
    assert written["time"] == "2026-11-22T10:00:01Z"
    assert written["type"] == COMPLETED_V1


def test_events_are_never_edited() -> None:
    read = parse_event(event())
    with pytest.raises(ValidationError, match="frozen"):
        read.subject = "other"  # type: ignore[misc]  # that is the point
    with pytest.raises(ValidationError, match="frozen"):
        read.data.quantity = 2  # type: ignore[misc]  # that is the point


def test_recorded_ranges_survive_json() -> None:
    ranges = RecordedRanges(source="journal-7", recorded=[(1, 16), (18, 18)])
    assert ranges.model_dump_json() == '{"source":"journal-7","recorded":[[1,16],[18,18]]}'
    assert RecordedRanges.model_validate_json(ranges.model_dump_json()) == ranges


@pytest.mark.parametrize("recorded", ["[[1]]", "[[1,2,3]]", "[[1.5,2]]", "[1,2]", '[["1","2"]]', "null"])
def test_ranges_are_pairs_of_integers(recorded: str) -> None:
    with pytest.raises(ValidationError):
        RecordedRanges.model_validate_json(f'{{"source":"s","recorded":{recorded}}}')
