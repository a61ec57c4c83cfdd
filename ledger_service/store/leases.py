"""Leases as they stand."""

from typing import TYPE_CHECKING, Final, NamedTuple

from ledger_service.store.decisions import OperationKey
from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


class LeaseLeft(NamedTuple):
    """The state of a lease, and what of its hold its operations have not used."""

    state: str
    calls: int
    quantity: int
    estimated_cost_nanos: int


async def find_lease(connection: "Connection", key: OperationKey) -> LeaseLeft | None:
    """How a lease stands. Under its account's lock that does not change."""
    row = await connection.fetchrow(SQL["find"], key.account_id, key.operation_id)
    return None if row is None else LeaseLeft(*row)
