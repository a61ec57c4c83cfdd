"""Holds that are moved to another provider: the share of the one taken out, and that of the other put in its place, or
nothing changed, in one transaction."""

import asyncio
from typing import Final

from contracts.limits import LimitCheck
from contracts.money import format_nanos
from contracts.problems import CONFLICT, RESERVATION_CLOSED, ProblemError
from contracts.reservations import ReservationMove
from ledger_service.limit_checks import Answer, LimitChecks
from ledger_service.reservations import find_reservation, no_reservation, reservation_closed
from ledger_service.store.accounts import lock_accounts
from ledger_service.store.decisions import (
    Moved,
    OperationKey,
    Placement,
    find_placement,
    request_digest,
    take_out,
)
from ledger_service.store.pool import TRANSIENT, Connection, Pool, StoreUnavailableError, retrying

#: A move waits for its account with one of the few connections that releases and administration have, too.
AT_ONCE_MAX: Final = 1
#: Of one hold. Whoever asks for the past, or for an explanation, walks back over all of them.
MOVES_MAX: Final = 100


class Moves:
    def __init__(self, pool: Pool, limit_checks: LimitChecks) -> None:
        self._pool = pool
        self._limit_checks = limit_checks
        self._places = asyncio.Semaphore(AT_ONCE_MAX)

    async def move(self, move: ReservationMove) -> Answer:
        """The decision on the other provider as JSON (contracts.limits.Decision), its own earlier share not counted
        against it. Allowed: that is what is held now. Denied: all is as it was, and nothing of it is kept.

        The same move again gets the same bytes while the hold is where that brought it. Raises ProblemError: not_found,
        reservation_closed where the hold has ended, conflict where it is not the one of ``placed_at`` any more.
        """
        try:
            async with self._places:
                return await retrying(lambda: self._move(move))
        except TRANSIENT as error:
            raise StoreUnavailableError(str(error)) from error

    async def _move(self, move: ReservationMove) -> Answer:
        async with self._pool.acquire() as connection:
            key, _ = await find_reservation(connection, move)
            transaction = connection.transaction()
            await transaction.start()
            keep = False
            try:
                answer, keep = await self._move_locked(connection, key, move)
            finally:
                await (transaction.commit() if keep else transaction.rollback())
            return answer

    async def _move_locked(
        self, connection: Connection, key: OperationKey, move: ReservationMove
    ) -> tuple[Answer, bool]:
        """The answer, and whether anything was changed that is to be kept."""
        await lock_accounts(connection, [key.account_id])
        placed = await find_placement(connection, key)
        if placed is None:
            raise no_reservation(move)
        if placed.state != "held":
            raise reservation_closed(move, placed.state)
        check = _check_of(key, placed, move)
        if placed.placed_at != move.placed_at:
            if _is_of(placed, move, check):
                return placed.decision_json, False
            raise ProblemError(CONFLICT, f"operation {key.operation_id} holds what was decided at {placed.placed_at}")
        if placed.moves >= MOVES_MAX:
            raise ProblemError(RESERVATION_CLOSED, f"the hold was moved {MOVES_MAX} times: no hold is moved more often")
        await take_out(connection, key)
        moved = Moved(placed.event_id, move.billed or 0)
        decided = await self._limit_checks.decide_moved(connection, check, moved)
        return decided.decision_json, decided.verdict.allowed


def _check_of(key: OperationKey, placed: Placement, move: ReservationMove) -> LimitCheck:
    # Validated already: to go through the validators again, money would have to become text.
    return LimitCheck.model_construct(
        operation_id=key.operation_id,
        account_id=key.account_id,
        user_id=placed.user_id,
        project_id=placed.project_id,
        api_key_id=placed.api_key_id,
        operation=placed.operation,
        provider=move.provider,
        model=move.model,
        quantity=move.quantity,
        estimated_cost=move.estimated_cost,
        attributes=move.attributes,
        ttl_seconds=move.ttl_seconds,
    )


def _is_of(placed: Placement, move: ReservationMove, check: LimitCheck) -> bool:
    """Whether it is this very move that brought the hold where it is."""
    return (
        placed.moved_from_placed_at == move.placed_at
        and placed.request_digest == request_digest(check.model_dump_json(exclude_none=True).encode())
        and placed.billed == (format_nanos(move.billed) if move.billed else None)
    )
