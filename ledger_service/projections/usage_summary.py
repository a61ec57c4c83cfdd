"""Totals per account and month by operation, provider and model."""

from typing import Final

from ledger_service.store.queries import load

APPLY: Final = load(__name__)["apply"]
