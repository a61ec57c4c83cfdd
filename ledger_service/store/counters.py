"""Counters: read for decisions, made on first need."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import orjson

from ledger_service.domain.counters import Balance, CounterKey
from ledger_service.domain.decide import Claim
from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


async def find_balances(connection: "Connection", claims: Iterable[Claim]) -> dict[CounterKey, Balance]:
    """The balances of those of the claims' counters that exist."""
    keys = list({claim.key for claim in claims})
    if not keys:
        return {}
    rows = await connection.fetch(SQL["find"], *zip(*keys, strict=True))
    return {keys[ordinal - 1]: Balance(settled, held) for ordinal, settled, held in rows}


async def read_balances(connection: "Connection", claims: Iterable[Claim]) -> dict[CounterKey, Balance]:
    """The balances of every claim's counter. The accounts must be locked.

    A counter that does not exist yet (new period, new limit) is made from the usage log and the open holds.
    """
    wanted = {claim.key: claim for claim in claims}
    balances = await find_balances(connection, wanted.values())
    missing = [claim for key, claim in wanted.items() if key not in balances]
    if missing:
        made = await connection.fetch(SQL["create_missing"], _definitions(missing))
        balances.update({CounterKey(*row[:5]): Balance(settled=row[5], held=row[6]) for row in made})
    return balances


def _definitions(claims: list[Claim]) -> str:
    return orjson.dumps(
        [
            {
                "account_id": claim.key.account_id,
                "scope_key": claim.key.scope_key,
                "period_end": claim.key.period_end,
                "counter_id": claim.key.counter_id,
                "period_start": claim.period.start,
                "meter": claim.counted.meter,
                "operations": claim.counted.operations or None,
                "providers": claim.counted.providers or None,
                "models": claim.counted.models or None,
            }
            for claim in claims
        ]
    ).decode()
