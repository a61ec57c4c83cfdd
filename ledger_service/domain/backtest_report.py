"""What a backtest found, added up: in all, by day, by user and by account. Memory: one account's users at a time."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from heapq import heappush, heappushpop
from typing import Any, Generic, TypeVar

from contracts.backtests import (
    RANKED_MAX,
    BacktestAccount,
    BacktestDay,
    BacktestResult,
    BacktestTotals,
    BacktestUser,
    DeniedBy,
    DeniedThen,
    FirstDenial,
)
from ledger_service.domain.backtest import COMPLETED, DENIED, Operation, Refusal

Named = TypeVar("Named")
Facts = dict[str, Any]  # members of BacktestTotals, on their way into it


@dataclass(slots=True)
class Saved:
    """Operations, their units and cost."""

    operations: int = 0
    units: int = 0
    cost_nanos: int = 0

    def add(self, other: "Saved") -> None:
        self.operations += other.operations
        self.units += other.units
        self.cost_nanos += other.cost_nanos


@dataclass(slots=True)
class Tally:
    """Operations and their cost; what each refusal would have saved; what was denied then, and would be allowed."""

    operations: int = 0
    cost_nanos: int = 0
    denied: dict[Refusal, Saved] = field(default_factory=dict)
    reconsidered: int = 0
    allowed: Saved = field(default_factory=Saved)

    def add_denied(self, refusal: Refusal, units: int, cost_nanos: int) -> None:
        saved = self.denied.get(refusal)
        if saved is None:
            saved = self.denied[refusal] = Saved()
        saved.operations += 1
        saved.units += units
        saved.cost_nanos += cost_nanos

    def add_reconsidered(self, operation: Operation, refusal: Refusal | None) -> None:
        self.reconsidered += 1
        if refusal is None:
            self.allowed.add(Saved(1, operation.quantity, operation.cost_nanos))

    def add(self, other: "Tally") -> None:
        self.operations += other.operations
        self.cost_nanos += other.cost_nanos
        for refusal, saved in other.denied.items():
            self.denied.setdefault(refusal, Saved()).add(saved)
        self.reconsidered += other.reconsidered
        self.allowed.add(other.allowed)

    def saved(self) -> Saved:
        found = Saved()
        for saved in self.denied.values():
            found.add(saved)
        return found


class _Ranked(Generic[Named]):
    """The few with the most saved, of any number."""

    def __init__(self) -> None:
        self.seen = 0
        self.seen_denied = 0
        self._best: list[tuple[tuple[int, ...], Named, Tally]] = []

    def add(self, name: Named, tally: Tally) -> None:
        self.seen += 1
        self.seen_denied += bool(tally.denied)
        saved = tally.saved()
        # The last makes every rank unique, and puts the earlier before the later.
        rank = (saved.cost_nanos, saved.operations, tally.cost_nanos, tally.operations, -self.seen)
        (heappush if len(self._best) < RANKED_MAX else heappushpop)(self._best, (rank, name, tally))

    def in_order(self) -> Iterable[tuple[Named, Tally]]:
        return ((name, tally) for _, name, tally in sorted(self._best, key=lambda one: one[0], reverse=True))


@dataclass(slots=True)
class _AccountName:
    account_id: str
    first_denial: FirstDenial | None


class Report:
    """Takes each operation with its refusal, one account after another."""

    def __init__(self) -> None:
        self._days: dict[date, Tally] = {}
        self._users: dict[str, Tally] = {}
        self._account_id: str | None = None
        self._first_denial: FirstDenial | None = None
        self._ranked_users: _Ranked[tuple[str, str]] = _Ranked()
        self._ranked_accounts: _Ranked[_AccountName] = _Ranked()
        self._total = Tally()

    def add(self, operation: Operation, refusal: Refusal | None) -> None:
        """``refusal``: why it would have been denied, None where it would not."""
        if operation.account_id != self._account_id:
            self._end_account()
            self._account_id = operation.account_id
        day, user = operation.admitted_at.date(), operation.user_id
        of_day = self._days.get(day)
        if of_day is None:
            of_day = self._days[day] = Tally()
        of_user = self._users.get(user)
        if of_user is None:
            of_user = self._users[user] = Tally()
        if operation.outcome == DENIED:
            of_day.add_reconsidered(operation, refusal)
            of_user.add_reconsidered(operation, refusal)
            return
        cost = operation.cost_nanos
        of_day.operations += 1
        of_day.cost_nanos += cost
        of_user.operations += 1
        of_user.cost_nanos += cost
        if refusal is not None:
            units = operation.quantity if operation.outcome == COMPLETED else 0
            of_day.add_denied(refusal, units, cost)
            of_user.add_denied(refusal, units, cost)
            if self._first_denial is None:
                self._first_denial = _first_denial(operation, refusal)

    def _end_account(self) -> None:
        if self._account_id is None:
            return
        of_account = Tally()
        for user, tally in self._users.items():
            of_account.add(tally)
            self._ranked_users.add((self._account_id, user), tally)
        self._ranked_accounts.add(_AccountName(self._account_id, self._first_denial), of_account)
        self._total.add(of_account)
        self._users, self._account_id, self._first_denial = {}, None, None

    def result(
        self, start: datetime, end: datetime, plan_id: str | None, plan_version: int | None, with_denied: bool
    ) -> BacktestResult:
        """The whole of it. ``with_denied``: what was denied then was replayed too."""
        self._end_account()

        def facts(tally: Tally) -> Facts:
            return _facts(tally, with_denied)

        users, accounts = self._ranked_users, self._ranked_accounts
        return BacktestResult(
            start=start,
            end=end,
            plan_id=plan_id,
            plan_version=plan_version,
            total=BacktestTotals(**facts(self._total)),
            by_day=[BacktestDay(day=day, **facts(self._days[day])) for day in sorted(self._days)],
            users=users.seen,
            users_denied=users.seen_denied,
            by_user=[
                BacktestUser(account_id=account_id, user_id=user_id, **facts(tally))
                for (account_id, user_id), tally in users.in_order()
            ],
            accounts=accounts.seen,
            accounts_denied=accounts.seen_denied,
            by_account=[
                BacktestAccount(account_id=name.account_id, first_denial=name.first_denial, **facts(tally))
                for name, tally in accounts.in_order()
            ],
        )


def _facts(tally: Tally, with_denied: bool) -> Facts:
    saved, allowed = tally.saved(), tally.allowed
    then = DeniedThen(
        operations=tally.reconsidered,
        would_allow=allowed.operations,
        units_added=allowed.units,
        cost_added=allowed.cost_nanos,
    )
    return {
        "operations": tally.operations,
        "cost": tally.cost_nanos,
        "would_deny": saved.operations,
        "units_saved": saved.units,
        "cost_saved": saved.cost_nanos,
        "by_limit": [_denied_by(refusal, tally.denied[refusal]) for refusal in sorted(tally.denied, key=_by_limit_id)],
        "denied_then": then if with_denied else None,
    }


def _by_limit_id(refusal: Refusal) -> tuple[str, str]:
    return (refusal.limit_id or "", refusal.code)


def _denied_by(refusal: Refusal, saved: Saved) -> DeniedBy:
    return DeniedBy(
        limit_id=refusal.limit_id,
        code=refusal.code,
        would_deny=saved.operations,
        units_saved=saved.units,
        cost_saved=saved.cost_nanos,
    )


def _first_denial(operation: Operation, refusal: Refusal) -> FirstDenial:
    return FirstDenial(
        operation_id=operation.operation_id,
        user_id=operation.user_id,
        at=operation.admitted_at,
        limit_id=refusal.limit_id,
        code=refusal.code,
    )
