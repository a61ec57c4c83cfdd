"""Who makes the change that is being made, for its event."""

from contracts.access.caller import CALLER
from contracts.changes import Author
from ledger_service.domain.authors import SYSTEM, author_of_call
from ledger_service.store.changes import database_role
from ledger_service.store.pool import Connection


async def author_now(connection: Connection) -> Author:
    """Whoever called over HTTP; where nobody did, a command runs, and all that is known is its role in the database."""
    principal = CALLER.get()
    if principal is not None:
        return author_of_call(principal)
    return Author(kind=SYSTEM, id=await database_role(connection))
