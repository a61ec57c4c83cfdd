"""How dead letters are shown: rows → the bodies of the API and what the command prints."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final
from uuid import UUID

import orjson
from pydantic import TypeAdapter, ValidationError

from contracts.dead_letters import DeadLetter, DeadLetterItem, DeadLetterPage, LetterAction, LetterState, RecordedEvent
from contracts.events import Source
from contracts.problems import FieldError
from ledger_service.domain.ledger_events import DEAD_LETTER_DISCARDED

if TYPE_CHECKING:
    import asyncpg

_SOURCE: Final = TypeAdapter[str](Source)


def item_view(row: "asyncpg.Record") -> DeadLetterItem:
    """A letter without its bytes."""
    recorded = None
    if row["event_id"] is not None:
        recorded = RecordedEvent(account_id=row["event_account_id"], event_id=UUID(bytes=row["event_id"].bytes))
    return DeadLetterItem(
        dead_letter_id=row["dead_letter_id"],
        state=LetterState(row["state"]),
        code=row["code"],
        detail=row["detail"],
        origin=row["origin"],
        subject=row["subject"],
        account_id=row["account_id"],
        source=_source_in(row["small_body"]),
        sha256=row["digest"].hex(),
        body_bytes=row["body_bytes"],
        received_count=row["received_count"],
        first_received_at=row["first_received_at"],
        last_received_at=row["last_received_at"],
        redrive_count=row["redrive_count"],
        last_redriven_at=row["last_redriven_at"],
        closed_at=row["closed_at"],
        recorded=recorded,
    )


def _source_in(body: bytes | None) -> str | None:
    """What the bytes claim to be their producer, where that is text that an event could have there."""
    try:
        event = orjson.loads(body or b"")
    except orjson.JSONDecodeError:
        return None
    try:
        return _SOURCE.validate_python(event.get("source") if isinstance(event, dict) else None)
    except ValidationError:
        return None


def page_view(rows: "Sequence[asyncpg.Record]", rows_max: int) -> DeadLetterPage:
    """A page; the cursor is there while there may be more."""
    more = len(rows) == rows_max
    return DeadLetterPage(
        items=[item_view(row) for row in rows], next_cursor=str(rows[-1]["dead_letter_id"]) if more else None
    )


def letter_view(row: "asyncpg.Record", actions: Iterable[str]) -> DeadLetter:
    """A letter with its bytes, every broken rule and what was done about it."""
    body: bytes = row["body"]
    return DeadLetter(
        **dict(item_view(row)),
        errors=[FieldError.model_validate(error) for error in orjson.loads(row["errors"])],
        text=_text(body),
        base64=b64encode(body).decode(),
        actions=[_action(event) for event in actions],
    )


def _text(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def _action(body: str) -> LetterAction:
    event = orjson.loads(body)
    said = event["data"]
    return LetterAction(
        event_id=event["id"],
        action="discarded" if event["type"] == DEAD_LETTER_DISCARDED else "redriven",
        outcome=said.get("outcome"),
        code=said.get("code"),
        author=said["author"],
        reason=said["reason"],
        corrected=said.get("corrected", False),
        at=event["time"],
    )
