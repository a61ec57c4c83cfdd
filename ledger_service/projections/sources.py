"""Which events of each producer are committed."""

from typing import Final

from ledger_service.projections.projection import Projection
from ledger_service.store.queries import load

PROJECTION: Final = Projection(
    name="sources",
    rebuild_sql=load(__name__)["rebuild"],
    by_account=False,
    sums=("recorded", "given_up"),
    untold=("updated_at", "holes_since"),
    trusted={
        "holes_since": "when numbers came out of their order is in no event",
        "updated_at": "repeats move it too, and are in no event",
        "numbers of dead letters": "what could not enter the log is confirmed as long as its letter is kept",
    },
)
