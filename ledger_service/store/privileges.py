"""Who may do what in the database: the owner of the tables, the role that the services run under, which only appends
to the log, and those that only read. See deploy/postgres/roles.sql."""

import hmac
import secrets
from base64 import b64encode
from hashlib import pbkdf2_hmac, sha256
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import asyncpg

from ledger_service.store.migrations import MigrationError
from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)

#: Roles that only read, and what gives each its rights.
READERS: Final = {"finance": "let_report", "auditor": "let_audit"}
#: Tables that the ledger's own role appends to, and may not change; and what only migrations write.
APPEND_ONLY: Final = ("event_log", "outcome_effects", "seals", "seal_nodes")
READ_ONLY: Final = ("schema_migrations",)
#: Keys, and hashes of tokens.
NOBODY_READS: Final = ("signing_keys", "service_tokens")

_ITERATIONS: Final = 4096
_SALT_BYTES: Final = 16


async def let_serve(owner_url: str, service_url: str) -> None:
    """Gives the role of ``service_url`` what the services need, and no more. Safe to run again.

    Makes the role, with the URL's password, where there is none. Raises MigrationError where that is not possible, or
    the role is the owner itself.
    """
    parts = urlsplit(service_url)
    service, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not service:
        raise MigrationError("LEDGER_DATABASE_URL names no role: postgresql://ROLE:PASSWORD@HOST/DATABASE")
    connection = await asyncpg.connect(owner_url)
    try:
        if await connection.fetchval("select current_user") == service:
            raise MigrationError(
                "LEDGER_DATABASE_URL and LEDGER_OWNER_DATABASE_URL name the same role: the owner could rewrite the log"
            )
        if not await connection.fetchval(SQL["role_exists"], service):
            await _create_role(connection, service, password)
        async with connection.transaction():
            await connection.execute(SQL["let_serve"], service)
    finally:
        await connection.close()


async def let_read(owner_url: str) -> list[str]:
    """Gives the READERS what each may see, and no more, where deploy/postgres/roles.sql made them; answers their names.

    Safe to run again.
    """
    connection = await asyncpg.connect(owner_url)
    try:
        async with connection.transaction():
            found = await find_readers(connection)
            for name in found:
                await connection.execute(SQL[READERS[name]], name)
    finally:
        await connection.close()
    return found


async def find_readers(connection: "Connection") -> list[str]:
    """Those of READERS that deploy/postgres/roles.sql made for this database."""
    return [row["rolname"] for row in await connection.fetch(SQL["readers"], list(READERS))]


async def set_password(connection: "Connection", name: str, password: str) -> None:
    """Gives a role a password, of which the server, and its log, get what SCRAM keeps."""
    statement = await connection.fetchval(SQL["password_statement"], name, _verifier(password))
    await connection.execute(statement)


async def _create_role(connection: "Connection", name: str, password: str) -> None:
    if not password or not password.isascii():
        raise MigrationError(f"there is no role {name}, and LEDGER_DATABASE_URL has no password to make it with")
    statement = await connection.fetchval(SQL["create_role_statement"], name, _verifier(password))
    try:
        await connection.execute(statement)
    except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
        pass  # somebody else made it just now
    except asyncpg.InsufficientPrivilegeError:
        raise MigrationError(
            f"there is no role {name}, and the owner may not make one: create role {name} login password '…'"
        ) from None


def _verifier(password: str) -> str:
    """What the server keeps of a password (RFC 5803), so that the password itself is in no log of statements."""
    salt = secrets.token_bytes(_SALT_BYTES)
    salted = pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored = sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${_ITERATIONS}:{encoded[0]}${encoded[1]}:{encoded[2]}"


async def may_rewrite(connection: "Connection") -> bool:
    """Whether this connection's role could change or remove what is in the log, which a service's should not."""
    return bool(await connection.fetchval(SQL["may_rewrite"], list(APPEND_ONLY)))
