"""What PostgreSQL says of its own types, asked once and not by each connection."""

from typing import Any, Final

import asyncpg

#: PostgreSQL gives the types that a database defines for itself, which differ between databases, numbers from here on.
OWN_TYPES_FROM: Final = 10_000


def remember_types() -> None:
    """Connections of this process ask only the first time what an array of UUIDs, say, is made of.

    asyncpg asks on each connection anew, which takes 10 ms and more there, as PostgreSQL has to plan a large recursive
    query; a started ledger has nine of them. Types below OWN_TYPES_FROM are the same in every database.
    """
    # asyncpg gives no other way to hand connections what is known of a type; mypy knows none of its private parts.
    connection: Any = asyncpg.Connection
    ask = connection._introspect_types
    known: dict[frozenset[int], Any] = {}  # to asyncpg's own rows, and the statement that they came from

    async def introspect(self: Any, oids: set[int], timeout: float) -> Any:  # noqa: ASYNC109  as asyncpg's
        wanted = frozenset(oids)
        if wanted in known:
            return known[wanted]
        found = await ask(self, oids, timeout)
        if max(wanted) < OWN_TYPES_FROM:
            known[wanted] = found
        return found

    connection._introspect_types = introspect
