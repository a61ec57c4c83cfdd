"""How limits stand, for readers: from counters where there are some, else from what these would be made of."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from ledger_service.domain.counters import Balance, CounterKey
from ledger_service.domain.decide import Claim
from ledger_service.store.accounts import lock_accounts
from ledger_service.store.counters import compute_balances, find_balances, read_balances
from ledger_service.store.pool import Connection, Pool


class Balances(NamedTuple):
    """The balances of claims' counters; ``missing``: those claims of which one had to be computed."""

    of: Mapping[CounterKey, Balance]
    missing: Collection[Claim]


async def balances_for(connection: Connection, claims: Collection[Claim], *, is_past: bool) -> Balances:
    """Changes nothing. Counters tell the present alone; the past is computed, from the usage log and open holds."""
    found = {} if is_past else await find_balances(connection, claims)
    missing = [claim for claim in claims if any(key not in found for key in claim.keys)]
    wanted = {key: claim.counted for claim in missing for key in claim.keys if key not in found}
    return Balances({**found, **await compute_balances(connection, wanted)}, [] if is_past else missing)


async def make_missing(pool: Pool, account_id: str, balances: Balances) -> None:
    """Makes the counters that a reader missed, so that the next one need not compute them: that takes the account's
    lock, once. Nothing depends on it."""
    if balances.missing:
        async with pool.acquire() as connection, connection.transaction():
            await lock_accounts(connection, [account_id])
            await read_balances(connection, balances.missing)
