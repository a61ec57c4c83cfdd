"""What an allowed check does to the balances of its claims, for tests without a store."""

from collections.abc import Iterable, MutableMapping

from ledger_service.domain.counters import Balance, CounterKey
from ledger_service.domain.decide import Claim


def hold(claims: Iterable[Claim], balances: MutableMapping[CounterKey, Balance]) -> None:
    """Adds the shares to what is held. Two limits over one counter hold it once."""
    for key, amount in {claim.key: claim.amount for claim in claims}.items():
        balances[key].held += amount
