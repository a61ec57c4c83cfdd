"""Totals of all accounts per hour (UTC) by operation, provider, model and outcome, for analytics."""

from typing import Final

from ledger_service.projections.projection import Projection
from ledger_service.store.queries import load

_SQL: Final = load(__name__)

#: Its rows are many accounts' and locked until the transaction ends, so it is the last of what ingest writes, and in
#: one order. It is compared with what it sums, which is compared with the log: that saves reading the log once more.
PROJECTION: Final = Projection(
    name="usage_hourly_all",
    apply_sql=_SQL["apply"],
    rebuild_sql=_SQL["rebuild"],
    by_account=False,
    sums_up="usage_hourly",
    sums=("calls", "units", "cost_nanos", "failures"),
)
