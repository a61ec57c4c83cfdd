"""Counters: what a limit compares its maximum with. A limit is a maximum over a counter; plans may share counters."""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, NamedTuple, assert_never

from contracts.leases import LeaseCheck
from contracts.limits import Limit, LimitCheck, Meter, Scope

ACCOUNT_SCOPE_KEY: Final = "account"
#: With the longest account and caller, PostgreSQL's index takes 2,704 bytes of a counter's key, and no more.
COUNTER_ID_CHARS_MAX: Final = 2_300


class CounterKey(NamedTuple):
    """Identity of a counter, in the order of its table's key."""

    account_id: str
    scope_key: str
    period_end: datetime
    period_start: datetime
    counter_id: str


@dataclass(frozen=True, slots=True)
class Counted:
    """What a counter counts; empty tuples select everything."""

    counter_id: str
    meter: Meter
    operations: tuple[str, ...]
    providers: tuple[str, ...]
    models: tuple[str, ...]

    def selects(self, check: LimitCheck) -> bool:
        return (
            (not self.operations or check.operation in self.operations)
            and (not self.providers or check.provider in self.providers)
            and (not self.models or check.model in self.models)
        )


@dataclass(slots=True)
class Balance:
    """How much of a counter is settled and held: calls, units or nano-dollars.

    ``watched`` and ``warn_at``: see domain.alerts; what ingest looks for.
    """

    settled: int = 0
    held: int = 0
    watched: str | None = None
    warn_at: int | None = None

    @property
    def used(self) -> int:
        return self.settled + self.held


def counted_by(limit: Limit) -> Counted:
    """What a limit counts. Two limits that count the same have the same counter, whatever their ids and maxima."""
    selector = limit.selector
    return _counted(
        limit.meter,
        limit.scope,
        limit.window,
        tuple(sorted(set(selector.operation))),
        tuple(sorted(set(selector.provider))),
        tuple(sorted(set(selector.model))),
    )


def too_much_selected(limit: Limit) -> str | None:
    """What is wrong with a limit that names more operations, providers and models than a counter's id has room for."""
    characters = len(counted_by(limit).counter_id)
    if characters <= COUNTER_ID_CHARS_MAX:
        return None
    return f"its names come to {characters} characters together, more than {COUNTER_ID_CHARS_MAX}: select all, or fewer"


@lru_cache(maxsize=4096)
def _counted(
    meter: Meter,
    scope: Scope,
    window: str,
    operations: tuple[str, ...],
    providers: tuple[str, ...],
    models: tuple[str, ...],
) -> Counted:
    parts = [meter.value, scope.value, str(window)]
    for name, values in (("operation", operations), ("provider", providers), ("model", models)):
        if values:
            parts.append(f"{name}={','.join(values)}")
    return Counted(" ".join(parts), meter, operations, providers, models)


def scope_keys(check: LimitCheck) -> dict[Scope, str | None]:
    """For whom limits of each scope count the check; None where the check names no such user, project or key.

    Source of the spelling: the function of the same name in the migrations, which counts what is settled.
    """
    project_id, api_key_id = check.project_id, check.api_key_id
    return {
        Scope.ACCOUNT: ACCOUNT_SCOPE_KEY,
        Scope.USER: f"user:{check.user_id}",
        Scope.PROJECT: None if project_id is None else f"project:{project_id}",
        Scope.API_KEY: None if api_key_id is None else f"api_key:{api_key_id}",
    }


def scope_id(scope: Scope, check: LimitCheck) -> str | None:
    """The user, project or api key that the check names; None where it names none, or the scope is the account."""
    match scope:
        case Scope.ACCOUNT:
            return None
        case Scope.USER:
            return check.user_id
        case Scope.PROJECT:
            return check.project_id
        case Scope.API_KEY:
            return check.api_key_id
        case _:
            assert_never(scope)


def calls_of(check: LimitCheck) -> int:
    """How many operations a check is for: one, unless it is a lease."""
    return check.calls if isinstance(check, LeaseCheck) else 1


def shares_of(check: LimitCheck) -> dict[Meter, int]:
    """How much a check asks of a counter of each meter."""
    return {Meter.CALLS: calls_of(check), Meter.UNITS: check.quantity, Meter.COST: check.estimated_cost or 0}
