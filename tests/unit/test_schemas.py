"""The published schemas are what the models say, and describe what is really sent."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from contracts import generate
from contracts.events import CONTENT_TYPE, EVENT_MODELS, parse_event
from contracts.notifications import KINDS
from contracts.subjects import MSG_ID_HEADER, RECORDED, STREAM_SUBJECTS, notification_subject
from ledger_service.calls import NATS_ENDPOINTS

#: jsonschema is imported where it is used: it takes a second, in each worker that collects this file.
if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

GOLDEN = generate.FOLDER / "golden"


def _schema(name: str) -> dict[str, Any]:
    schema = json.loads((generate.FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert isinstance(schema, dict)
    return schema


def _validator(name: str) -> "Draft202012Validator":
    import jsonschema

    return jsonschema.Draft202012Validator(_schema(name), format_checker=jsonschema.FormatChecker())


# --- generated files


def test_schemas_are_not_stale() -> None:
    assert generate.stale() == [], "run python -m contracts.generate"


def test_generated_bytes_are_always_the_same() -> None:
    assert generate.generate() == generate.generate()


def test_check_names_changed_missing_and_superfluous_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main([], tmp_path) == 0
    assert generate.main(["--check"], tmp_path) == 0
    capsys.readouterr()

    (tmp_path / "plan.json").write_text("{}\n")
    (tmp_path / "account.json").unlink()
    (tmp_path / "retired.json").write_text("{}\n")
    assert generate.main(["--check"], tmp_path) == 1
    assert capsys.readouterr().err.splitlines() == ["stale: account.json", "stale: plan.json", "stale: retired.json"]
    assert (tmp_path / "plan.json").read_text() == "{}\n", "--check changes nothing"

    assert generate.main([], tmp_path) == 0
    assert generate.stale(tmp_path) == []
    assert not (tmp_path / "retired.json").exists()


def test_every_event_version_and_every_body_has_a_schema() -> None:
    bodies = {"plan", "account", "limit_override", "credit_grant", "price", "backtest", "problem", "recorded_ranges"}
    bodies |= {"limit_check", "decision", "limit_check_batch", "limit_check_batch_answer"}
    bodies |= {"reservation_ref", "reservation_extension", "reservation_move", "reservation"}
    bodies |= {"lease_request", "lease", "lease_return", "lease_returned"}
    bodies |= {f"notification.{kind.name}" for kind in KINDS}
    names = {path.stem for path in generate.FOLDER.glob("*.json")}
    assert names == bodies | set(EVENT_MODELS) | {"asyncapi"}


@pytest.mark.parametrize("name", sorted(set(generate.generate()) - {generate.ASYNCAPI_FILE}))
def test_schema_is_valid_2020_12(name: str) -> None:
    from jsonschema import Draft202012Validator

    schema = _schema(name.removesuffix(".json"))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:usage-ledger:schema:{name.removesuffix('.json')}"
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("name", "model", "member"),
    [
        ("usage.operation.requested.v1", "RequestedData", "estimated_cost"),
        ("usage.operation.completed.v1", "CompletedData", "cost"),
        ("usage.operation.failed.v1", "FailedData", "cost"),
    ],
)
def test_money_is_a_decimal_string(name: str, model: str, member: str) -> None:
    money = _schema(name)["$defs"][model]["properties"][member]
    assert money["type"] == "string"
    assert re.search(money["pattern"], "0.040000000")
    assert not re.search(money["pattern"], "0.0400000001")
    assert not re.search(money["pattern"], "NaN")


def test_no_number_in_any_schema_may_be_a_float() -> None:
    for name, text in generate.generate().items():
        assert '"type": "number"' not in text, name


_LIMIT = {"limit_id": "l", "meter": "calls", "window": "day", "maximum": 25}


@pytest.mark.parametrize(
    ("limit", "valid"),
    [
        ({}, True),
        ({"maximum": "25"}, False),
        ({"meter": "cost", "maximum": "2.50"}, True),
        ({"meter": "cost", "maximum": 2}, False),
        ({"meter": "cost", "maximum": "2.5000000001"}, False),
        ({"meter": "cost", "maximum": 2.5}, False),
        ({"meter": "money"}, False),
        ({"window": "week"}, False),
        ({"surprise": 1}, False),
    ],
)
def test_plan_schema_knows_which_maximum_fits_which_meter(limit: dict[str, object], valid: bool) -> None:
    plan = {"name": "p", "limits": [{**_LIMIT, **limit}]}
    assert _validator("plan").is_valid(plan) is valid


@pytest.mark.parametrize(
    "broken",
    [
        lambda event: event.pop("type"),
        lambda event: event.update(type="usage.operation.sung.v1"),
        lambda event: event.pop("time"),
        lambda event: event.update(specversion="0.3"),
        lambda event: event.update(id="6ba7b810-9dad-41d1-80b4-00c04fd430c8"),
        lambda event: event.update(sourcesequence=0),
        lambda event: event["data"].pop("operation_id"),
        lambda event: event["data"].update(cost=0.04),
        lambda event: event["data"].update(quantity="1"),
        lambda event: event["data"].update(surprise=1),
        lambda event: event["data"].update(account_id="a\r\nb"),
    ],
)
def test_schema_and_reader_refuse_the_same_events(broken: Callable[[dict[str, Any]], object]) -> None:
    event = json.loads((GOLDEN / "usage.operation.completed.v1.json").read_text(encoding="utf-8"))
    assert _validator(event["type"]).is_valid(event)
    broken(event)
    assert not _validator("usage.operation.completed.v1").is_valid(event)
    with pytest.raises(ValidationError):
        parse_event(json.dumps(event).encode())


# --- AsyncAPI


@pytest.fixture
def asyncapi() -> dict[str, Any]:
    return _schema("asyncapi")


def _references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _resolve(document: dict[str, Any], reference: str) -> Any:
    assert reference.startswith("#/"), f"{reference} leads out of the document"
    node: Any = document
    for step in reference.removeprefix("#/").split("/"):
        node = node[step.replace("~1", "/").replace("~0", "~")]
    return node


def test_asyncapi_references_resolve_and_nothing_is_superfluous(asyncapi: dict[str, Any]) -> None:
    references = set(_references(asyncapi))
    for reference in references:
        _resolve(asyncapi, reference)
    for kind in ("messages", "schemas"):
        for name in asyncapi["components"][kind]:
            assert f"#/components/{kind}/{name}" in references, f"nothing uses the {kind} {name}"


def test_asyncapi_has_the_members_that_version_3_requires(asyncapi: dict[str, Any]) -> None:
    from jsonschema import Draft7Validator

    assert asyncapi["asyncapi"] == "3.0.0"
    assert set(asyncapi) == {"asyncapi", "info", "defaultContentType", "channels", "operations", "components"}
    assert {"title", "version"} <= set(asyncapi["info"])
    for channel in asyncapi["channels"].values():
        assert set(channel) == {"address", "description", "messages"}
        assert channel["messages"]
    for operation in asyncapi["operations"].values():
        assert set(operation) <= {"action", "channel", "reply"}
        assert operation["action"] in ("send", "receive")
        assert operation["channel"]["$ref"].startswith("#/channels/")
    for message in asyncapi["components"]["messages"].values():
        assert set(message) <= {"name", "contentType", "headers", "payload"}
    for schema in asyncapi["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)


def test_asyncapi_has_every_subject(asyncapi: dict[str, Any]) -> None:
    addresses = {channel["address"] for channel in asyncapi["channels"].values()}
    calls = {endpoint.subject for endpoint in NATS_ENDPOINTS}
    told = {notification_subject(kind.name) for kind in KINDS}
    assert addresses == {*STREAM_SUBJECTS, RECORDED, *calls, *told, None}
    actions = {
        _resolve(asyncapi, operation["channel"]["$ref"])["address"]: operation["action"]
        for operation in asyncapi["operations"].values()
    }
    sent, received = {RECORDED, *told}, {*STREAM_SUBJECTS, *calls}
    assert actions == {**dict.fromkeys(received, "receive"), **dict.fromkeys(sent, "send")}


def test_asyncapi_events_carry_their_id_as_header(asyncapi: dict[str, Any]) -> None:
    on_stream = set()
    for subject in STREAM_SUBJECTS:
        for name, reference in asyncapi["channels"][subject]["messages"].items():
            message = _resolve(asyncapi, reference["$ref"])
            assert message["contentType"] == CONTENT_TYPE
            assert message["headers"]["required"] == [MSG_ID_HEADER]
            assert name.split(".")[2] == subject.split(".")[3]
            on_stream.add(name)
    assert on_stream == set(EVENT_MODELS)


def test_asyncapi_limit_check_is_answered_with_a_decision(asyncapi: dict[str, Any]) -> None:
    check = asyncapi["operations"]["check"]
    (request,) = _resolve(asyncapi, check["channel"]["$ref"])["messages"].values()
    (reply,) = _resolve(asyncapi, check["reply"]["channel"]["$ref"])["messages"].values()
    assert _resolve(asyncapi, request["$ref"])["payload"] == {"$ref": "#/components/schemas/LimitCheck"}
    assert _resolve(asyncapi, reply["$ref"])["payload"] == {"$ref": "#/components/schemas/Decision"}


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
def test_asyncapi_payloads_take_the_golden_events(name: str, asyncapi: dict[str, Any]) -> None:
    from jsonschema import Draft7Validator

    payload = asyncapi["components"]["messages"][name.removesuffix(".json").removesuffix(".minimal")]["payload"]
    schema = {**payload, "components": asyncapi["components"]}
    event = json.loads((GOLDEN / name).read_text(encoding="utf-8"))
    Draft7Validator(schema).validate(event)
    del event["data"]["operation_id"]
    assert not Draft7Validator(schema).is_valid(event)
