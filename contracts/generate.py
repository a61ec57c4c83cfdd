"""Writes contracts/schemas/ from the models: ``python -m contracts.generate``; with ``--check`` says what is stale.

Formats: https://json-schema.org/draft/2020-12 and https://www.asyncapi.com/docs/reference/specification/v3.0.0
The golden events beside the schemas are written by hand, once, and never touched here.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from contracts.backtests import Backtest
from contracts.credits import CreditGrant
from contracts.events import CONTENT_TYPE, EVENT_MODELS, RecordedRanges
from contracts.leases import Lease, LeaseRequest, LeaseReturn, LeaseReturned
from contracts.limits import (
    Account,
    Decision,
    Limit,
    LimitCheck,
    LimitCheckBatch,
    LimitCheckBatchAnswer,
    LimitOverride,
    LimitState,
    Meter,
    Plan,
)
from contracts.money import TotalNanos
from contracts.notifications import KINDS
from contracts.notifications.kind import Kind
from contracts.prices import Price
from contracts.problems import Problem
from contracts.reservations import ReservationExtension, ReservationMove, ReservationRef, ReservationState
from contracts.subjects import (
    ACCOUNT_HEADER,
    LEASES_PLACE,
    LEASES_RETURN,
    LIMITS_CHECK,
    LIMITS_CHECK_BATCH,
    MSG_ID_HEADER,
    NOTIFICATIONS_STREAM,
    RECORDED,
    RESERVATIONS_EXTEND,
    RESERVATIONS_MOVE,
    RESERVATIONS_RELEASE,
    SERVICE_NAME,
    STREAM,
    STREAM_SUBJECTS,
    notification_subject,
    subject_of,
)
from contracts.tracing import TRACEPARENT

FOLDER: Final = Path(__file__).parent / "schemas"
ASYNCAPI_FILE: Final = "asyncapi.json"
ASYNCAPI_VERSION: Final = "3.0.0"
#: Of the contracts as a whole; every event carries a version of its own in its type.
CONTRACTS_VERSION: Final = "1.0.0"

_ID_PREFIX: Final = "urn:usage-ledger:schema:"
_JSON: Final = "application/json"
_COMPONENT: Final = "#/components/schemas/{model}"
_UUID7_PATTERN: Final = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-7[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$"
#: Members that hold whole numbers, or for the meter cost decimal strings.
_AMOUNTS: Final = ("maximum", "settled", "held", "available")

JsonObject: TypeAlias = dict[str, object]


class _Body(NamedTuple):
    """A model as it is written to a file: what is read from others (validation), or what we answer (serialization)."""

    name: str
    model: type[BaseModel]
    mode: JsonSchemaMode


_LIMIT_CHECK: Final = _Body("limit_check", LimitCheck, "validation")
_DECISION: Final = _Body("decision", Decision, "serialization")
_RECORDED_RANGES: Final = _Body("recorded_ranges", RecordedRanges, "serialization")
_RESERVATION: Final = _Body("reservation", ReservationState, "serialization")


class _Call(NamedTuple):
    """An endpoint of the NATS service: what it is asked, and what it answers."""

    name: str
    subject: str
    asks: _Body
    answers: _Body


_CALLS: Final = (
    _Call("check", LIMITS_CHECK, _LIMIT_CHECK, _DECISION),
    _Call(
        "check_batch",
        LIMITS_CHECK_BATCH,
        _Body("limit_check_batch", LimitCheckBatch, "validation"),
        _Body("limit_check_batch_answer", LimitCheckBatchAnswer, "serialization"),
    ),
    _Call("release", RESERVATIONS_RELEASE, _Body("reservation_ref", ReservationRef, "validation"), _RESERVATION),
    _Call(
        "extend", RESERVATIONS_EXTEND, _Body("reservation_extension", ReservationExtension, "validation"), _RESERVATION
    ),
    _Call("move", RESERVATIONS_MOVE, _Body("reservation_move", ReservationMove, "validation"), _DECISION),
    _Call(
        "place_lease",
        LEASES_PLACE,
        _Body("lease_request", LeaseRequest, "validation"),
        _Body("lease", Lease, "serialization"),
    ),
    _Call(
        "return_lease",
        LEASES_RETURN,
        _Body("lease_return", LeaseReturn, "validation"),
        _Body("lease_returned", LeaseReturned, "serialization"),
    ),
)
_OF_CALLS: Final = tuple(dict.fromkeys(body for call in _CALLS for body in (call.asks, call.answers)))
_BODIES: Final = (
    *_OF_CALLS,
    _Body("plan", Plan, "validation"),
    _Body("account", Account, "validation"),
    _Body("limit_override", LimitOverride, "validation"),
    _Body("credit_grant", CreditGrant, "validation"),
    _Body("price", Price, "validation"),
    _Body("backtest", Backtest, "validation"),
    _Body("problem", Problem, "serialization"),
    _RECORDED_RANGES,
)


#: What notifications say, each under the name of its subject.
_NOTIFIED: Final = {kind.name: _Body(f"notification.{kind.name}", kind.data, "serialization") for kind in KINDS}


def _events() -> list[_Body]:
    return [_Body(event_type, model, "validation") for event_type, model in EVENT_MODELS.items()]


class _Schema(GenerateJsonSchema):
    """What the models enforce, and pydantic's own JSON Schema leaves out."""

    def uuid_schema(self, schema: core_schema.UuidSchema) -> JsonSchemaValue:
        written = super().uuid_schema(schema)
        # "uuid7" is no format that validators know.
        return {**written, "format": "uuid", "pattern": _UUID7_PATTERN} if schema.get("version") == 7 else written

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        written = super().model_schema(schema)
        if schema["cls"] in EVENT_MODELS.values():
            # The type has a default in Python; on the wire it is what chooses the model.
            written["required"] = [*written["required"], "type"]
        if schema["cls"] in (Limit, LimitState):
            written |= _amounts_by_meter(written["properties"])
        return written


