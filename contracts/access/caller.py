"""Who calls, for what is written while a call is served: known to its task alone, and to what that starts."""

from contextvars import ContextVar
from typing import Final

from contracts.access.principal import Principal

#: None: nobody called; a command, or the service's own work.
CALLER: Final[ContextVar[Principal | None]] = ContextVar("usage_ledger_caller", default=None)
