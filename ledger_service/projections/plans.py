"""Plans, as administration last put them."""

from typing import Final

from ledger_service.projections.projection import Projection
from ledger_service.store.queries import load

PROJECTION: Final = Projection(
    name="plans",
    rebuild_sql=load(__name__)["rebuild"],
    by_account=False,
    json_by_meaning=("body",),
    remembered=True,
)
