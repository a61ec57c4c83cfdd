"""One row per limit check, and what became of its hold. Written with the events of checks, and by counters.sql."""

from typing import Final

from ledger_service.projections.projection import Projection
from ledger_service.store import denials
from ledger_service.store.queries import load

PROJECTION: Final = Projection(
    name="decisions", rebuild_sql=load(__name__)["rebuild"], replaced_sql=denials.SQL["forget_counted"]
)
