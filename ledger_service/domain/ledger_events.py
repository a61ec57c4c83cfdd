"""Events that the ledger itself writes to the log: decisions, the end of holds, administration."""

from datetime import datetime
from typing import Final
from uuid import UUID

import orjson

from contracts.limits import Decision

RESERVATION_PLACED: Final = "ledger.reservation.placed.v1"
CHECK_DENIED: Final = "ledger.check.denied.v1"
ACCOUNT_CHANGED: Final = "ledger.account.changed.v1"
PLAN_CHANGED: Final = "ledger.plan.changed.v1"
#: Of plans and other things that belong to no account.
NO_ACCOUNT: Final = ""


def ledger_event(event_id: UUID, event_type: str, account_id: str, time: datetime, data: object) -> bytes:
    """A CloudEvent from the ledger. ``data`` is anything orjson writes."""
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": event_id,
            "type": event_type,
            "source": "ledger",
            "subject": account_id or None,
            "time": time,
            "data": data,
        }
    )


def decision_event(event_id: UUID, check_json: str, account_id: str, decision: Decision, decision_json: bytes) -> bytes:
    """The event of a limit check: what was asked and what was answered, byte for byte."""
    data = {"check": orjson.Fragment(check_json), "decision": orjson.Fragment(decision_json)}
    return ledger_event(event_id, decision_event_type(decision), account_id, decision.decided_at, data)


def decision_event_type(decision: Decision) -> str:
    return RESERVATION_PLACED if decision.allowed else CHECK_DENIED
