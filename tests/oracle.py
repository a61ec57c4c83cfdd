"""What the ledger must say, worked out naively: a list of facts, and plain loops over all of it.

Shares no code with the ledger, and none of its ideas about speed: periods are searched for, counters are counted anew
each time. Amounts are calls, units or nano-dollars.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

Body = dict[str, Any]
Totals = dict[str, Any]

_LIFETIME = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))


def nanos(text: str | None) -> int:
    return int(Decimal(text or "0") * 10**9)


def moment(text: str | datetime) -> datetime:
    return (datetime.fromisoformat(text) if isinstance(text, str) else text).astimezone(UTC)


# --- periods ---


@lru_cache(maxsize=100_000)
def day_start(day: date, zone: str) -> datetime:
    """The first second (UTC) at which calendars in the zone show this day or a later one."""
    low = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=30)
    seconds_low, seconds_high = 0, 60 * 3600
    while seconds_low < seconds_high:
        middle = (seconds_low + seconds_high) // 2
        if (low + timedelta(seconds=middle)).astimezone(ZoneInfo(zone)).date() >= day:
            seconds_high = middle
        else:
            seconds_low = middle + 1
    return low + timedelta(seconds=seconds_low)


def window_bounds(window: str, when: datetime, zone: str, anchor: date) -> tuple[datetime, datetime]:
    """Start and end of the window around a moment, by walking over the days around it."""
    if window == "lifetime":
        return _LIFETIME
    if window in ("minute", "hour"):
        start = when.astimezone(UTC).replace(second=0, microsecond=0)
        if window == "minute":
            return start, start + timedelta(minutes=1)
        return start.replace(minute=0), start.replace(minute=0) + timedelta(hours=1)
    today = when.astimezone(ZoneInfo(zone)).date()
    first = today
    while not _begins(window, first, anchor):
        first -= timedelta(days=1)
    after = today + timedelta(days=1)
    while not _begins(window, after, anchor):
        after += timedelta(days=1)
    return day_start(first, zone), day_start(after, zone)


def _begins(window: str, day: date, anchor: date) -> bool:
    """Whether a window of this kind begins on the day."""
    is_last_of_month = (day + timedelta(days=1)).day == 1
    match window:
        case "day":
            return True
        case "month":
            return day.day == 1
        case "billing_period":
            return day.day == anchor.day or (is_last_of_month and day.day < anchor.day)
    raise ValueError(window)


# --- the fold ---


@dataclass
class Operation:
    """What is known of one operation of one account, or of a lease: a check for several ``calls``."""

    check: Body | None = None
    allowed: bool = False
    decided_at: datetime | None = None
    outcome: Body | None = None
    closed: str | None = None
    #: The lease that it was admitted under.
    lease: "Operation | None" = None
    #: Of a lease: the outcomes that came while it was open.
    drawn: list[Body] = field(default_factory=list)

    @property
    def counted_at(self) -> datetime:
        """What chooses the windows in which the outcome counts."""
        admission = self.lease or self
        if admission.allowed:
            assert admission.decided_at is not None
            return admission.decided_at
        assert self.outcome is not None
        return moment(self.outcome["time"])

    def held(self, meter: str) -> int:
        """What is held for it, as long as it is."""
        assert self.check is not None
        drawn = (1 if meter == "calls" else _amount(meter, outcome) for outcome in self.drawn)
        return max(0, asked(meter, self.check) - sum(drawn))


_METERS = ("calls", "units", "failures", "cost")


@dataclass
class Correction:
    """An adjustment that was recorded: what it adds, and the facts of what it is about."""

    asked: Body
    adds: dict[str, int]
    facts: Body
    occurred_at: datetime
    counted_at: datetime

    @property
    def about(self) -> str | None:
        reference = self.asked.get("reference", {})
        about: str | None = reference.get("operation_id") or reference.get("adjustment_id")
        return about


@dataclass
class Terms:
    limits: list[Body] = field(default_factory=list)
    zone: str = "UTC"
    anchor: date = date(2000, 1, 1)


class Oracle:
    """Takes facts in the order in which they came; answers totals."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, str], Body] = {}
        self.operations: dict[tuple[str, str], Operation] = defaultdict(Operation)
        self.corrections: dict[tuple[str, str], Correction] = {}

    # facts

    def event(self, event: Body) -> str:
        """What becomes of an event: accepted, duplicate, conflict or operation_conflict."""
        data = event["data"]
        key = (data["account_id"], event["id"])
        if key in self.events:
            return "duplicate" if self.events[key] == event else "conflict"
        if not event["type"].startswith("usage.operation.requested."):
            operation = self.operations[data["account_id"], data["operation_id"]]
            if operation.outcome is not None:
                return "operation_conflict"
            operation.outcome = event
            lease = self.operations.get((data["account_id"], event.get("leaseid", "")))
            if lease is not None and lease.allowed and _is_leased(lease.check, data):
                operation.lease = lease
                if lease.closed is None:
                    lease.drawn.append(event)
        self.events[key] = event
        return "accepted"

    def adjustment(self, asked: Body, now: datetime) -> str:
        """What becomes of an adjustment: recorded, same, conflict, unknown, voided, or wrong."""
        key = (asked["account_id"], asked["adjustment_id"])
        if key in self.corrections:
            return "same" if self.corrections[key].asked == asked else "conflict"
        reference = asked.get("reference")
        if reference is None:
            at = moment(asked["occurred_at"]) if "occurred_at" in asked else now
            kinds = {name: asked.get(name, "adjustment") for name in ("operation", "provider", "model")}
            self.corrections[key] = Correction(asked, _free(asked), {**asked, **kinds}, at, at)
            return "recorded"
        target = reference.get("operation_id") or reference.get("adjustment_id")
        operation = self.operations.get((key[0], target)) if "operation_id" in reference else None
        corrected = self.corrections.get((key[0], target)) if "adjustment_id" in reference else None
        if corrected is None and (operation is None or operation.outcome is None):
            return "unknown"
        if corrected is not None and (corrected.asked["kind"] != "adjustment" or asked["kind"] == "rerate"):
            return "wrong"
        root = target if corrected is None else self._root(key[0], target)
        if self._is_voided(key[0], root) or self._is_voided(key[0], target):
            return "voided"
        adds = _free(asked)
        if asked["kind"] == "rerate":
            adds = {**_free({}), "cost": nanos(asked["cost"]) - self.comes_to(key[0], root)["cost"]}
        if asked["kind"] == "void":
            whole = self.comes_to(key[0], root) if target == root else self.corrections[key[0], target].adds
            adds = {meter: -amount for meter, amount in whole.items()}
        if corrected is not None:
            facts, times = corrected.facts, (corrected.occurred_at, corrected.counted_at)
        else:
            assert operation is not None
            assert operation.outcome is not None
            data = operation.outcome["data"]
            facts = {**data, "provider": data["actual_provider"]}
            times = (moment(operation.outcome["time"]), operation.counted_at)
        self.corrections[key] = Correction(asked, adds, facts, *times)
        return "recorded"

    def _root(self, account_id: str, entry_id: str) -> str:
        while (found := self.corrections.get((account_id, entry_id))) is not None and found.about is not None:
            entry_id = found.about
        return entry_id

    def _is_voided(self, account_id: str, entry_id: str) -> bool:
        return any(one.asked["kind"] == "void" and one.about == entry_id for one in self.corrected(account_id))

    def corrected(self, account_id: str) -> list[Correction]:
        return [one for (account, _), one in self.corrections.items() if account == account_id]

    def comes_to(self, account_id: str, root: str) -> dict[str, int]:
        """What an operation, or a free adjustment about none, counts with all that was corrected of it."""
        total = dict.fromkeys(_METERS, 0)
        operation = self.operations.get((account_id, root))
        if operation is not None and operation.outcome is not None:
            total = {**{meter: _used(meter, operation.outcome) for meter in ("calls", "units", "cost")}}
            total["failures"] = int(is_failed(operation.outcome))
        for (account, entry_id), one in self.corrections.items():
            if account == account_id and self._root(account_id, entry_id) == root:
                total = {meter: total[meter] + one.adds[meter] for meter in total}
        return total

    def decided(self, check: Body, allowed: bool, decided_at: str | datetime) -> None:
        operation = self.operations[check["account_id"], check["operation_id"]]
        operation.check, operation.allowed, operation.decided_at = check, allowed, moment(decided_at)

    def first_full_for_move(self, check: Body, terms: Terms, now: datetime) -> str | None:
        """The same as ``first_full`` for an operation that is held already: its own share is none of what is held."""
        operation = self.operations[check["account_id"], check["operation_id"]]
        operation.closed = "moving"
        full = self.first_full(check, terms, now)
        operation.closed = None
        return full

    def closed(self, account_id: str, operation_id: str, how: str) -> None:
        """A hold ended without an outcome: ``released`` or ``expired``."""
        self.operations[account_id, operation_id].closed = how

    # answers

    def state(self, account_id: str, operation_id: str) -> str:
        """Of a decision."""
        operation = self.operations[account_id, operation_id]
        if not operation.allowed:
            return "denied"
        if operation.outcome is not None:
            nothing_owed = is_failed(operation.outcome) and nanos(operation.outcome["data"]["cost"]) == 0
            return "released" if nothing_owed else "settled"
        return operation.closed or "held"

    def usage_log(self, account_id: str) -> list[Body]:
        """The events that are in the usage log, newest first."""
        outcomes = [
            operation.outcome
            for (account, _), operation in self.operations.items()
            if account == account_id and operation.outcome is not None
        ]
        return sorted(outcomes, key=lambda one: (moment(one["time"]), one["data"]["operation_id"]), reverse=True)

    def totals(self, account_id: str, month: str, **only: str) -> Totals:
        """``totals("acme", "2026-11", operation="edit")``, as the usage summary shows them."""
        found = {"calls": 0, "units": 0, "cost_nanos": 0, "failures": 0}
        for outcome in self.usage_log(account_id):
            data = outcome["data"]
            facts = {**data, "provider": data["actual_provider"]}
            if f"{moment(outcome['time']):%Y-%m}" != month or any(facts[name] != value for name, value in only.items()):
                continue
            found["cost_nanos"] += nanos(data["cost"])
            if is_failed(outcome):
                found["failures"] += 1
            else:
                found["calls"] += 1
                found["units"] += data["quantity"]
        for one in self.corrected(account_id):
            if f"{one.occurred_at:%Y-%m}" == month and all(one.facts[name] == value for name, value in only.items()):
                for meter, amount in one.adds.items():
                    found["cost_nanos" if meter == "cost" else meter] += amount
        return found

    def counter(
        self, account_id: str, scope_key: str, meter: str, selector: Body, start: datetime, end: datetime
    ) -> tuple[int, int]:
        """Settled and held of what a counter counts, between two moments."""
        settled = held = 0
        for (account, operation_id), operation in self.operations.items():
            if account != account_id:
                continue
            if operation.outcome is not None:
                data = operation.outcome["data"]
                counted_at = operation.counted_at
                used = {**data, "provider": data["actual_provider"]}
                if start <= counted_at < end and _concerns(scope_key, selector, used):
                    settled += _used(meter, operation.outcome)
            elif self.state(account, operation_id) == "held":
                assert operation.check is not None
                assert operation.decided_at is not None
                if start <= operation.decided_at < end and _concerns(scope_key, selector, operation.check):
                    held += operation.held(meter)
        for one in self.corrected(account_id):
            if start <= one.counted_at < end and _concerns(scope_key, selector, one.facts):
                settled += one.adds[meter]
        return settled, held

    def limit(self, limit: Body, account_id: str, scope_key: str, terms: Terms, now: datetime) -> tuple[int, int, int]:
        """Settled, held and available of a limit of a plan."""
        start, end = window_bounds(limit["window"], now, terms.zone, terms.anchor)
        selector = limit.get("selector", {})
        settled, held = self.counter(account_id, scope_key, limit["meter"], selector, start, end)
        return settled, held, maximum(limit) - settled - held

    def first_full(self, check: Body, terms: Terms, now: datetime) -> str | None:
        """The first hard limit without room for the check; None where all have room."""
        for limit in terms.limits:
            scope_key = scope_key_of(limit, check)
            if limit.get("mode", "hard") != "hard" or scope_key is None:
                continue
            if not _concerns(scope_key, limit.get("selector", {}), check):
                continue
            available = self.limit(limit, check["account_id"], scope_key, terms, now)[2]
            if asked(limit["meter"], check) > available or maximum(limit) == 0:
                return str(limit["limit_id"])
        return None


