"""Keys that the ledger signs with: the same in all its processes, made once."""

import secrets
from typing import TYPE_CHECKING, Final

from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)
SECRET_BYTES: Final = 32


async def find_or_make_key(connection: "Connection", purpose: str) -> bytes:
    """The key for this purpose. Of processes that make one at once, the first makes it for all."""
    secret = await connection.fetchval(SQL["find"], purpose)
    if secret is None:
        await connection.execute(SQL["make"], purpose, secrets.token_bytes(SECRET_BYTES))
        secret = await connection.fetchval(SQL["find"], purpose)
    return bytes(secret)
