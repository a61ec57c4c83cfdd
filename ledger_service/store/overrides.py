"""Limit overrides of accounts."""

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from contracts.limits import Limit, LimitOverrideStored
from ledger_service.domain.periods import BEGINNING, END_OF_TIME
from ledger_service.domain.terms import Override
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


class OverrideKey(NamedTuple):
    """Which override. Of one limit and ``scope_id``, at most one holds at any time; ``valid_from`` tells them apart."""

    account_id: str
    limit_id: str
    scope_id: str | None
    valid_from: datetime

    def columns(self) -> tuple[str, str, str, datetime]:
        return self.account_id, self.limit_id, self.scope_id or "", self.valid_from


async def load_overrides(connection: "Connection", account_ids: Collection[str]) -> dict[str, tuple[Override, ...]]:
    """The overrides of accounts that have any, by limit and time."""
    found: defaultdict[str, tuple[Override, ...]] = defaultdict(tuple)
    for row in await connection.fetch(SQL["of_accounts"], list(account_ids)):
        found[row["account_id"]] += (
            Override(
                Limit.model_validate_json(row["limit"]),
                row["scope_id"] or None,
                row["valid_from"],
                row["valid_until"],
                row["version"],
            ),
        )
    return dict(found)


async def list_overrides(connection: "Connection", account_id: str) -> list[LimitOverrideStored]:
    return [_stored(row) for row in await connection.fetch(SQL["of_accounts"], [account_id])]


async def find_overlapping(
    connection: "Connection", key: OverrideKey, valid_until: datetime
) -> LimitOverrideStored | None:
    """Another override of the same limit and caller whose time overlaps, if there is one."""
    row = await connection.fetchrow(SQL["find_overlapping"], *key.columns(), valid_until)
    return None if row is None else _stored(row)


async def put_override(
    connection: "Connection", key: OverrideKey, valid_until: datetime, limit: Limit, reason: str
) -> LimitOverrideStored:
    """Creates or replaces an override; its version grows by one. The account must be locked."""
    row = await connection.fetchrow(SQL["put"], *key.columns(), valid_until, limit.model_dump_json(), reason)
    assert row is not None, "an upsert returns its row"
    return _stored(row)


async def delete_overrides(
    connection: "Connection", account_id: str, limit_id: str, scope_id: str | None
) -> list[LimitOverrideStored]:
    """Removes all overrides of a limit and caller, whatever their time; answers them. The account must be locked."""
    rows = await connection.fetch(SQL["delete"], account_id, limit_id, scope_id or "")
    return [_stored(row) for row in rows]


def _stored(row: "asyncpg.Record") -> LimitOverrideStored:
    return LimitOverrideStored(
        account_id=row["account_id"],
        scope_id=row["scope_id"] or None,
        limit=Limit.model_validate_json(row["limit"]),
        valid_from=None if row["valid_from"] <= BEGINNING else row["valid_from"],
        valid_until=None if row["valid_until"] >= END_OF_TIME else row["valid_until"],
        reason=row["reason"],
        version=row["version"],
    )
