"""A decision explained: the limit that decided, as it was then, and what had used it up."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode
from uuid import UUID

import orjson

from contracts.limits import Limit, Meter, Scope
from contracts.money import format_nanos
from ledger_service.domain.counters import Counted, CounterKey, counted_by
from ledger_service.domain.explanation import (
    amount_asked,
    amount_of,
    binding_limit,
    caller_filter,
    caller_of,
    defined_as,
)
from ledger_service.domain.explanation import scope_key_of as scope_key
from ledger_service.domain.periods import BEGINNING, END_OF_TIME, Period, period_of
from ledger_service.store.decisions import find_decision
from ledger_service.store.explanations import (
    compute_counter,
    find_calendar,
    find_counter,
    find_moved_from,
    find_open_holds,
    find_override_version,
    find_plan_version,
)
from ledger_service.store.pool import Connection
from ledger_service.usage_views import decision_view

if TYPE_CHECKING:
    import asyncpg

Json = dict[str, Any]  # a JSON object on its way to orjson

LOG_ROWS_PER_PAGE = 1000


class _Decided(NamedTuple):
    """A decision in the log: when and where in it, what was asked, and the state of the limit that decided."""

    account_id: str
    operation_id: UUID
    position: int
    moment: datetime
    check: Json
    decision: Json
    state: Json

    @property
    def meter(self) -> Meter:
        return Meter(self.state["meter"])

    @property
    def asked(self) -> int:
        return amount_asked(self.meter, self.check, self.decision)

    @property
    def held_by_others(self) -> int:
        return amount_of(self.meter, self.state["held"]) - (self.asked if self.decision["allowed"] else 0)

    @property
    def scope(self) -> Scope:
        return Scope(self.state["scope"])


async def explain(
    connection: Connection, operation_id: UUID, account_id: str | None, *, is_past: bool = False
) -> Json | None:
    """The decision as it was given, what became of it, and ``binding_limit``; None where there is no decision.

    Amounts under ``then`` are the decision's own: of an allowed check, its share is in ``held``. ``open_holds`` are
    those of other operations that were open then; ``is_complete`` where they are all that was held: not where a lease
    was partly used since (its hold is what is left of it now), or where there were more than are read. To be read in
    one snapshot; ``is_past``: through a connection to the past, of which there are no counters.
    """
    row = await find_decision(connection, operation_id, account_id)
    if row is None:
        return None
    return {
        **decision_view(row),
        "moved_from": await _moved_from(connection, row),
        "binding_limit": await _binding(connection, row, is_past),
    }


async def _moved_from(connection: Connection, row: "asyncpg.Record") -> list[Json]:
    if row["moved_from"] is None:
        return []
    return [
        {
            "event_id": one["event_id"],
            "provider": one["provider"],
            "model": one["model"],
            "quantity": one["quantity"],
            "estimated_cost": format_nanos(one["estimated_cost_nanos"]),
            "decided_at": one["decided_at"],
        }
        for one in await find_moved_from(connection, row["account_id"], row["event_id"])
    ]


async def _binding(connection: Connection, row: "asyncpg.Record", is_past: bool) -> Json | None:
    data = orjson.loads(row["body"])["data"]
    state = binding_limit(data["check"], data["decision"])
    if state is None:
        return None
    moment = datetime.fromisoformat(data["decision"]["decided_at"])
    decided = _Decided(
        row["account_id"], row["operation_id"], row["position"], moment, data["check"], data["decision"], state
    )
    limit = await _definition(connection, decided)
    return {
        "limit_id": state["limit_id"],
        "limit": None if limit is None else limit.model_dump(mode="json"),
        "scope_id": caller_of(decided.scope, decided.check),
        "plan_id": decided.decision.get("plan_id"),
        "plan_version": decided.decision.get("plan_version"),
        "override": state.get("override"),
        "asked": _shown(decided.meter, decided.asked),
        "then": {name: state[name] for name in ("maximum", "settled", "held", "available")},
        **(_NOTHING_KNOWN if limit is None else await _use(connection, decided, limit, is_past)),
    }


#: Of a limit whose definition is not in the log.
_NOTHING_KNOWN: Json = {"period": None, "now": None, "open_holds": None, "usage_log": None}


async def _definition(connection: Connection, decided: _Decided) -> Limit | None:
    override, decision = decided.state.get("override"), decided.decision
    if override is not None:
        valid_from = override["valid_from"]
        return await find_override_version(
            connection,
            decided.account_id,
            decided.state["limit_id"],
            override["scope_id"],
            override["version"],
            None if valid_from is None else datetime.fromisoformat(valid_from),
            decided.position,
        )
    plan_id, version = decision.get("plan_id"), decision.get("plan_version")
    if plan_id is None or version is None:
        return None
    return defined_as(await find_plan_version(connection, plan_id, version), decided.state)


async def _use(connection: Connection, decided: _Decided, limit: Limit, is_past: bool) -> Json:
    calendar = await find_calendar(connection, decided.account_id, decided.position)
    period, counted = period_of(limit.window, decided.moment, calendar), counted_by(limit)
    key = CounterKey(
        decided.account_id, scope_key(decided.scope, decided.check), period.end, period.start, counted.counter_id
    )
    # A credit limit counts by the stretches between changes of its grants, which are no windows.
    now = None
    if not limit.credit:
        now = await (compute_counter(connection, key, counted) if is_past else find_counter(connection, key))
    holds = await find_open_holds(connection, key, counted, decided.moment, decided.position, decided.operation_id)
    total = int(holds[0]["total"]) if holds else 0
    return {
        "period": {"name": period.name, "start": period.start, "end": period.end},
        "now": None if now is None else {name: _shown(limit.meter, getattr(now, name)) for name in ("settled", "held")},
        "open_holds": {
            "count": holds[0]["holds"] if holds else 0,
            "total": _shown(limit.meter, total),
            "is_complete": total == decided.held_by_others,
            "items": [_hold(hold, limit.meter) for hold in holds],
        },
        "usage_log": _usage_log_path(decided, limit, counted, period),
    }


def _hold(hold: "asyncpg.Record", meter: Meter) -> Json:
    return {
        "operation_id": hold["operation_id"],
        "user_id": hold["user_id"],
        "amount": _shown(meter, hold["amount"]),
        "placed_at": hold["decided_at"],
        "expires_at": hold["expires_at"],
        "is_lease": hold["is_lease"],
        "state": hold["state"],
        "closed_at": hold["closed_at"],
    }


def _usage_log_path(decided: _Decided, limit: Limit, counted: Counted, period: Period) -> str:
    """Where the rows are whose sum is what is settled: corrections among them; of failed operations, only the
    cost counts."""
    filters: dict[str, object] = {**caller_filter(limit.scope, decided.check)}
    if period.start > BEGINNING:
        filters["counted_from"] = period.start.isoformat()
    if period.end < END_OF_TIME:
        filters["counted_to"] = period.end.isoformat()
    sets = {"operation": counted.operations, "provider": counted.providers, "model": counted.models}
    filters |= {name: values for name, values in sets.items() if values}
    if limit.meter is not Meter.COST:
        filters["outcome"] = "counted"
    query = urlencode({**filters, "limit": LOG_ROWS_PER_PAGE}, doseq=True)
    return f"/v1/accounts/{quote(decided.account_id, safe='')}/usage-log?{query}"


def _shown(meter: Meter, amount: int) -> int | str:
    return format_nanos(amount) if meter is Meter.COST else amount
