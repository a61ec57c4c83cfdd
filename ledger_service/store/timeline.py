"""The history of the database that this process is of.

A standby that takes over may lack what was committed last, as a backup does that is put in the server's place. What a
process remembers of plans and credit is then of another history, and totals lack what only the stream still has. A
process that starts closes that gap before it decides anything; one that runs would decide before it had looked.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import asyncpg
import structlog

from ledger_service.store.queries import load

if TYPE_CHECKING:
    from ledger_service.store.pool import Connection

SQL: Final = load(__name__)
#: What servers answer that somebody else manages, and that let nobody see their WAL.
_NOT_TOLD: Final = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.FeatureNotSupportedError,
    asyncpg.ObjectNotInPrerequisiteStateError,
)

log = structlog.get_logger()


class Timeline:
    """Looked at on each new connection of those that decide and record. Where the server does not tell, that is said
    once, and any will do."""

    def __init__(self, on_another: Callable[[], None]) -> None:
        """``on_another`` is to end the process: it is told each time, and no such connection is used."""
        self._on_another = on_another
        self._known: str | None = None
        self._is_unknown = False

    async def look(self, connection: "Connection") -> None:
        """Raises ConnectionError where the server is a standby, or of another history than the first one was."""
        try:
            found = await connection.fetchval(SQL["read"])
        except _NOT_TOLD as error:
            if not self._is_unknown:
                log.warning(
                    "timeline_is_unknown", reason=f"{error}: where a standby takes over, start the ledgers anew"
                )
            self._is_unknown = True
            return
        if found is None:
            raise ConnectionError("the server is a standby, which takes no writes")
        self._known = self._known or found
        if found != self._known:
            self._on_another()
            raise ConnectionError("another server has taken the database's place: this process has to start anew")
