"""May another provider do an operation that is admitted for one? Its own limits have to have room as well."""

from contracts.limits import Decision, LimitState, Meter, Mode
from contracts.money import parse_nanos


def has_room_for(held: Decision, tried: Decision, held_share: "Share", share: "Share") -> bool:
    """Whether every hard limit of ``tried`` has room, given what ``held`` holds already for the same operation.

    ``held`` is the decision that admitted the operation; ``tried`` a dry run for the other provider and model, made
    while that hold stands, so that limits that meet both count the operation twice.
    """
    if not tried.allowed and (tried.denial is None or tried.denial.limit_id is None):
        return False  # it was no limit that had no room
    shared = {state.limit_id for state in held.limits}
    return all(_fits(state, tried.allowed, held_share if state.limit_id in shared else None, share)
               for state in tried.limits if state.mode is Mode.HARD)  # fmt: skip


class Share:
    """What an operation takes of each meter."""

    def __init__(self, quantity: int, cost_nanos: int) -> None:
        self._of = {Meter.CALLS: 1, Meter.UNITS: quantity, Meter.COST: cost_nanos}

    def of(self, meter: Meter) -> int:
        return self._of[meter]


def _fits(state: LimitState, own_counted: bool, held_already: Share | None, share: Share) -> bool:
    used = _amount(state, state.settled) + _amount(state, state.held)
    if not own_counted:
        used += share.of(state.meter)
    if held_already is not None:
        used -= held_already.of(state.meter)
    maximum = _amount(state, state.maximum)
    return used <= maximum and maximum != 0


def _amount(state: LimitState, value: int | str) -> int:
    return parse_nanos(value) if state.meter is Meter.COST else int(value)
