"""Credit grants of accounts."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

import orjson

from contracts.credits import CreditGrantStored, parse_amount
from contracts.limits import Window
from ledger_service.domain.counters import CounterKey
from ledger_service.domain.credits import Grant
from ledger_service.domain.periods import BEGINNING, END_OF_TIME
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)
_OF_ROW: Final = {"account_id", "grant_id", "version"}


async def load_grants(connection: "Connection", account_ids: Collection[str]) -> dict[str, tuple[Grant, ...]]:
    """The grants of accounts that have any."""
    found: defaultdict[str, list[Grant]] = defaultdict(list)
    for row in await connection.fetch(SQL["of_accounts"], list(account_ids)):
        found[row["account_id"]].append(to_grant(_stored(row)))
    return {account_id: tuple(grants) for account_id, grants in found.items()}


async def list_grants(connection: "Connection", account_id: str) -> list[CreditGrantStored]:
    """All grants of an account, by id; those that ended too."""
    return [_stored(row) for row in await connection.fetch(SQL["of_accounts"], [account_id])]


async def put_grant(connection: "Connection", stored: CreditGrantStored) -> None:
    """Creates or replaces a grant. The account must be locked, and its limits' version be raised."""
    body = stored.model_dump_json(exclude=_OF_ROW)
    await connection.execute(SQL["put"], stored.account_id, stored.grant_id, stored.version, body)


async def drop_stale_counters(connection: "Connection", keys: Sequence[CounterKey]) -> None:
    """Drops the counters that a credit line had before its grants changed; ``keys`` are those that it has now.

    The account must be locked.
    """
    current = keys[-1]
    await connection.execute(
        SQL["drop_counters"],
        current.account_id,
        current.scope_key,
        current.counter_id,
        [key.period_start for key in keys],
        [key.period_end for key in keys],
        BEGINNING,
        END_OF_TIME,
    )


def to_grant(stored: CreditGrantStored) -> Grant:
    """A grant as the core counts it."""
    expires_at = stored.expires_at or END_OF_TIME
    rollover = stored.rollover_maximum
    return Grant(
        grant_id=stored.grant_id,
        limit_id=stored.limit_id,
        meter=stored.meter,
        amount=parse_amount(stored.meter, stored.amount, least=1),
        priority=stored.priority,
        valid_from=stored.valid_from,
        expires_at=expires_at,
        ends_at=expires_at if stored.ended_at is None else min(expires_at, stored.ended_at),
        renews=None if stored.renews is None else Window(stored.renews),
        rollover_maximum=0 if rollover is None else parse_amount(stored.meter, rollover, least=0),
        version=stored.version,
    )


def _stored(row: "asyncpg.Record") -> CreditGrantStored:
    of_row = {name: row[name] for name in _OF_ROW}
    return CreditGrantStored.model_validate({**orjson.loads(row["body"]), **of_row})
