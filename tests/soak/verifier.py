"""Replays the log and says where a decision was wrong. Own code throughout: nothing of the ledger is asked.

One account at a time, for no limit spans two; its events in the order in which they were committed; a running sum for
every (scope key, meter, window, selector, period). What a decision says of its limits must be exactly these sums.

The order is that of the commits themselves (``track_commit_timestamp``), not (transaction_id, position): a transaction
has its number before it has waited for the locks of all its accounts, and another may overtake it there.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from typing import Final

import asyncpg
import orjson

from tests.oracle import window_bounds
from tests.soak.facts import Body

SHOWN_MAX: Final = 20
_NEVER: Final = datetime(9999, 1, 1, tzinfo=UTC)

_EVENTS: Final = """
    select type, operation_id::text, body::text
    from event_log where account_id = $1 and type not like 'usage.operation.requested.%'
    order by pg_xact_commit_timestamp(transaction_id::xid), transaction_id, position
"""

#: The same, and an account's events in the same order, without any clock: by where they took effect. See decision 8.
_EVENTS_BY_EFFECT: Final = """
    select type, operation_id::text, body::text
    from event_log e where account_id = $1 and type not like 'usage.operation.requested.%'
    order by case
        when type not like 'usage.%' then position
        else (
            select min(f.position) from outcome_effects f
            where f.transaction_id = e.transaction_id and f.position > e.position
        )
    end, position
