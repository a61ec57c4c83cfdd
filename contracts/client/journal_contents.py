"""What is found in a journal: another version may have written it."""

import structlog
from pydantic import ValidationError

from contracts.events import OperationRequested, parse_event
from contracts.leases import LeaseRequest

_log = structlog.stdlib.get_logger(__name__)


def read_intent(body: bytes) -> OperationRequested | None:
    """None for one that another version wrote, and this one cannot read: it stays in the journal for a version that
    can, and must not keep the service from starting."""
    try:
        event = parse_event(body)
    except ValidationError as error:
        _log.error("intent_unreadable", reason=str(error))
        return None
    return event if isinstance(event, OperationRequested) else None


def read_lease(body: bytes) -> LeaseRequest | None:
    """The same of a lease: the ledger takes it back by itself, once its time is over."""
    try:
        return LeaseRequest.model_validate_json(body)
    except ValidationError as error:
        _log.error("lease_unreadable", reason=str(error))
        return None
