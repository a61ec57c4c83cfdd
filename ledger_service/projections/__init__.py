"""Projections of the log. Each folds the rows of ``incoming``, one batch of events new to the log, into its table."""

from dataclasses import dataclass
from typing import Final

from ledger_service.projections import counters, usage_log, usage_summary


@dataclass(frozen=True)
class Projection:
    """``under_lock``: reads or writes what limit checks decide on, so it runs once the accounts are locked."""

    name: str
    apply_sql: str
    under_lock: bool


#: In the order in which ingest applies them. Those without the lock come first, to hold it as briefly as can be.
PROJECTIONS: Final = (
    Projection("usage_summary", usage_summary.APPLY, under_lock=False),
    Projection("usage_log", usage_log.APPLY, under_lock=True),
    Projection("counters", counters.APPLY, under_lock=True),
)
