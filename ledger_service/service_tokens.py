"""Service tokens: made, found, revoked. Each change is an event in the log, without the token."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from pydantic import SecretStr

from contracts.access.principal import Principal
from contracts.access.service_tokens import BootstrapToken, TokenMade, TokenRequest, TokenStored, make_token
from contracts.identifiers import uuid7
from contracts.problems import CONFLICT, NOT_FOUND, ProblemError
from ledger_service.administration import log_change
from ledger_service.domain.ledger_events import NO_ACCOUNT, TOKEN_MADE, TOKEN_REVOKED
from ledger_service.store.pool import Connection, Pool
from ledger_service.store.service_tokens import (
    add_token,
    find_token,
    find_token_id,
    hash_of,
    knows_token,
    list_tokens,
    revoke_token,
)
from ledger_service.store.signing_keys import find_or_make_key

KEY_PURPOSE: Final = "service-tokens"


async def hashing_key(connection: Connection, chosen: SecretStr | None) -> bytes:
    """What the settings say, which keeps it out of the database; else the ledger's own."""
    if chosen is not None:
        return chosen.get_secret_value().encode()
    return await find_or_make_key(connection, KEY_PURPOSE)


class ServiceTokens:
    """What is known of tokens, on the ledger's database."""

    def __init__(self, pool: Pool, key: bytes) -> None:
        self._pool = pool
        self._key = key

    async def find(self, token: str) -> Principal | None:
        """Whose it is; None where it is nobody's now. Raises what asyncpg raises where the database is away."""
        async with self._pool.acquire() as connection:
            found = await find_token(connection, hash_of(token, self._key))
        return None if found is None else found.principal()

    async def make(self, request: TokenRequest) -> TokenMade:
        """Raises ProblemError (conflict) where the name is taken."""
        async with self._pool.acquire() as connection:
            return await make_service_token(connection, self._key, request)

    async def revoke(self, token_id: UUID) -> TokenStored:
        """Idempotent. Raises ProblemError (not_found)."""
        async with self._pool.acquire() as connection:
            return await revoke_service_token(connection, token_id)

    async def list(self, *, also_ended: bool) -> list[TokenStored]:
        async with self._pool.acquire() as connection:
            return await list_tokens(connection, also_ended=also_ended)


async def make_service_token(connection: Connection, key: bytes, request: TokenRequest) -> TokenMade:
    """Raises ProblemError (conflict) where the name is taken."""
    token = make_token()
    async with connection.transaction():
        stored = await _add(connection, key, request, token)
    if stored is None:
        raise ProblemError(CONFLICT, f"there is a token {request.name} already: revoke it, or take another name")
    return TokenMade(**dict(stored), token=token)


async def revoke_service_token(connection: Connection, token_id: UUID) -> TokenStored:
    """Idempotent. Raises ProblemError (not_found)."""
    async with connection.transaction():
        revoked = await revoke_token(connection, token_id)
        if revoked is None:
            raise ProblemError(NOT_FOUND, f"there is no token {token_id}")
        stored, now = revoked
        if now:
            await log_change(connection, TOKEN_REVOKED, NO_ACCOUNT, stored)
    return stored


async def know_tokens(connection: Connection, key: bytes, tokens: Sequence[BootstrapToken]) -> list[TokenStored]:
    """Makes tokens known that the deployment chose; answers those that are new. Safe to run again.

    A name's new token takes the place of its old one, which is revoked. One that was revoked stays so.
    """
    made = []
    for one in tokens:
        token = one.token.get_secret_value()
        async with connection.transaction():
            if await knows_token(connection, hash_of(token, key)):
                continue
            before = await find_token_id(connection, one.name)
            if before is not None:
                await revoke_service_token(connection, before)
            request = TokenRequest(**one.model_dump(exclude={"token"}))
            stored = await _add(connection, key, request, token)
            assert stored is not None, "the name was free, and migrations run one at a time"
            made.append(stored)
    return made


async def _add(connection: Connection, key: bytes, request: TokenRequest, token: str) -> TokenStored | None:
    stored = await add_token(connection, uuid7(), request, hash_of(token, key))
    if stored is not None:
        await log_change(connection, TOKEN_MADE, NO_ACCOUNT, stored)
    return stored
