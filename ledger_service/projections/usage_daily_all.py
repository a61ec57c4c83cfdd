"""Totals of all accounts per day (UTC) by operation, provider, model and outcome, for analytics."""

from typing import Final

from ledger_service.projections.projection import Projection
from ledger_service.store.queries import load

#: Written together with usage_hourly_all, and compared with that.
PROJECTION: Final = Projection(
    name="usage_daily_all",
    rebuild_sql=load(__name__)["rebuild"],
    by_account=False,
    sums_up="usage_hourly_all",
    sums=("calls", "units", "cost_nanos", "failures"),
)
