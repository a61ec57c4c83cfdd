"""Counters: read for decisions, made on first need."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import orjson

from ledger_service.domain.counters import Balance, Counted, CounterKey
from ledger_service.domain.decide import Claim
from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


async def find_balances(connection: "Connection", claims: Iterable[Claim]) -> dict[CounterKey, Balance]:
    """The balances of those of the claims' counters that exist."""
    keys = list({key for claim in claims for key in claim.keys})
    if not keys:
        return {}
    rows = await connection.fetch(SQL["find"], *zip(*keys, strict=True))
    return {keys[ordinal - 1]: Balance(*amounts) for ordinal, *amounts in rows}


async def read_balances(connection: "Connection", claims: Iterable[Claim]) -> dict[CounterKey, Balance]:
    """The balances of every claim's counter. The accounts must be locked.

    A counter that does not exist yet (new period, new limit) is made from the usage log and the open holds.
    """
    claims = list(claims)
    balances = await find_balances(connection, claims)
    missing = {key: claim.counted for claim in claims for key in claim.keys if key not in balances}
    if missing:
        made = await connection.fetch(SQL["create_missing"], _definitions(missing))
        balances.update({CounterKey(*row[:5]): Balance(settled=row[5], held=row[6]) for row in made})
    return balances


async def watch(connection: "Connection", watches: Mapping[CounterKey, tuple[str | None, int | None]]) -> None:
    """Sets what counters are watched for, and from which amount on. The accounts must be locked."""
    rows = [(*key, *watches[key]) for key in sorted(watches)]
    await connection.execute(SQL["watch"], *zip(*rows, strict=True))


def _definitions(counters: Mapping[CounterKey, Counted]) -> str:
    return orjson.dumps(
        [
            {
                **key._asdict(),
                "meter": counted.meter,
                "operations": counted.operations or None,
                "providers": counted.providers or None,
                "models": counted.models or None,
            }
            for key, counted in counters.items()
        ]
    ).decode()
