"""One row per finished operation."""

from typing import Final

from ledger_service.store.queries import load

APPLY: Final = load(__name__)["apply"]
