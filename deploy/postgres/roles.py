"""The roles of roles.sql, made on a server, with passwords."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import asyncpg

from ledger_service.store.privileges import set_password

OWNER: Final = "ledger_owner"
SERVICE: Final = "ledger_service"
FINANCE: Final = "finance"
AUDITOR: Final = "auditor"
ROLES: Final = (OWNER, SERVICE, FINANCE, AUDITOR)

SQL: Final = Path(__file__).with_suffix(".sql")
ATTEMPTS_MAX: Final = 5


async def make_roles(admin_url: str, passwords: Mapping[str, str]) -> None:
    """Makes the roles in the database of ``admin_url``, whose user may do so, and gives those named a password.

    Safe to run again, and for several databases of one server at once: roles are the server's.
    """
    connection = await asyncpg.connect(admin_url)
    try:
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                async with connection.transaction():
                    await connection.execute(SQL.read_text())
                    for name, password in passwords.items():
                        await set_password(connection, name, password)
                return
            except asyncpg.InternalServerError:
                # "tuple concurrently updated": somebody else changes the same role at this moment.
                if attempt == ATTEMPTS_MAX:
                    raise
    finally:
        await connection.close()