"""

#: (scope key, meter, window, selector): what is counted.
Counted = tuple[str, str, str, str]
#: and in which period.
SumKey = tuple[Counted, datetime, datetime]


@dataclass
class Findings:
    """What was replayed, and what was wrong: ``rule → how often``, with the first few in words."""

    seen: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)
    #: Order does not matter to it: of all (operation, decision) in the log, but for those that nobody heard.
    fingerprint: int = 0
    unheard: Collection[str] = ()

    def add(self, rule: str, what: str) -> None:
        self.broken[rule] += 1
        if len(self.shown) < SHOWN_MAX:
            self.shown.append(f"{rule}: {what}")


def fingerprint_of(decision: Body) -> int:
    """64 bits of an answer. The exclusive or of all answers tells whether two sets of them are the same."""
    return int.from_bytes(blake2b(orjson.dumps(decision, option=orjson.OPT_SORT_KEYS), digest_size=8).digest())


@dataclass
class _Operation:
    """What is known of an operation: when it was admitted, and what it holds now."""

    decided: bool = False
    admitted_at: datetime | None = None
    expires_at: datetime | None = None
    holds: list[tuple[SumKey, int]] = field(default_factory=list)
    state: str = "new"


class AccountReplay:
    """The running sums of one account."""

    def __init__(self, account: str, plans: Mapping[str, list[Body]], findings: Findings, strict: bool) -> None:
        self._account = account
        self._strict = strict
        self._plans = plans
        self._findings = findings
        self._limits: list[Body] = []
        self._zone, self._anchor = "UTC", date(2000, 1, 1)
        self.sums: dict[SumKey, list[int]] = {}
        self._counted: dict[str, tuple[Body, str]] = {}
        self._operations: dict[str, _Operation] = {}
        self._bounds: dict[str, tuple[datetime, datetime]] = {}

    def replay(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Rows are (type, operation id, body), in commit order."""
        read = [(kind, operation_id, orjson.loads(body)) for kind, operation_id, body in rows]
        # Whatever any of its plans counts is counted from the start, so that an upgrade finds its sums.
        for kind, _, body in read:
            if kind == "ledger.account.changed.v1":
                for limit in self._plans[body["data"]["plan_id"]]:
                    selector = orjson.dumps(limit["selector"], option=orjson.OPT_SORT_KEYS).decode()
                    self._counted[f"{limit['scope']} {limit['meter']} {limit['window']} {selector}"] = limit, selector
        for kind, operation_id, body in read:
            self._findings.seen[kind] += 1
            self._take(kind, operation_id, body)

    def _take(self, kind: str, operation_id: str, body: Body) -> None:
        match kind:
            case "ledger.account.changed.v1":
                self._change_terms(body["data"])
            case "ledger.reservation.placed.v1" | "ledger.check.denied.v1":
                self._decision(kind, operation_id, body["data"]["check"], body["data"]["decision"])
            case "ledger.reservation.moved.v1":
                self._move(operation_id)
                self._decision(kind, operation_id, body["data"]["check"], body["data"]["decision"])
            case "ledger.reservation.released.v1" | "ledger.reservation.expired.v1":
                self._close(kind.split(".")[2], operation_id, body)
            case "ledger.reservation.extended.v1":
                self._of(operation_id).expires_at = datetime.fromisoformat(body["data"]["expires_at"])
            case "usage.operation.completed.v1" | "usage.operation.failed.v1":
                self._settle(kind.split(".")[2], operation_id, body)
            case _ if kind.startswith(("ledger.reservation.", "ledger.check.", "usage.")):
                self._wrong("an event that this verifier does not know", kind)
            case _:
                pass

    def _change_terms(self, data: Body) -> None:
        self._limits = self._plans[data["plan_id"]]
        zone, anchor = data["time_zone"], date.fromisoformat(data["billing_anchor"])
        if self.sums and (zone, anchor) != (self._zone, self._anchor):
            raise NotImplementedError("the load changes plans, not calendars")
        self._zone, self._anchor = zone, anchor

    def _decision(self, kind: str, operation_id: str, check: Body, decision: Body) -> None:
        operation = self._of(operation_id)
        allowed, now = decision["allowed"], datetime.fromisoformat(decision["decided_at"])
        if operation_id not in self._findings.unheard:
            self._findings.fingerprint ^= fingerprint_of(decision)
        self._findings.seen["allowed" if allowed else "denied"] += 1
        if operation.decided:
            self._wrong("an operation decided twice", operation_id)
        if operation.state != "new":
            self._wrong("a decision after the outcome", operation_id)
        if allowed != (kind != "ledger.check.denied.v1") or check["operation_id"] != operation_id:
            self._wrong("an event that contradicts itself", operation_id)
        if check["account_id"] != self._account:
            self._wrong("an event under another account", operation_id)
        operation.decided = True
        concerned = [limit for limit in self._limits if _concerns(limit, check)]
        full = [limit["limit_id"] for limit in concerned if not self._has_room(limit, check, now)]
        if allowed and full:
            self._wrong("admitted past a hard limit", f"{operation_id}: {full}, {decision['limits']}")
        if not allowed:
            self._judge_denial(operation_id, decision, full)
        if allowed:
            operation.admitted_at, operation.state = now, "held"
            operation.expires_at = datetime.fromisoformat(decision["reservation"]["expires_at"])
            operation.holds = [
                (key, _asked(limit["meter"], check)) for limit, key in self._keys(check, now) if _concerns(limit, check)
            ]
            for key, amount in operation.holds:
                self._sum(key)[1] += amount
        self._compare_states(operation_id, check, decision, concerned, now)

    def _move(self, operation_id: str) -> None:
        """What it held is none of what is held as its new share is decided on."""
        operation = self._of(operation_id)
        if operation.state != "held":
            self._wrong("a move of a hold that was not open", f"{operation_id}: it was {operation.state}")
        self._give_back(operation)
        operation.decided, operation.state = False, "new"

    def _judge_denial(self, operation_id: str, decision: Body, full: list[str]) -> None:
        denial = decision["denial"]
        if not full:
            self._wrong("denied while every limit had room", f"{operation_id}: {denial}, {decision['limits']}")
        elif denial["limit_id"] not in full:
            self._wrong("denied by a limit that had room", f"{operation_id}: {denial}, full are {full}")
        elif denial["code"] != "limit_exceeded":
            self._wrong("denied for another reason", f"{operation_id}: {denial}")

    def _compare_states(
        self, operation_id: str, check: Body, decision: Body, concerned: list[Body], now: datetime
    ) -> None:
        if [state["limit_id"] for state in decision["limits"]] != [limit["limit_id"] for limit in concerned]:
            names = [state["limit_id"] for state in decision["limits"]]
            self._wrong("other limits than the plan's", f"{operation_id}: {names}")
            return
        for limit, state in zip(concerned, decision["limits"], strict=True):
            settled, held = self._sum(self._key(limit, check, now))
            maximum = _amount(limit["meter"], limit["maximum"])
            expected = (maximum, settled, held, maximum - settled - held)
            told = tuple(_amount(limit["meter"], state[name]) for name in ("maximum", "settled", "held", "available"))
            if told != expected:
                self._wrong("a limit shown otherwise", f"{operation_id} {limit['limit_id']}: {told} != {expected}")
            if self._strict and limit["mode"] == "hard" and expected[3] < 0:
                self._wrong("a hard limit exceeded", f"{operation_id} {limit['limit_id']}: {expected}")

    def _close(self, how: str, operation_id: str, body: Body) -> None:
        operation = self._of(operation_id)
        if operation.state != "held":
            self._wrong("an end of a hold that was not open", f"{operation_id} {how}: it was {operation.state}")
        # The event's own time is that of the statement, at the earliest when it found the hold to be due.
        elif how == "expired" and (operation.expires_at or _NEVER) > datetime.fromisoformat(body["time"]):
            self._wrong("expired too early", operation_id)
        self._give_back(operation)
        operation.state = how

    def _settle(self, outcome: str, operation_id: str, body: Body) -> None:
        operation, data = self._of(operation_id), body["data"]
        if operation.state in ("completed", "failed"):
            self._wrong("two outcomes", operation_id)
        self._give_back(operation)
        operation.state = outcome
        counted_at = operation.admitted_at or datetime.fromisoformat(body["time"])
        used = {**data, "provider": data["actual_provider"]}
        for limit, key in self._keys(used, counted_at):
            if _concerns(limit, used):
                self._sum(key)[0] += _used(limit["meter"], outcome, data)

    def _give_back(self, operation: _Operation) -> None:
        for key, amount in operation.holds:
            self.sums[key][1] -= amount
        operation.holds = []

    def _has_room(self, limit: Body, check: Body, now: datetime) -> bool:
        if limit["mode"] != "hard":
            return True
        settled, held = self._sum(self._key(limit, check, now))
        return settled + held + _asked(limit["meter"], check) <= _amount(limit["meter"], limit["maximum"])

    def _keys(self, operation: Body, moment: datetime) -> Iterator[tuple[Body, SumKey]]:
        for limit, selector in self._counted.values():
            if limit["scope"] == "account" or operation.get(f"{limit['scope']}_id") is not None:
                yield limit, self._key(limit, operation, moment, selector)

    def _key(self, limit: Body, operation: Body, moment: datetime, selector: str | None = None) -> SumKey:
        scope = limit["scope"]
        scope_key = "account" if scope == "account" else f"{scope}:{operation[f'{scope}_id']}"
        if selector is None:
            selector = orjson.dumps(limit["selector"], option=orjson.OPT_SORT_KEYS).decode()
        start, end = self._period(limit["window"], moment)
        return (scope_key, limit["meter"], limit["window"], selector), start, end

    def _period(self, window: str, moment: datetime) -> tuple[datetime, datetime]:
        known = self._bounds.get(window)
        if known is None or not known[0] <= moment < known[1]:
            known = self._bounds[window] = window_bounds(window, moment, self._zone, self._anchor)
        return known

    def _sum(self, key: SumKey) -> list[int]:
        return self.sums.setdefault(key, [0, 0])

    def _of(self, operation_id: str) -> _Operation:
        return self._operations.setdefault(operation_id, _Operation())

    def _wrong(self, rule: str, what: str) -> None:
        self._findings.add(rule, f"{self._account}: {what}")

    # at the end

    def overdue(self, now: datetime, grace: timedelta) -> list[str]:
        """Holds that are open though their time was over long ago."""
        return [
            operation_id
            for operation_id, one in self._operations.items()
            if one.state == "held" and one.expires_at is not None and one.expires_at + grace < now
        ]

    def compare_counters(self, rows: Iterable[asyncpg.Record]) -> None:
        """The ledger's own table at the end: of every counter there is, the same sums."""
        by_content = {
            (counted[0], counted[1], _selector_key(orjson.loads(counted[3])), start, end): tuple(sums)
            for (counted, start, end), sums in self.sums.items()
        }
        for row in rows:
            self._findings.seen["counters"] += 1
            selector = {"operation": row["operations"], "provider": row["providers"], "model": row["models"]}
            key = (row["scope_key"], row["meter"], _selector_key(selector), row["period_start"], row["period_end"])
            expected, found = by_content.get(key, (0, 0)), (row["settled"], row["held"])
            if expected != found:
                self._wrong("a counter that is not the sum of its events", f"{key}: {found} != {expected}")


