"""Leases: holds for several operations at once, which their holder may begin without asking."""

from datetime import timedelta
from typing import Final

from contracts.leases import Lease, LeaseCheck, LeaseRequest, LeaseReturn, LeaseReturned
from contracts.limits import Decision
from contracts.problems import LEASE_CLOSED, LEASE_INVALID, ProblemError
from ledger_service.lease_tokens import LeaseToken, sign, verify
from ledger_service.limit_checks import LimitChecks
from ledger_service.store.accounts import lock_accounts
from ledger_service.store.decisions import OperationKey, close_holds
from ledger_service.store.leases import find_lease
from ledger_service.store.pool import Pool
from ledger_service.store.signing_keys import find_or_make_key

KEY_PURPOSE: Final = "leases"


class Leases:
    """Places leases through the queue of limit checks, and takes them back."""

    def __init__(self, pool: Pool, limit_checks: LimitChecks) -> None:
        self._pool = pool
        self._limit_checks = limit_checks
        self._key: bytes | None = None

    async def place(self, request: LeaseRequest) -> Lease:
        """All that is asked for, or a denial. The same request again gets the same answer while the lease is open.

        Raises ProblemError: invalid_request where the plan allows less, conflict, reservation_closed once it is over.
        """
        key = await self._signing_key()
        decision = Decision.model_validate_json(await self._limit_checks.check(_check_of(request)))
        lease, reservation = decision.lease, decision.reservation
        cost = decision.estimated_cost or 0
        expires_at = token = None
        if lease is not None and reservation is not None:
            expires_at = decision.decided_at + timedelta(seconds=lease.ttl_seconds)
            fields = request.model_dump(exclude={"ttl_seconds", "estimated_cost"})
            token = sign(LeaseToken(**fields, estimated_cost=cost, expires_at=expires_at), key)
        return Lease(
            lease_id=request.lease_id,
            account_id=request.account_id,
            allowed=decision.allowed,
            denial=decision.denial,
            token=token,
            calls=request.calls,
            quantity=request.quantity,
            estimated_cost=cost,
            expires_at=expires_at,
            reclaimed_at=None if reservation is None else reservation.expires_at,
            limits=decision.limits,
        )

    async def give_back(self, returned: LeaseReturn, only: str | None = None) -> LeaseReturned:
        """Releases what is left of a lease's hold. Outcomes under it that come later are counted all the same.

        ``only``: the account that it must be of; another's is as good as forged.
        Raises ProblemError: lease_invalid, or lease_closed where it was returned before, or reclaimed.
        """
        token = verify(returned.token, await self._signing_key())
        if (
            token is None
            or returned.lease_id not in (None, token.lease_id)
            or (only is not None and token.account_id != only)
        ):
            raise ProblemError(LEASE_INVALID, "the ledger did not sign this token for this lease")
        key = OperationKey(token.account_id, token.lease_id)
        async with self._pool.acquire() as connection, connection.transaction():
            await lock_accounts(connection, [token.account_id])
            left = await find_lease(connection, key)
            if left is None:
                raise ProblemError(LEASE_INVALID, "the ledger knows of no such lease")
            if left.state != "held":
                raise ProblemError(LEASE_CLOSED, f"lease {token.lease_id} is {left.state}")
            await close_holds(connection, [key], "released", only_due=False)
        return LeaseReturned(
            lease_id=token.lease_id,
            account_id=token.account_id,
            calls=left.calls,
            quantity=left.quantity,
            estimated_cost=left.estimated_cost_nanos,
        )

    async def _signing_key(self) -> bytes:
        if self._key is None:
            async with self._pool.acquire() as connection:
                self._key = await find_or_make_key(connection, KEY_PURPOSE)
        return self._key


def _check_of(request: LeaseRequest) -> LeaseCheck:
    # Validated already: to go through the validators again, money would have to become text.
    return LeaseCheck.model_construct(operation_id=request.lease_id, **request.model_dump(exclude={"lease_id"}))