def _amounts_by_meter(properties: dict[str, JsonSchemaValue]) -> JsonObject:
    amounts = {name: member["anyOf"] for name, member in properties.items() if name in _AMOUNTS}
    money = TypeAdapter(TotalNanos).json_schema()
    exact = {
        name: {**properties[name], "anyOf": [money if kind["type"] == "string" else kind for kind in kinds]}
        for name, kinds in amounts.items()
    }
    return {
        "properties": {**properties, **exact},
        "if": {"properties": {"meter": {"const": Meter.COST.value}}, "required": ["meter"]},
        "then": {"properties": {name: {"type": "string"} for name in amounts}},
        "else": {"properties": {name: {"type": "integer"} for name in amounts}},
    }


def generate() -> dict[str, str]:
    """Every generated file's name and text. The same contracts always give the same bytes."""
    files = {f"{body.name}.json": _text(_json_schema(body)) for body in (*_events(), *_BODIES, *_NOTIFIED.values())}
    return {**files, ASYNCAPI_FILE: _text(asyncapi())}


def _json_schema(body: _Body) -> JsonObject:
    schema = body.model.model_json_schema(mode=body.mode, schema_generator=_Schema)
    return {"$schema": _Schema.schema_dialect, "$id": _ID_PREFIX + body.name, **schema}


def asyncapi() -> JsonObject:
    """The AsyncAPI document, as the ledger sees it: it receives events and checks, and sends confirmations."""
    events, others = _events(), (*_OF_CALLS, _RECORDED_RANGES)
    references, definitions = models_json_schema(
        [(body.model, body.mode) for body in (*events, *others, *_NOTIFIED.values())],
        ref_template=_COMPONENT,
        schema_generator=_Schema,
    )
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {
            "title": "Usage ledger on NATS",
            "version": CONTRACTS_VERSION,
            "description": "Usage events, their confirmation, limit checks, reservations, leases and notifications.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": _JSON,
        "channels": _channels(),
        "operations": _operations(),
        "components": {
            "messages": {
                **{body.name: _event_message(body, references[body.model, body.mode]) for body in events},
                **{body.name: _message(body, references[body.model, body.mode]) for body in others},
                **{
                    body.name: _notification(kind, body, references[body.model, body.mode])
                    for kind, body in zip(KINDS, _NOTIFIED.values(), strict=True)
                },
            },
            "schemas": _draft_07(definitions["$defs"]),
        },
    }


