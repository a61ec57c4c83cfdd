"""NATS and events: subjects and messages from the AsyncAPI document, bodies from the JSON schemas."""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from contracts import subjects
from contracts.generate import ASYNCAPI_FILE, FOLDER
from deploy.docs.markdown import code, fenced, table
from deploy.docs.schema_tables import definitions, fields, refer_here

Document = dict[str, Any]  # AsyncAPI or JSON Schema
GOLDEN: Final = FOLDER / "golden"


def asyncapi() -> Document:
    return _read(ASYNCAPI_FILE)


def event_types() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("usage.*.json"))


def nats_page(document: Document) -> str:
    answers = {
        operation["channel"]["$ref"].rpartition("/")[2]: operation["reply"]["channel"]["$ref"].rpartition("/")[2]
        for operation in document["operations"].values()
        if "reply" in operation
    }
    channels: Mapping[str, Document] = document["channels"]
    rows = []
    for name, channel in channels.items():
        if channel["address"] is not None:
            reply = channels[answers[name]]["messages"] if name in answers else {}
            rows.append((code(channel["address"]), _links(channel["messages"]), _links(reply), channel["description"]))
    own = (code(subjects.SEALS), "text, a signed checkpoint", "", f"In the JetStream stream {subjects.SEALS_STREAM}.")
    parts = [
        "# NATS\n",
        (
            "The same as [contracts/schemas/asyncapi.json](../source/contracts/schemas/asyncapi.json.md), which tools"
            " read. Who may publish and ask what: [the guide](../how-to/nats.md).\n"
        ),
        table(("subject", "message", "answer", "what"), [*rows, own]),
        "## Headers\n",
        table(
            ("header", "is"),
            (
                (code(subjects.MSG_ID_HEADER), "the event's id, of every event that is published: JetStream's filter"),
                (code(subjects.POSITION_HEADER), "of confirmations and answers: the position of the log, for readers"),
                (code(subjects.ACCOUNT_HEADER), "of notifications: the account that they are about, where that is one"),
            ),
        ),
        "## Names\n",
        table(
            ("name", "is"),
            (
                (code(subjects.STREAM), "the stream of events"),
                (code(subjects.SEALS_STREAM), "the stream of checkpoints"),
                (code(subjects.NOTIFICATIONS), "what the subjects of notifications begin with; then comes the type"),
                (code(subjects.NOTIFICATIONS_STREAM), "the stream of notifications: a week of them, 256 MiB at most"),
                (code(subjects.INGEST_CONSUMER), "the durable consumer through which the ledger takes them in"),
                (code(subjects.SERVICE_NAME), "the NATS service that answers checks"),
                (code(subjects.LEDGER_INBOX), "where answers to the ledger itself come to"),
            ),
        ),
        "## Messages\n",
    ]
    for name, message in document["components"]["messages"].items():
        payload, said = message["payload"], ""
        if "$ref" not in payload:  # a notification: its data within what all of them have
            payload, said = payload["properties"]["data"], "`{type, timestamp, data}`, with the data "
        payload = payload["$ref"].rpartition("/")[2]
        parts.append(f"### `{name}` {{#{_anchor(name)}}}\n")
        parts.append(f"`{message.get('contentType', document['defaultContentType'])}`: {said}{refer_here(payload)}\n")
    parts += ["## Bodies\n", definitions(document["components"]["schemas"])]
    return "\n".join(parts)


def events_page() -> str:
    parts = [
        "# Events\n",
        (
            "CloudEvents 1.0 in JSON, over HTTP (`POST /v1/events`) or [NATS](nats.md), up to 64 KiB each. No member"
            " stands twice in one object, and no `time` is more than 366 days ahead of the ledger's clock: see"
            " [dead letters](../how-to/dead-letters.md). A type's version stands in its name; readers skip fields that"
            " they do not know. A golden event of each is what tests hold every later version to.\n"
        ),
    ]
    for name in event_types():
        schema = _read(f"{name}.json")
        parts += [f"## `{name}`\n", schema.get("description", "") + "\n", fields(schema, _in(name))]
        parts += _parts_of(name, schema.get("$defs", {}))
        for golden in sorted(GOLDEN.glob(f"{name}*.json")):
            parts += [f"For one, `{golden.name}`:\n", fenced(golden.read_text(), "json")]
    return "\n".join(parts)


def _parts_of(event: str, named: Mapping[str, Document]) -> list[str]:
    parts = []
    for name, schema in named.items():
        parts += [f"### {name} of {event} {{#{_anchor(f'{event}-{name}')}}}\n", schema.get("description", "") + "\n"]
        parts.append(fields(schema, _in(event)))
    return parts


def _in(event: str) -> Any:  # Any: deploy.docs.schema_tables.Refer, which a lambda is
    return lambda name: f"[{name}](#{_anchor(f'{event}-{name}')})"


def _links(messages: Mapping[str, object]) -> str:
    return ", ".join(f"[{name}](#{_anchor(name)})" for name in messages)


def _anchor(name: str) -> str:
    return "message-" + "".join(one if one.isalnum() else "-" for one in name.lower())


def _read(name: str) -> Document:
    found: Document = orjson.loads((FOLDER / name).read_bytes())
    return found