def _selector_key(selector: Body) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple(sorted((name, tuple(sorted(values))) for name, values in selector.items() if values))


def _concerns(limit: Body, operation: Body) -> bool:
    scope = limit["scope"]
    if scope != "account" and operation.get(f"{scope}_id") is None:
        return False
    return all(operation[name] in wanted for name, wanted in limit["selector"].items())


def _asked(meter: str, check: Body) -> int:
    if meter == "calls":
        return 1
    return int(check["quantity"]) if meter == "units" else _nanos(check["estimated_cost"])


def _used(meter: str, outcome: str, data: Body) -> int:
    if meter == "cost":
        return _nanos(data["cost"])
    if outcome == "failed":
        return 0
    return 1 if meter == "calls" else int(data["quantity"])


def _amount(meter: str, value: int | str) -> int:
    return _nanos(str(value)) if meter == "cost" else int(value)


def _nanos(text: str) -> int:
    whole, _, fraction = text.partition(".")
    return int(whole + fraction.ljust(9, "0"))


async def verify_account(
    connection: "asyncpg.Connection[asyncpg.Record]",
    account: str,
    plans: Mapping[str, list[Body]],
    findings: Findings,
    *,
    strict: bool,
    overdue_grace: timedelta = timedelta(seconds=10),
    by_effect: bool = False,
) -> None:
    """Replays one account and compares its counters. Nothing may change meanwhile.

    ``by_effect``: in the order that the ledger says itself, where the server's clock cannot be trusted.

    ``strict``: nothing was settled above its estimate, after its hold or without one, so that settled and held
    together may never be above a hard limit.
    """
    replay = AccountReplay(account, plans, findings, strict)
    replay.replay(await logged(connection, account, _EVENTS_BY_EFFECT if by_effect else _EVENTS))
    now = await connection.fetchval("select clock_timestamp()")
    for operation_id in replay.overdue(now, overdue_grace):
        findings.add("a hold that did not end in time", f"{account}: {operation_id}")
    replay.compare_counters(await connection.fetch("select * from counters where account_id = $1", account))


async def logged(
    connection: "asyncpg.Connection[asyncpg.Record]", account: str, query: str = _EVENTS
) -> list[tuple[str, str, str]]:
    """An account's events as (type, operation id, body), in commit order. The server must keep commit times."""
    return [(row[0], row[1], row[2]) for row in await connection.fetch(query, account)]
