"""Events that the ledger itself writes to the log: decisions, the end of holds, administration."""

from datetime import datetime
from typing import Final
from uuid import UUID

import orjson

from contracts.changes import Author
from ledger_service.domain.authors import attributes

RESERVATION_PLACED: Final = "ledger.reservation.placed.v1"
RESERVATION_MOVED: Final = "ledger.reservation.moved.v1"
CHECK_DENIED: Final = "ledger.check.denied.v1"
ACCOUNT_CHANGED: Final = "ledger.account.changed.v1"
PLAN_CHANGED: Final = "ledger.plan.changed.v1"
PRICE_CHANGED: Final = "ledger.price.changed.v1"
RESALE_PRICE_CHANGED: Final = "ledger.resale_price.changed.v1"
OVERRIDE_CHANGED: Final = "ledger.limit_override.changed.v1"
OVERRIDE_REMOVED: Final = "ledger.limit_override.removed.v1"
CREDIT_GRANT_CHANGED: Final = "ledger.credit_grant.changed.v1"
THRESHOLD_REACHED: Final = "ledger.limit.threshold_reached.v1"
ADJUSTMENT_RECORDED: Final = "ledger.adjustment.recorded.v1"
PERIOD_CLOSED: Final = "ledger.period.closed.v1"
REPRICING_STARTED: Final = "ledger.repricing.started.v1"
DEAD_LETTER_REDRIVEN: Final = "ledger.dead_letter.redriven.v1"
DEAD_LETTER_DISCARDED: Final = "ledger.dead_letter.discarded.v1"
TOKEN_MADE: Final = "ledger.service_token.made.v1"  # noqa: S105  an event's name
TOKEN_REVOKED: Final = "ledger.service_token.revoked.v1"  # noqa: S105  as above
WEBHOOK_CHANGED: Final = "ledger.webhook.changed.v1"
WEBHOOK_REMOVED: Final = "ledger.webhook.removed.v1"
WEBHOOK_DISABLED: Final = "ledger.webhook.disabled.v1"
WEBHOOK_SECRET_ROTATED: Final = "ledger.webhook.secret_rotated.v1"  # noqa: S105  an event's name
SOURCE_NUMBERS_GIVEN_UP: Final = "ledger.source.numbers_given_up.v1"
#: Somebody's doing, each with its author: see domain.authors.
ADMINISTRATIVE: Final = (
    ACCOUNT_CHANGED,
    PLAN_CHANGED,
    PRICE_CHANGED,
    RESALE_PRICE_CHANGED,
    OVERRIDE_CHANGED,
    OVERRIDE_REMOVED,
    CREDIT_GRANT_CHANGED,
    PERIOD_CLOSED,
    REPRICING_STARTED,
    DEAD_LETTER_REDRIVEN,
    DEAD_LETTER_DISCARDED,
    TOKEN_MADE,
    TOKEN_REVOKED,
    WEBHOOK_CHANGED,
    WEBHOOK_REMOVED,
    WEBHOOK_DISABLED,
    WEBHOOK_SECRET_ROTATED,
    SOURCE_NUMBERS_GIVEN_UP,
)
#: Of plans and other things that belong to no account.
NO_ACCOUNT: Final = ""


def ledger_event(
    event_id: UUID, event_type: str, account_id: str, time: datetime, data: object, author: Author | None = None
) -> bytes:
    """A CloudEvent from the ledger. ``data`` is anything orjson writes; ``author``: whose doing it was."""
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": event_id,
            "type": event_type,
            "source": "ledger",
            "subject": account_id or None,
            "time": time,
            **({} if author is None else attributes(author)),
            "data": data,
        }
    )


def decision_event(
    event_id: UUID,
    event_type: str,
    account_id: str,
    decided_at: datetime,
    check_json: bytes,
    decision_json: bytes,
    moved: "dict[str, object] | None" = None,
) -> bytes:
    """The event of a limit check: what was asked and what was answered, byte for byte; ``moved``: how that came to be
    asked of a hold that stood already."""
    data = {"check": orjson.Fragment(check_json), "decision": orjson.Fragment(decision_json), **(moved or {})}
    return ledger_event(event_id, event_type, account_id, decided_at, data)
