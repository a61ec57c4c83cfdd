"""The token that tests, benches and soaks send: one for everything, known to every ledger that they start."""

import json
from typing import Final

import asyncpg

from contracts.access.principal import Scope
from contracts.access.service_tokens import Introspection, TokenRequest
from contracts.identifiers import uuid7
from ledger_service.service_tokens import hashing_key
from ledger_service.store.service_tokens import add_token, hash_of

TOKEN: Final = "ult_" + "test" * 10 + "ing"
#: Request headers of whoever may do everything.
AUTHORIZED: Final = {"Authorization": f"Bearer {TOKEN}"}
_NAME: Final = "tests"
#: What makes `ledger migrate` tell the ledger of it.
BOOTSTRAP: Final = {"LEDGER_BOOTSTRAP_TOKENS": json.dumps([{"name": _NAME, "scopes": list(Scope), "token": TOKEN}])}


async def make_token_known(database_url: str) -> None:
    """To a database that was migrated without it; not to its log, which tests begin with empty."""
    connection = await asyncpg.connect(database_url)
    try:
        key = await hashing_key(connection, None)
        await add_token(connection, uuid7(), TokenRequest(name=_NAME, scopes=list(Scope)), hash_of(TOKEN, key))
    finally:
        await connection.close()


def introspected(token: str) -> Introspection:
    """What a ledger that knows only this token says of one."""
    if token != TOKEN:
        return Introspection(active=False)
    return Introspection(active=True, sub=_NAME, scope=" ".join(Scope))
