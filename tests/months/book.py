"""What was sent, as a plain list, and what it comes to: sums over that list in Decimals, nothing of the ledger's."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from tests.builders import Body

ZERO: Final = Decimal("0.000000000")


class Sums(NamedTuple):
    calls: int = 0
    units: int = 0
    failures: int = 0
    cost: Decimal = ZERO

    def __neg__(self) -> "Sums":
        return Sums(-self.calls, -self.units, -self.failures, -self.cost)


@dataclass(frozen=True)
class Entry:
    """An operation's outcome, a correction of one (``corrects``), or free amounts. ``booked``: the first of a month."""

    account: str
    id: str
    outcome: str
    user: str | None
    operation: str
    provider: str
    model: str
    sums: Sums
    at: datetime
    booked: date
    kind: str | None = None
    corrects: str | None = None
    reference: str | None = None
    #: What each provider billed, where several did.
    calls: tuple[tuple[str, Decimal], ...] = ()

    @property
    def own_month(self) -> date:
        return first_of(self.at)

    def section(self) -> str:
        if self.outcome == "adjustment":
            return "corrections"
        return "usage" if self.booked == self.own_month else "late"

    def of(self, dimension: str) -> str | None:
        found: str | None = getattr(self, dimension)
        return found


def first_of(moment: datetime) -> date:
    return moment.astimezone(UTC).date().replace(day=1)


def following(month: date) -> date:
    return (month + timedelta(days=32)).replace(day=1)


def add_up(entries: Iterable[Entry]) -> Sums:
    found = list(entries)
    return Sums(
        sum(one.sums.calls for one in found),
        sum(one.sums.units for one in found),
        sum(one.sums.failures for one in found),
        sum((one.sums.cost for one in found), ZERO),
    )


def by(entries: Iterable[Entry], name: Callable[[Entry], object]) -> dict[object, Sums]:
    groups = defaultdict(list)
    for one in entries:
        groups[name(one)].append(one)
    return {group: add_up(some) for group, some in groups.items()}


@dataclass
class Book:
    """Takes facts in the order in which they were recorded."""

    entries: list[Entry] = field(default_factory=list)
    #: The last month that is closed, for an account or (None) for all.
    closed: dict[str | None, date] = field(default_factory=dict)

    def booked(self, account: str, at: datetime) -> date:
        """The month of a moment; where that is closed already, the first that is open."""
        own = first_of(at)
        closed = max((self.closed[who] for who in (account, None) if who in self.closed), default=None)
        return own if closed is None or own > closed else following(closed)

    def close(self, account: str | None, month: date) -> None:
        self.closed[account] = max(month, self.closed.get(account, month))

    def is_closed(self, account: str, month: date) -> bool:
        return any(month <= self.closed[who] for who in (account, None) if who in self.closed)

    def outcome(self, event: Body) -> None:
        data, at = event["data"], datetime.fromisoformat(event["time"])
        done = event["type"].split(".")[2] == "completed"
        sums = Sums(int(done), data["quantity"] if done else 0, int(not done), Decimal(data["cost"]))
        told = (data.get("metadata") or {}).get("provider_calls", [])
        calls = tuple((one["provider"], Decimal(one["cost"])) for one in told)
        self.entries.append(
            Entry(
                data["account_id"],
                data["operation_id"],
                "completed" if done else "failed",
                data["user_id"],
                data["operation"],
                data["actual_provider"],
                data["model"],
                sums,
                at,
                self.booked(data["account_id"], at),
                calls=calls,
            )
        )

    def chain(self, root: Entry) -> list[Entry]:
        """What an operation, or a free adjustment, comes to."""
        return [one for one in self.entries if one.account == root.account and root.id in (one.id, one.corrects)]

    def billed(self, root: Entry, provider: str) -> Decimal | None:
        """What a provider's invoice should say of an operation, or of free amounts; None: nothing."""
        of_calls = dict(root.calls)
        if provider not in {root.provider, *of_calls}:
            return None
        whole = sum((one.sums.cost for one in self.chain(root)), ZERO)
        if self.is_voided(root):
            return ZERO
        if provider != root.provider:
            return of_calls[provider]
        return whole - sum((cost for name, cost in root.calls if name != provider), ZERO)

    def is_voided(self, entry: Entry) -> bool:
        return any(one.kind == "void" and one.reference == entry.id for one in self.entries)

    def correct(self, id_: str, kind: str, of: Entry, sums: Sums) -> None:
        root = of.corrects or of.id
        booked = self.booked(of.account, of.at)
        self.entries.append(
            replace(
                of,
                id=id_,
                outcome="adjustment",
                kind=kind,
                corrects=root,
                reference=of.id,
                sums=sums,
                booked=booked,
                calls=(),
            )
        )

    def free(self, body: Body, at: datetime) -> None:
        about = {name: body.get(name, "adjustment") for name in ("operation", "provider", "model")}
        cost = Decimal(body.get("cost", "0"))
        sums = Sums(body.get("calls", 0), body.get("units", 0), body.get("failures", 0), cost)
        account = body["account_id"]
        self.entries.append(
            Entry(
                account,
                body["adjustment_id"],
                "adjustment",
                body.get("user_id"),
                about["operation"],
                about["provider"],
                about["model"],
                sums,
                at,
                self.booked(account, at),
                "adjustment",
            )
        )
