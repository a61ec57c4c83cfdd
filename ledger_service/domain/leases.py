"""What of a plan's fail mode a caller may lease."""

from typing import NamedTuple

from contracts.leases import LeaseCheck
from contracts.limits import LeaseOffer, LimitCheck
from ledger_service.domain.terms import Terms, lease_offer


class Excess(NamedTuple):
    """A field that asks for more than the plan's rule allows."""

    field: str
    message: str


def lease_of(check: LimitCheck, terms: Terms) -> LeaseOffer | None:
    """Of a lease that is asked for: its calls, and for how long it may be used, by its own word or else the plan's.
    Of any other check: what its caller may lease. None = nothing."""
    offer = lease_offer(check, terms)
    if offer is None or not isinstance(check, LeaseCheck):
        return offer
    return LeaseOffer(calls=check.calls, ttl_seconds=check.ttl_seconds or offer.ttl_seconds)


def beyond_rule(check: LeaseCheck, terms: Terms) -> Excess | None:
    """What the lease asks for beyond the plan's rule for its caller; None where it keeps to it, or there is no rule."""
    offer = lease_offer(check, terms)
    if offer is None:
        return None
    if check.calls > offer.calls:
        return Excess("calls", f"the plan lets this caller lease at most {offer.calls} calls")
    if check.ttl_seconds is not None and check.ttl_seconds > offer.ttl_seconds:
        return Excess("ttl_seconds", f"the plan lets this caller use a lease for at most {offer.ttl_seconds} s")
    return None
