"""What limits compare with: settles holds, adds what was used."""

from typing import Final

from ledger_service.projections.projection import Projection
from ledger_service.store.queries import load

_SQL: Final = load(__name__)

PROJECTION: Final = Projection(
    name="counters",
    apply_sql=_SQL["apply"],
    rebuild_sql=_SQL["rebuild"],
    sums=("settled", "held"),
    trusted={
        "which rows there are": "a counter is made by the first check that needs it, from the usage log and open holds",
        "watched": "the thresholds of the last limit check, as far as they make sense; the next check says them anew",
    },
)
