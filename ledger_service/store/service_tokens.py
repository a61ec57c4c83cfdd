"""Service tokens, by their keyed hashes."""

import hmac
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Final
from uuid import UUID

from contracts.access.service_tokens import TokenRequest, TokenStored
from ledger_service.store.queries import load

if TYPE_CHECKING:
    import asyncpg

    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)


def hash_of(token: str, key: bytes) -> bytes:
    """32 bytes, of which nobody without the key can say whether a token has them."""
    return hmac.digest(key, token.encode(), sha256)


async def find_token(connection: "Connection", token_hash: bytes) -> TokenStored | None:
    """One that is neither revoked nor expired."""
    return _stored(await connection.fetchrow(SQL["find"], token_hash))


async def knows_token(connection: "Connection", token_hash: bytes) -> bool:
    """Whether it was ever added, whatever became of it."""
    return bool(await connection.fetchval(SQL["knows"], token_hash))


async def add_token(
    connection: "Connection", token_id: UUID, request: TokenRequest, token_hash: bytes
) -> TokenStored | None:
    """None where the name has a token that is not revoked."""
    row = await connection.fetchrow(
        SQL["add"],
        token_id,
        request.name,
        token_hash,
        [str(scope) for scope in request.scopes],
        request.account_id,
        request.expires_at,
    )
    return _stored(row)


async def list_tokens(connection: "Connection", *, also_ended: bool) -> list[TokenStored]:
    """The oldest first; with ``also_ended`` revoked and expired ones, too."""
    return [_read(row) for row in await connection.fetch(SQL["list"], also_ended)]


async def find_token_id(connection: "Connection", name: str) -> UUID | None:
    """Of the token that has the name now."""
    found: UUID | None = await connection.fetchval(SQL["find_by_name"], name)
    return found


async def revoke_token(connection: "Connection", token_id: UUID) -> tuple[TokenStored, bool] | None:
    """The token, and whether it was revoked just now; None where there is none. Idempotent, within a transaction."""
    before: bool | None = await connection.fetchval(SQL["is_revoked"], token_id)
    stored = _stored(await connection.fetchrow(SQL["revoke"], token_id))
    return None if stored is None else (stored, not before)


def _stored(row: "asyncpg.Record | None") -> TokenStored | None:
    return None if row is None else _read(row)


def _read(row: "asyncpg.Record") -> TokenStored:
    def moment(name: str) -> datetime | None:
        found: datetime | None = row[name]
        return found

    return TokenStored(
        token_id=str(row["token_id"]),
        name=row["name"],
        scopes=row["scopes"],
        account_id=row["account_id"],
        created_at=row["created_at"],
        expires_at=moment("expires_at"),
        revoked_at=moment("revoked_at"),
    )
