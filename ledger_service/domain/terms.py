"""What an account may do: its plan, what replaces or adds to it, and its calendar."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from contracts.limits import FailMode, FailRule, LeaseOffer, Limit, LimitCheck, Meter, Plan, Scope
from ledger_service.domain.counters import Counted, counted_by, scope_id
from ledger_service.domain.credits import Grant
from ledger_service.domain.periods import Calendar


@dataclass(frozen=True, slots=True)
class Override:
    """A limit that holds for one account, or for one user, project or key of it, while ``valid_from`` ≤ now <
    ``valid_until``."""

    limit: Limit
    scope_id: str | None
    valid_from: datetime
    valid_until: datetime
    version: int

    def holds_for(self, check: LimitCheck, now: datetime) -> bool:
        return self.valid_from <= now < self.valid_until and (
            self.scope_id is None or self.scope_id == scope_id(self.limit.scope, check)
        )


@dataclass(frozen=True, slots=True)
class Applied:
    """A limit as it applies: what it counts, and the override that it is, if any."""

    limit: Limit
    counted: Counted
    override: Override | None = None
    #: What decisions show of it, whatever its balance.
    shown: dict[str, object] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        limit = self.limit
        shown: dict[str, object] = {
            "limit_id": limit.limit_id,
            "scope": limit.scope.value,
            "meter": limit.meter.value,
            "window": limit.window.value,
            "mode": limit.mode.value,
        }
        object.__setattr__(self, "shown", shown)


#: (operation, provider, model) → the plan's limits that select it.
Selected = dict[tuple[str, str, str], tuple[Applied, ...]]


@dataclass(frozen=True, slots=True)
class Terms:
    """The plan an account is on (None where there is none by that id), its calendar, overrides and credit grants.

    ``selected`` remembers which of the plan's limits select what; it may be shared by all accounts on one plan version.
    """

    plan_id: str | None
    plan: Plan | None
    calendar: Calendar
    plan_version: int | None = None
    overrides: tuple[Override, ...] = ()
    grants: tuple[Grant, ...] = ()
    selected: Selected = field(default_factory=dict, repr=False, compare=False)


def limits_for(check: LimitCheck, terms: Terms, now: datetime) -> Sequence[Applied]:
    """The limits that select a check, in the plan's order, then those that overrides add.

    Of several overrides with one limit_id, scope and meter, one for the caller's own user, project or key goes before
    one for all.
    """
    if terms.overrides:
        return _with_overrides(check, terms, now)
    if terms.plan is None:
        return ()
    key = (check.operation, check.provider, check.model)
    known = terms.selected.get(key)
    if known is None:
        if len(terms.selected) >= _SELECTED_MAX:
            terms.selected.clear()
        known = tuple(applied for applied in map(_of_plan, terms.plan.limits) if applied.counted.selects(check))
        terms.selected[key] = known
    return known


#: Operations, providers and models come from callers: what is remembered of them is bounded.
_SELECTED_MAX = 1000


def _of_plan(limit: Limit) -> Applied:
    return Applied(limit, counted_by(limit))


#: What an override and the limit that it replaces share.
_Named = tuple[str, Scope, Meter]


def _named(limit: Limit) -> _Named:
    # A user's own limit does not lift one of the same name that a project or all of the account share; nor does one on
    # calls lift one on cost, of a plan that the account came to be on later.
    return limit.limit_id, limit.scope, limit.meter


def _with_overrides(check: LimitCheck, terms: Terms, now: datetime) -> list[Applied]:
    holding: dict[_Named, Override] = {}
    for override in terms.overrides:
        if override.holds_for(check, now):
            key = _named(override.limit)
            before = holding.get(key)
            if before is None or before.scope_id is None:
                holding[key] = override
    chosen = []
    for limit in terms.plan.limits if terms.plan else ():
        own = holding.pop(_named(limit), None)
        chosen.append(_of_plan(limit) if own is None else _of_override(own))
    chosen += [_of_override(override) for override in holding.values()]
    return [applied for applied in chosen if applied.counted.selects(check)]


def _of_override(override: Override) -> Applied:
    return Applied(override.limit, counted_by(override.limit), override)


def limits_of_account(terms: Terms, now: datetime) -> list[Applied]:
    """All limits on the account as a whole that hold now, whatever they select."""
    return limits_on(Scope.ACCOUNT, None, terms, now)


def limits_on(scope: Scope, caller: str | None, terms: Terms, now: datetime) -> list[Applied]:
    """All limits of a scope that hold now for a user, project or key, or (None) for the account, whatever they select:
    the plan's in its order, then those that overrides add."""
    holding: dict[_Named, Override] = {}
    for override in terms.overrides:
        is_theirs = override.limit.scope is scope and override.scope_id in (None, caller)
        if is_theirs and override.valid_from <= now < override.valid_until:
            before = holding.get(_named(override.limit))
            if before is None or before.scope_id is None:
                holding[_named(override.limit)] = override
    chosen = [
        _of_override(holding.pop(_named(limit))) if _named(limit) in holding else _of_plan(limit)
        for limit in (terms.plan.limits if terms.plan else ())
        if limit.scope is scope
    ]
    return chosen + [_of_override(override) for override in holding.values()]


def fail_rule(check: LimitCheck, terms: Terms) -> FailRule | None:
    """The first fail rule of the plan that fits the caller; None = closed."""
    for rule in terms.plan.fail_modes if terms.plan else ():
        caller = scope_id(rule.scope, check)
        if rule.scope is Scope.ACCOUNT or (caller is not None and (not rule.scope_ids or caller in rule.scope_ids)):
            return rule
    return None


def lease_offer(check: LimitCheck, terms: Terms) -> LeaseOffer | None:
    """What the caller may lease, if anything."""
    rule = fail_rule(check, terms)
    if rule is None or rule.mode is not FailMode.LEASE:
        return None
    return LeaseOffer(calls=rule.calls, ttl_seconds=rule.ttl_seconds)