def is_failed(event: Body) -> bool:
    return str(event["type"]).startswith("usage.operation.failed.")


def held_at(check: Body, decision: Body) -> Body:
    """The check with the cost that it was held at: where a hold was moved, with what was billed by then."""
    return {**check, "estimated_cost": decision.get("estimated_cost", "0")}


def maximum(limit: Body) -> int:
    return nanos(limit["maximum"]) if limit["meter"] == "cost" else int(limit["maximum"])


def asked(meter: str, check: Body) -> int:
    """What a check asks of a meter."""
    calls, units = int(check.get("calls", 1)), int(check.get("quantity", 1))
    return {"calls": calls, "units": units, "cost": nanos(check.get("estimated_cost"))}[meter]


def _amount(meter: str, outcome: Body) -> int:
    return {"units": int(outcome["data"]["quantity"]), "cost": nanos(outcome["data"]["cost"])}[meter]


_LEASED = ("account_id", "user_id", "project_id", "api_key_id", "operation", "provider", "model")


def _is_leased(lease: Body | None, data: Body) -> bool:
    """Whether a lease is for the caller, and the kind, of an operation. Only a lease's check has ``calls``."""
    return lease is not None and "calls" in lease and all(lease.get(name) == data.get(name) for name in _LEASED)


def _used(meter: str, outcome: Body) -> int:
    cost = nanos(outcome["data"]["cost"])
    if is_failed(outcome):
        return cost if meter == "cost" else 0
    return {"calls": 1, "units": int(outcome["data"]["quantity"]), "cost": cost}[meter]


def _free(asked: Body) -> dict[str, int]:
    return {**{meter: asked.get(meter, 0) for meter in _METERS}, "cost": nanos(asked.get("cost"))}


def scope_key_of(limit: Body, check: Body) -> str | None:
    """For whom a limit counts the check; None where the check names nobody of that kind."""
    scope = limit.get("scope", "account")
    if scope == "account":
        return "account"
    who = check.get(f"{scope}_id")
    return f"{scope}:{who}" if who is not None else None


def _concerns(scope_key: str, selector: Body, operation: Body) -> bool:
    """Whether a check, or an outcome's data, is for this scope and selected."""
    kind, _, who = scope_key.partition(":")
    if kind != "account" and operation.get(f"{kind}_id") != who:
        return False
    return all(not wanted or operation[name] in wanted for name, wanted in selector.items())
