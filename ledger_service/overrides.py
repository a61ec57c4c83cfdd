"""Overrides of limits: what they come to beside the plan, and their change as an event in the log."""

from datetime import UTC, datetime

from pydantic import ValidationError

from contracts.limits import Limit, LimitOverride, LimitOverrideStored, Scope
from contracts.problems import NOT_FOUND, ProblemError, broken_rule, invalid
from ledger_service.administration import log_change
from ledger_service.domain.counters import too_much_selected
from ledger_service.domain.ledger_events import OVERRIDE_CHANGED, OVERRIDE_REMOVED
from ledger_service.domain.periods import BEGINNING, END_OF_TIME
from ledger_service.store.accounts import change_limits, find_account, find_plan
from ledger_service.store.overrides import OverrideKey, delete_overrides, find_overlapping, list_overrides, put_override
from ledger_service.store.pool import Connection

_OF_LIMIT = ("scope", "meter", "selector", "window", "maximum", "mode", "thresholds", "credit")


async def change_override(
    connection: Connection, account_id: str, limit_id: str, override: LimitOverride, default_plan_id: str | None
) -> LimitOverrideStored:
    """Creates or replaces an override. Idempotent but for its version.

    Raises ProblemError where the override contradicts itself, the plan's limit, or another override.
    """
    key = OverrideKey(account_id, limit_id, override.scope_id, override.valid_from or BEGINNING)
    until = override.valid_until or END_OF_TIME
    async with connection.transaction():
        await change_limits(connection, account_id)
        planned = await _planned(connection, account_id, limit_id, default_plan_id)
        limit = complete_limit(limit_id, override, planned)
        for known in await list_overrides(connection, account_id):
            if known.limit.limit_id == limit_id and known.limit.scope is not limit.scope:
                raise broken_rule(
                    "scope", "contradiction", f"{_described(known)} is on {known.limit.scope}; use another limit_id"
                )
        other = await find_overlapping(connection, key, until)
        if other is not None:
            raise broken_rule("valid_from", "overlap", f"{_described(other)} overlaps: end or replace that one first")
        stored = await put_override(connection, key, until, limit, override.reason)
        await log_change(connection, OVERRIDE_CHANGED, account_id, stored)
    return stored


async def remove_override(
    connection: Connection, account_id: str, limit_id: str, scope_id: str | None
) -> list[LimitOverrideStored]:
    """Takes back all overrides of a limit and caller; answers them. Raises ProblemError where there is none."""
    async with connection.transaction():
        await change_limits(connection, account_id)
        removed = await delete_overrides(connection, account_id, limit_id, scope_id)
        if not removed:
            raise ProblemError(NOT_FOUND, f"account {account_id} has no override of {limit_id}{_of(scope_id)}")
        for one in removed:
            await log_change(connection, OVERRIDE_REMOVED, account_id, one)
    return removed


def complete_limit(limit_id: str, override: LimitOverride, planned: Limit | None) -> Limit:
    """The limit that an override is: its own words, and the plan's where it says nothing.

    Raises ProblemError that names the field which contradicts another or the plan's limit.
    """
    if override.limit_id not in (None, limit_id):
        raise broken_rule("limit_id", "limit_id", f"the address names {limit_id}")
    own = {name: value for name in _OF_LIMIT if (value := getattr(override, name)) is not None}
    inherited = {} if planned is None else {name: getattr(planned, name) for name in _OF_LIMIT}
    for name in ("meter", "window"):
        if name not in own and planned is None:
            raise broken_rule(name, "missing", f"needed, as the account's plan has no limit {limit_id} to take it from")
    for name in ("meter", "scope"):
        if planned is not None and name in own and own[name] != inherited[name]:
            raise broken_rule(
                name, "contradiction", f"the plan's limit {limit_id} is on {inherited[name]}; use another limit_id"
            )
    try:
        limit = Limit.model_validate({"limit_id": limit_id, **inherited, **own})
    except ValidationError as error:
        raise invalid(error) from None
    if wrong := too_much_selected(limit):
        raise broken_rule("selector", "too_long", wrong)
    if override.scope_id is not None and limit.scope is Scope.ACCOUNT:
        raise broken_rule("scope_id", "contradiction", "a limit on the account is for nobody in particular")
    return limit


async def _planned(connection: Connection, account_id: str, limit_id: str, default_plan_id: str | None) -> Limit | None:
    account = await find_account(connection, account_id)
    plan_id = (account["plan_id"] if account else None) or default_plan_id
    plan = await find_plan(connection, plan_id) if plan_id else None
    return next((limit for limit in plan.limits if limit.limit_id == limit_id), None) if plan else None


def _described(other: LimitOverrideStored) -> str:
    def moment(value: datetime | None, otherwise: str) -> str:
        return otherwise if value is None else value.astimezone(UTC).isoformat()

    return (
        f"the override{_of(other.scope_id)} that holds from {moment(other.valid_from, 'the beginning')} "
        f"until {moment(other.valid_until, 'for ever')}"
    )


def _of(scope_id: str | None) -> str:
    return f" of {scope_id}" if scope_id else ""
