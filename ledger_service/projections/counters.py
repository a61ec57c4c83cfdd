"""What limits compare with: settles holds, adds what was used."""

from typing import Final

from ledger_service.store.queries import load

APPLY: Final = load(__name__)["apply"]
