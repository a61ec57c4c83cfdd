"""Every event version that ever was can still be read, and says what it always said."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event

from contracts.events import CONTENT_TYPE, EVENT_MODELS, event_to_json, parse_event
from contracts.money import parse_nanos

SCHEMAS = Path(__file__).parents[2] / "contracts" / "schemas"
GOLDEN = SCHEMAS / "golden"

# A golden file never changes: a new shape is a new event version with files of its own.
GOLDEN_SHA256 = {
    "usage.operation.completed.v1.json": "bc686b100ddc78dea4dc9d664d0e93b251cbed8fa52bde4e961cde908b2d48b8",
    "usage.operation.completed.v1.minimal.json": "53fd0155fa1d5f981c43c788ed8b0af2c3b7c7cdbeb91e7f6aed5ba47b75c69d",
    "usage.operation.failed.v1.json": "93ebf298f5fb44115c81f5108e3c10efff856cfb96b92b8f6443505fe1297a16",
    "usage.operation.failed.v1.minimal.json": "dd192a872a3dcaf6668e87512706c5d8dc87f01998572960beed7271c22b4fbc",
    "usage.operation.requested.v1.json": "4b13e7fb06581c9619f9102ca224c2ffede9a1b8b3f8b67f3b3e88a977ef4beb",
    "usage.operation.requested.v1.minimal.json": "7d6a760ccde7eccd13d36f1e4a620aff110e8737ff0b016696d3f8bea7e37d15",
}

_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_POSTER = {"width": 1024, "ratio": 1.5, "tags": ["poster", "été"], "nested": {"empty": None, "draft": False}}
_FULL_OPERATION = {
    "operation_id": UUID("019aa9c1-5b00-7123-9abc-def012345678"),
    "account_id": "acme",
    "user_id": "ada@example.com",
    "operation": "generate",
    "provider": "stability",
    "model": "stability-ai/sdxl:1.0",
    "project_id": "spring-campaign",
    "api_key_id": "key_01",
    "endpoint": "/v1/images/generate",
    "metadata": _POSTER,
    "quantity": 4,
    "request_bytes": 512,
}
_MINIMAL_OPERATION = {
    "operation_id": UUID("019aa9c1-5b2b-7000-8000-000000000002"),
    "account_id": "a",
    "user_id": "u",
    "operation": "edit",
    "provider": "p",
    "model": "m",
    "project_id": None,
    "api_key_id": None,
    "endpoint": None,
    "metadata": None,
    "quantity": 1,
    "request_bytes": 0,
}
_MINIMAL_OUTCOME = {
    **_MINIMAL_OPERATION,
    "requested_at": datetime(2026, 11, 22, 10, 15, 30, tzinfo=UTC),
    "duration_ms": 0,
    "actual_provider": "p",
    "status_code": None,
    "retry_count": 0,
}


def _full(event_id: str, source_sequence: int, time: datetime, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": UUID(event_id),
        "source": "image-service/journal-7",
        "subject": "acme",
        "time": time,
        "datacontenttype": "application/json",
        "sourcesequence": source_sequence,
        "leaseid": None,
        "traceparent": _TRACE,
        "data": data,
    }


def _minimal(event_id: str, second: int, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": UUID(event_id),
        "source": "s",
        "subject": "a",
        "time": datetime(2026, 11, 22, 10, 15, second, tzinfo=UTC),
        "datacontenttype": "application/json",
        "sourcesequence": None,
        "leaseid": None,
        "data": data,
    }


#: CloudEvents lets any attribute be added to an envelope; these were, after the golden files were published.
CAME_LATER = {"leaseid"}

#: What each golden file says, in Python; money in nano-dollars.
EXPECTED: dict[str, dict[str, Any]] = {
    "usage.operation.requested.v1.json": _full(
        "019aa9c1-5b2a-7c3e-8f10-1a2b3c4d5e6f",
        1,
        datetime(2026, 11, 22, 10, 15, 30, 123456, tzinfo=UTC),
        {**_FULL_OPERATION, "estimated_cost": 160_000_000},
    ),
    "usage.operation.requested.v1.minimal.json": _minimal(
        "019aa9c1-5b2b-7000-8000-000000000001", 30, {**_MINIMAL_OPERATION, "estimated_cost": 0}
    ),
    "usage.operation.completed.v1.json": _full(
        "019aa9c1-6f3b-7d4e-8f10-1a2b3c4d5e6f",
        2,
        datetime(2026, 11, 22, 10, 15, 35, 250_000, tzinfo=UTC),
        {
            **_FULL_OPERATION,
            "cost": 158_000_001,
            "requested_at": datetime(2026, 11, 22, 10, 15, 30, 123456, tzinfo=UTC),
            "duration_ms": 5126,
            "actual_provider": "stability-eu",
            "status_code": 200,
            "retry_count": 1,
            "response_bytes": 4_194_304,
        },
    ),
    "usage.operation.completed.v1.minimal.json": _minimal(
        "019aa9c1-6f3b-7000-8000-000000000003", 31, {**_MINIMAL_OUTCOME, "cost": 1_000_000, "response_bytes": 0}
    ),
    "usage.operation.failed.v1.json": _full(
        "019aa9c2-0a4c-7e5f-9f10-1a2b3c4d5e6f",
        2**63 - 2,
        datetime(2026, 11, 22, 10, 16, 5, 500_000, tzinfo=UTC),
        {
            **_FULL_OPERATION,
            "operation_id": UUID("019aa9c1-9c00-7456-8abc-def012345678"),
            "operation": "upscale",
            "provider": "replicate",
            "model": "nightmareai/real-esrgan@f121d640",
            "endpoint": "/v1/images/upscale",
            "metadata": {"scale": 4, "nested": {"empty": None, "draft": True}},
            "quantity": 1,
            "request_bytes": 1_048_576,
            "cost": 2_300_000,
            "requested_at": datetime(2026, 11, 22, 10, 16, tzinfo=UTC),
            "duration_ms": 5500,
            "actual_provider": "replicate",
            "status_code": 504,
            "retry_count": 2,
            "error": {"code": "provider_timeout", "message": "no answer within 5 s \u2013 billed all the same"},
        },
    ),
    "usage.operation.failed.v1.minimal.json": _minimal(
        "019aa9c2-0a4c-7000-8000-000000000004",
        31,
        {**_MINIMAL_OUTCOME, "cost": 0, "error": {"code": "e", "message": ""}},
    ),
}


def _event_type(golden_name: str) -> str:
    return golden_name.removesuffix(".json").removesuffix(".minimal")


def test_every_event_version_has_its_golden_files_and_expectations() -> None:
    wanted = {f"{event_type}{kind}.json" for event_type in EVENT_MODELS for kind in ("", ".minimal")}
    assert {path.name for path in GOLDEN.iterdir()} == wanted
    assert set(GOLDEN_SHA256) == wanted
    assert set(EXPECTED) == wanted


@pytest.mark.parametrize("name", sorted(GOLDEN_SHA256))
def test_golden_file_never_changes(name: str) -> None:
    digest = hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest()
    assert digest == GOLDEN_SHA256[name], "a change of shape is a new event version; old files stay as they are"


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_golden_event_reads_as_it_always_did(name: str) -> None:
    event = parse_event((GOLDEN / name).read_bytes())
    assert event.model_dump() == {**EXPECTED[name], "type": _event_type(name)}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_golden_event_survives_being_written_again(name: str) -> None:
    event = parse_event((GOLDEN / name).read_bytes())
    assert parse_event(event_to_json(event)) == event


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_golden_file_sets_every_optional_field_or_none(name: str) -> None:
    event = parse_event((GOLDEN / name).read_bytes())
    for part in (event, event.data):
        optional = {field for field, info in type(part).model_fields.items() if not info.is_required()} - {"type"}
        if name.endswith(".minimal.json"):
            assert {field for field in optional & part.model_fields_set if getattr(part, field) is not None} == set()
        else:
            assert {field for field in type(part).model_fields if getattr(part, field) is None} <= CAME_LATER
            assert optional - CAME_LATER <= part.model_fields_set


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_golden_event_fits_its_schema(name: str) -> None:
    import jsonschema  # a second, which each worker that collects this file would take

    schema = json.loads((SCHEMAS / f"{_event_type(name)}.json").read_text(encoding="utf-8"))
    event = json.loads((GOLDEN / name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(event)


@pytest.mark.parametrize("name", sorted(EXPECTED))
@pytest.mark.parametrize("again", [False, True], ids=["as published", "as we write it"])
def test_golden_event_is_a_cloudevent(name: str, again: bool) -> None:
    body = (GOLDEN / name).read_bytes()
    if again:
        body = event_to_json(parse_event(body))
    read = from_structured_event(HTTPMessage(headers={"content-type": CONTENT_TYPE}, body=body))

    expected = EXPECTED[name]
    assert read.get_specversion() == "1.0"
    assert read.get_id() == str(expected["id"])
    assert read.get_type() == _event_type(name)
    assert read.get_source() == expected["source"]
    assert read.get_subject() == expected["subject"] == expected["data"]["account_id"]
    assert read.get_time() == expected["time"]
    assert read.get_extension("sourcesequence") == expected["sourcesequence"]
    data = read.get_data()
    assert isinstance(data, dict)
    assert data["operation_id"] == str(expected["data"]["operation_id"])
    for money in ("cost", "estimated_cost"):
        if money in expected["data"]:
            assert parse_nanos(data[money]) == expected["data"][money]
