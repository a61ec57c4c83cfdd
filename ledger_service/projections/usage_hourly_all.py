"""Totals of all accounts per hour (UTC) by operation, provider, model and outcome, for analytics."""

from typing import Final

from ledger_service.projections.projection import Projection
from ledger_service.store.queries import load

#: Written together with usage_hourly. It is compared with that, which is compared with the log: reading the log once
#: more would double what a verification takes.
PROJECTION: Final = Projection(
    name="usage_hourly_all",
    rebuild_sql=load(__name__)["rebuild"],
    by_account=False,
    sums_up="usage_hourly",
    sums=("calls", "units", "cost_nanos", "failures"),
)
