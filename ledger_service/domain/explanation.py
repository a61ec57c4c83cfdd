"""Which limit decided on a check, read from the decision as it was logged."""

from collections.abc import Iterable
from typing import Any, Final

from contracts.limits import Limit, Meter, Mode, Scope
from contracts.money import parse_nanos
from ledger_service.domain.counters import ACCOUNT_SCOPE_KEY
from ledger_service.domain.decide import has_room

Json = dict[str, Any]  # a JSON object from the log

#: Of a maximum, to compare what is left of several: fine enough for every maximum in nano-dollars.
_PARTS: Final = 10**18
_CALLER_FIELDS: Final = {Scope.USER: "user_id", Scope.PROJECT: "project_id", Scope.API_KEY: "api_key_id"}


def amount_of(meter: Meter, shown: int | str) -> int:
    """A shown amount as the core counts it: calls, units or nano-dollars."""
    return parse_nanos(shown) if meter is Meter.COST else int(shown)


def amount_asked(meter: Meter, check: Json, decision: Json) -> int:
    """How much of a limit's meter the check asked for."""
    match meter:
        case Meter.CALLS:
            return int(check.get("calls", 1))  # a lease is for several
        case Meter.UNITS:
            return int(check.get("quantity", 1))
        case Meter.COST:
            # A check without an estimate is held at what the decision says; of an old one, only the check tells.
            return parse_nanos(decision.get("estimated_cost") or check.get("estimated_cost") or "0")


def binding_limit(check: Json, decision: Json) -> Json | None:
    """The state of the limit that denied, or of an allowed check's limits the one with least room left: hard before
    soft, then by what is left of its maximum. None where no limit had a say."""
    states: list[Json] = decision["limits"]
    denial = decision["denial"]
    if denial is None:
        return min(states, key=_room, default=None)
    named = [state for state in states if state["limit_id"] == denial["limit_id"]]
    # A plan's limit and one caller's own may share a name.
    return next((state for state in named if _denies(state, check, decision)), named[0] if named else None)


def defined_as(limits: Iterable[Limit], state: Json) -> Limit | None:
    """The limit of a plan that a decision's limit state is about."""
    return next((one for one in limits if (one.limit_id, one.scope) == (state["limit_id"], state["scope"])), None)


def caller_of(scope: Scope, check: Json) -> str | None:
    """The user, project or api key that the limit counted; None = the whole account."""
    field = _CALLER_FIELDS.get(scope)
    return check.get(field) if field else None


def scope_key_of(scope: Scope, check: Json) -> str:
    """As domain.counters.scope_key, of a check from the log."""
    caller = caller_of(scope, check)
    return ACCOUNT_SCOPE_KEY if caller is None else f"{scope.value}:{caller}"


def caller_filter(scope: Scope, check: Json) -> dict[str, str]:
    """The query parameter of the usage log that selects what the limit counted for this caller."""
    caller = caller_of(scope, check)
    return {} if caller is None else {_CALLER_FIELDS[scope]: caller}


def _room(state: Json) -> tuple[bool, int]:
    meter = Meter(state["meter"])
    maximum, available = amount_of(meter, state["maximum"]), amount_of(meter, state["available"])
    return state.get("mode") == Mode.SOFT, available * _PARTS // (maximum or 1)


def _denies(state: Json, check: Json, decision: Json) -> bool:
    meter = Meter(state["meter"])
    maximum, available = amount_of(meter, state["maximum"]), amount_of(meter, state["available"])
    return state.get("mode") != Mode.SOFT and not has_room(
        maximum, maximum - available, amount_asked(meter, check, decision)
    )
