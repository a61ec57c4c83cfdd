"""How rows of the usage log are written as FOCUS."""

from typing import Final

from ledger_service.store.queries import load

SQL: Final = load(__name__)
