"""How stored usage is shown: rows and cells → the bodies of the query API."""

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import Response

from contracts.money import format_nanos
from ledger_service.domain.usage import SummaryCell, Totals, totals_by, totals_of
from ledger_service.page_cursors import encode_cursor

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.usage import Entry, LogPage

Json = dict[str, Any]  # a JSON object on its way to orjson


def json_response(view: Json) -> Response:
    """A view as a response: nanosecond-exact strings are in it already, UUIDs and times are written here."""
    # orjson knows uuid.UUID, and asyncpg's own subclass of it only through str.
    return Response(orjson.dumps(view, default=str), media_type="application/json")


def usage_view(
    account_id: str, month: date, cells: list[SummaryCell], limits: list[Json], late: list[SummaryCell] | None = None
) -> Json:
    """The usage summary; ``late``: what of it was late, where that is asked for."""
    view = {
        "account_id": account_id,
        "period": f"{month:%Y-%m}",
        "totals": _totals(totals_of(cells)),
        "by_operation": _group(totals_by(cells, lambda cell: cell.operation)),
        "by_provider": _group(totals_by(cells, lambda cell: cell.provider)),
        "by_model": _group(totals_by(cells, lambda cell: cell.model)),
        "limits": limits,
    }
    if late is not None:
        view["late"] = _totals(totals_of(late))
    return view


def _group(groups: dict[str, Totals]) -> Json:
    return {name: _totals(totals) for name, totals in groups.items()}


def _totals(totals: Totals) -> Json:
    return {
        "calls": totals.calls,
        "units": totals.units,
        "failures": totals.failures,
        "cost": format_nanos(totals.cost_nanos),
    }


def usage_log_view(page: "LogPage", begins: datetime | None = None) -> Json:
    """A page of the usage log; the cursor is there while there may be more. Where ``begins`` is not None, rows from
    before are in archives."""
    view = _page(page.rows, None if page.end is None else encode_cursor(*page.end), begins)
    if page.end is not None and not page.is_full:
        view["searched_until"] = page.end.occurred_at
    return view


def corrections_view(rows: "list[asyncpg.Record]", rows_max: int, begins: datetime | None = None) -> Json:
    """The same of corrections, in the order in which they were recorded."""
    last = rows[-1] if len(rows) == rows_max else None
    end = None if last is None else encode_cursor(last["recorded_at"], last["account_id"], last["operation_id"])
    return _page(rows, end, begins)


def _page(rows: "list[asyncpg.Record]", next_cursor: str | None, begins: datetime | None) -> Json:
    view: Json = {"items": [_usage_log_item(row) for row in rows], "next_cursor": next_cursor}
    return view if begins is None else {**view, "archived_before": f"{begins:%Y-%m}"}


def _usage_log_item(row: "asyncpg.Record") -> Json:
    item = dict(row)
    item["cost"] = format_nanos(item.pop("cost_nanos"))
    item["metadata"] = orjson.loads(row["metadata"]) if row["metadata"] else None
    code, message = item.pop("error_code"), item.pop("error_message")
    item["error"] = {"code": code, "message": message} if code else None
    calls, failures, adjustment = (item.pop(name) for name in ("adjusted_calls", "adjusted_failures", "adjustment"))
    item["lag_seconds"] = round((row["recorded_at"] - row["occurred_at"]).total_seconds(), 3)
    item["late"] = is_late(row["occurred_at"], row["recorded_at"])
    booked = item.pop("booked_period")
    if booked is not None:
        item["booked_period"] = f"{booked:%Y-%m}"
    if adjustment is not None:
        amounts = {"calls": calls, "units": row["quantity"], "failures": failures}
        item["adjustment"] = {**orjson.loads(adjustment), **amounts}
    return item


def entry_view(entry: "Entry") -> Json:
    """One entry with its corrections and events."""
    return {
        "entry": _usage_log_item(entry.row),
        "comes_to": _totals(entry.amounts),
        "corrections": [_usage_log_item(row) for row in entry.corrections],
        "events": [{**row, "body": orjson.loads(row["body"])} for row in entry.events],
    }


def is_late(occurred_at: datetime, recorded_at: datetime) -> bool:
    """Whether a report made at the end of its month (UTC) lacked it."""
    occurred, recorded = occurred_at.astimezone(UTC), recorded_at.astimezone(UTC)
    return (recorded.year, recorded.month) > (occurred.year, occurred.month)


def alerts_view(rows: "list[asyncpg.Record]") -> Json:
    """Alerts as their events tell them."""
    alerts = []
    for row in rows:
        event = orjson.loads(row["body"])
        alerts.append({"event_id": event["id"], "raised_at": event["time"], **event["data"]})
    return {"alerts": alerts}


def decision_view(row: "asyncpg.Record") -> Json:
    """The decision with what was asked and what became of it."""
    event = orjson.loads(row["body"])
    outcome = None
    if row["outcome"] is not None:
        outcome = {
            "outcome": row["outcome"],
            "quantity": row["quantity"],
            "cost": format_nanos(row["cost_nanos"]),
            "occurred_at": row["occurred_at"],
        }
    return {
        **event["data"]["decision"],
        "account_id": row["account_id"],
        "state": row["state"],
        "expires_at": row["expires_at"],
        "check": event["data"]["check"],
        "outcome": outcome,
        "event_id": event["id"],
    }
