"""Keyword builders for the bodies that go to the ledger. Everything has a default; a test names what it is about."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from contracts.identifiers import uuid7

Body = dict[str, Any]

ACCOUNT = "acme"
PLAN = "basic"


@dataclass
class Names:
    """Whom builders and clients mean where a test names nobody."""

    account_id: str = ACCOUNT
    plan_id: str = PLAN


#: Where tests share a ledger, each has an account and a plan of its own: see the fixture ``own_names``.
usual = Names()

#: Where an argument means "leave the field out", which None would not.
ABSENT: Any = object()


def new_id() -> str:
    """A fresh UUIDv7, for an event or an operation."""
    return str(uuid7())


def at(text: str) -> datetime:
    """``at("2026-11-05")``, ``at("2026-11-05 13:00")``: a moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def limit(limit_id: str = "images", **fields: Any) -> Body:
    """``limit(maximum=3)``, ``limit("spend", meter="cost", maximum="1.5", selector={"operation": ["edit"]})``."""
    return {"limit_id": limit_id, "meter": "calls", "window": "month", "maximum": 25, **fields}


def plan(*limits: Body, name: str = "Basic") -> Body:
    return {"name": name, "limits": list(limits)}


def account(plan_id: str | None = None, **fields: Any) -> Body:
    """``account(time_zone="Europe/Berlin", billing_anchor="2026-01-31")``."""
    return {"plan_id": plan_id or usual.plan_id, **fields}


def check(**fields: Any) -> Body:
    """A limit check. ``check(operation="edit", quantity=3, estimated_cost="0.04")``."""
    body = {
        "operation_id": new_id(),
        "account_id": usual.account_id,
        "user_id": "ada",
        "operation": "generate",
        "provider": "local",
        "model": "render-1",
        **fields,
    }
    return {name: value for name, value in body.items() if value is not ABSENT}


def moved_to(**fields: Any) -> Body:
    """What a hold is to be moved to. ``moved_to(provider="far", estimated_cost="0.04")``."""
    return {"provider": "other", "model": "render-2", **fields}


def adjustment(kind: str = "adjustment", of: Body | str | None = None, **fields: Any) -> Body:
    """``adjustment(cost="-1")``; ``of``, an event or another adjustment's id: ``adjustment("void", event)``."""
    body = {"adjustment_id": new_id(), "account_id": usual.account_id, "kind": kind, "reason": "was wrong", **fields}
    if isinstance(of, str):
        body["reference"] = {"adjustment_id": of}
    elif of is not None:
        body["reference"] = {"operation_id": of["data"]["operation_id"]}
        body["account_id"] = of["data"]["account_id"]
    return body


_ENVELOPE = {"id", "source", "sourcesequence", "time", "specversion", "type"}
_OF_CHECK = ("operation_id", "account_id", "user_id", "project_id", "api_key_id", "operation", "provider", "model")


def requested(of: Body | None = None, **fields: Any) -> Body:
    """An OperationRequested as a CloudEvent. ``of`` is the limit check whose operation it is about."""
    own = {"estimated_cost": (of or {}).get("estimated_cost", "0.04"), "request_bytes": 100}
    return _event("requested", of, own, fields)


def completed(of: Body | None = None, **fields: Any) -> Body:
    """An OperationCompleted; its cost is the check's estimate if there is one: ``completed(asked, cost="0.03")``."""
    own = {"cost": (of or {}).get("estimated_cost", "0.04"), "response_bytes": 5000, "status_code": 200}
    return _event("completed", of, _outcome(of, own, fields), fields)


def failed(of: Body | None = None, **fields: Any) -> Body:
    """An OperationFailed that the provider did not bill: ``failed(asked, cost="0.01")`` was billed."""
    own = {"cost": "0", "status_code": 500, "error": {"code": "provider_error", "message": "no"}}
    return _event("failed", of, _outcome(of, own, fields), fields)


def _outcome(of: Body | None, own: Body, fields: Body) -> Body:
    provider = fields.get("provider") or (of or {}).get("provider", "local")
    moment = _moment(fields.get("time"))
    return {
        "request_bytes": 100,
        "requested_at": moment,
        "duration_ms": 12,
        "actual_provider": provider,
        "retry_count": 0,
        **own,
    }


def _event(kind: str, of: Body | None, own: Body, fields: Body) -> Body:
    """Envelope fields go to the envelope, the others to data; ABSENT takes a field away."""
    defaults = {**check(), "quantity": 1}
    from_check = {name: of[name] for name in (*_OF_CHECK, "quantity") if of and name in of}
    data_fields = {name: value for name, value in fields.items() if name not in _ENVELOPE}
    data = {**defaults, **own, **from_check, **data_fields}
    envelope = {
        "specversion": "1.0",
        "id": new_id(),
        "type": f"usage.operation.{kind}.v1",
        "source": "tests",
        "subject": data["account_id"],
        **{name: value for name, value in fields.items() if name in _ENVELOPE},
        "time": _moment(fields.get("time")),
    }
    kept = {name: value for name, value in data.items() if value is not ABSENT}
    return {**{name: value for name, value in envelope.items() if value is not ABSENT}, "data": kept}


def _moment(given: Any) -> Any:
    moment = datetime.now(UTC) if given is None else given
    return moment.isoformat() if isinstance(moment, datetime) else moment


def to_bytes(body: Any) -> bytes:
    """The body as JSON over the wire."""
    return json.dumps(body).encode()


def raw_metadata(text: str) -> bytes:
    """A completed event whose metadata is this JSON text, or what shall pass for one."""
    return to_bytes(completed(metadata="METADATA")).replace(b'"METADATA"', text.encode())


def lease_plan(*limits: Body, calls: int = 10, ttl_seconds: int = 600, **rule: Any) -> Body:
    """A plan whose callers may lease."""
    return {**plan(*limits), "fail_modes": [{"mode": "lease", "calls": calls, "ttl_seconds": ttl_seconds, **rule}]}


def lease(**fields: Any) -> Body:
    """A request for a lease. ``lease(calls=5, quantity=5, estimated_cost="0.2")``."""
    body = check(operation_id=ABSENT, **{"lease_id": new_id(), "calls": 3, "quantity": 3, **fields})
    return {name: value for name, value in body.items() if value is not ABSENT}
