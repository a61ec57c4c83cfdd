"""What callers may do to a hold that they no longer need, or need for longer."""

from contracts.problems import NOT_FOUND, RESERVATION_CLOSED, ProblemError
from contracts.reservations import ReservationExtension, ReservationRef, ReservationState
from ledger_service.store.accounts import lock_accounts
from ledger_service.store.decisions import OperationKey, close_holds, extend_hold, find_state
from ledger_service.store.pool import Connection, Pool


class Reservations:
    """Releases and extends single holds."""

    def __init__(self, pool: Pool, ttl_seconds: int) -> None:
        self._pool = pool
        self._ttl_seconds = ttl_seconds

    async def release(self, ref: ReservationRef) -> ReservationState:
        """Gives a hold back: nothing is owed. Idempotent. Raises ProblemError: not_found, or reservation_closed where
        the operation was settled already."""
        async with self._pool.acquire() as connection:
            key, state = await find_reservation(connection, ref)
            if state == "held":
                async with connection.transaction():
                    await lock_accounts(connection, [key.account_id])
                    await close_holds(connection, [key], "released", only_due=False)
                key, state = await find_reservation(connection, ref)
        if state not in ("released", "expired"):
            raise reservation_closed(ref, state)
        return ReservationState(operation_id=ref.operation_id, state=state)

    async def extend(self, extension: ReservationExtension) -> ReservationState:
        """Moves the end of an open hold. Raises ProblemError: not_found, or reservation_closed where it is not open."""
        async with self._pool.acquire() as connection:
            key, _ = await find_reservation(connection, extension)
            async with connection.transaction():
                await lock_accounts(connection, [key.account_id])
                expires_at = await extend_hold(connection, key, extension.ttl_seconds or self._ttl_seconds)
            _, state = await find_reservation(connection, extension)
        if expires_at is None:
            raise reservation_closed(extension, state)
        return ReservationState(operation_id=extension.operation_id, state="held", expires_at=expires_at)


async def find_reservation(connection: Connection, ref: ReservationRef) -> tuple[OperationKey, str]:
    """Whose it is, and its state. Raises ProblemError not_found, as of an operation that was denied."""
    found = await find_state(connection, ref.operation_id, ref.account_id)
    if found is None or found[1] == "denied":
        raise no_reservation(ref)
    return found


def no_reservation(ref: ReservationRef) -> ProblemError:
    return ProblemError(NOT_FOUND, f"operation {ref.operation_id} has no reservation")


def reservation_closed(ref: ReservationRef, state: str) -> ProblemError:
    return ProblemError(RESERVATION_CLOSED, f"the reservation of operation {ref.operation_id} is {state}")