def _channels() -> JsonObject:
    stream = {
        subject: _channel(subject, _types_on(subject), f"In the JetStream stream {STREAM}.")
        for subject in STREAM_SUBJECTS
    }
    calls: JsonObject = {}
    for call in _CALLS:
        calls[call.subject] = _channel(call.subject, [call.asks.name], f"Endpoint of the NATS service {SERVICE_NAME}.")
        calls[f"{call.subject}.reply"] = _channel(
            None, [call.answers.name], "The caller's inbox, as named in its request."
        )
    return {
        **stream,
        RECORDED: _channel(RECORDED, [_RECORDED_RANGES.name], "Core NATS: what is committed of a source."),
        **{
            notification_subject(name): _channel(
                notification_subject(name), [body.name], f"In the JetStream stream {NOTIFICATIONS_STREAM}."
            )
            for name, body in _NOTIFIED.items()
        },
        **calls,
    }


def _types_on(subject: str) -> list[str]:
    return [event_type for event_type in EVENT_MODELS if subject_of(event_type) == subject]


def _channel(address: str | None, messages: list[str], description: str) -> JsonObject:
    return {
        "address": address,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }


def _operations() -> JsonObject:
    ingest = {f"ingest.{subject.rpartition('.')[2]}": _operation("receive", subject) for subject in STREAM_SUBJECTS}
    calls = {
        call.name: {
            **_operation("receive", call.subject),
            "reply": {"channel": {"$ref": f"#/channels/{call.subject}.reply"}},
        }
        for call in _CALLS
    }
    told = {f"notify.{name}": _operation("send", notification_subject(name)) for name in _NOTIFIED}
    return {**ingest, "confirm": _operation("send", RECORDED), **told, **calls}


def _operation(action: str, channel: str) -> JsonObject:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}}


def _event_message(body: _Body, payload: JsonObject) -> JsonObject:
    header = {"type": "string", "description": "the event's id", "format": "uuid", "pattern": _UUID7_PATTERN}
    trace = {"type": "string", "description": "W3C Trace Context; as in the event, where that has one"}
    properties: JsonObject = {MSG_ID_HEADER: header, TRACEPARENT: trace}
    return {
        "name": body.name,
        "contentType": CONTENT_TYPE,
        "headers": {"type": "object", "required": [MSG_ID_HEADER], "properties": properties},
        "payload": payload,
    }


def _notification(kind: Kind, body: _Body, data: JsonObject) -> JsonObject:
    """The payload of webhooks: https://www.standardwebhooks.com."""
    headers = {
        MSG_ID_HEADER: {"type": "string", "description": "the webhook-id of the same", "format": "uuid"},
        ACCOUNT_HEADER: {"type": "string", "description": "the account that it is about, where that is one"},
    }
    payload: JsonObject = {
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {
            "type": {"const": kind.name},
            "timestamp": {"type": "string", "format": "date-time", "description": "when it happened"},
            "data": data,
        },
    }
    return {
        "name": body.name,
        "contentType": _JSON,
        "headers": {"type": "object", "required": [MSG_ID_HEADER], "properties": headers},
        "payload": payload,
    }


def _message(body: _Body, payload: JsonObject) -> JsonObject:
    return {"name": body.name, "contentType": _JSON, "payload": payload}


def _draft_07(schema: object) -> object:
    # AsyncAPI's schemas are draft 07, where a tuple's items are listed under "items".
    if isinstance(schema, list):
        return [_draft_07(one) for one in schema]
    if isinstance(schema, dict):
        return {"items" if name == "prefixItems" else name: _draft_07(value) for name, value in schema.items()}
    return schema


def _text(document: JsonObject) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def stale(folder: Path = FOLDER) -> list[str]:
    """Names of the files in the folder that are not what the models give: changed, missing, or of no model."""
    files = generate()
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    return sorted(name for name in files.keys() | there.keys() if files.get(name) != there.get(name))


def write(folder: Path = FOLDER) -> list[str]:
    """Makes the folder what the models give. Answers the names of the files that changed."""
    files, changed = generate(), stale(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in changed:
        if name in files:
            (folder / name).write_text(files[name], encoding="utf-8", newline="\n")
        else:
            (folder / name).unlink()
    return changed


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    """The exit status: 1 where ``--check`` finds stale files."""
    parser = argparse.ArgumentParser(prog="python -m contracts.generate", description="Write contracts/schemas/.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 and name the files that are stale")
    if parser.parse_args(arguments).check:
        names = stale(folder)
        sys.stderr.writelines(f"stale: {name}\n" for name in names)
        return 1 if names else 0
    sys.stdout.writelines(f"wrote {name}\n" for name in write(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
