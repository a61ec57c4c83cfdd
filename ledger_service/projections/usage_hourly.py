"""Totals per account and hour (UTC) by operation, provider, model and outcome, for analytics."""

from typing import Final

from ledger_service.projections.projection import Projection
from ledger_service.store.queries import load

_SQL: Final = load(__name__)

#: Under the lock of its account, which whoever writes a row of it has, so that no two wait for each other's; and the
#: last of what ingest writes: rows of usage_hourly_all are many accounts', and locked until the transaction ends.
PROJECTION: Final = Projection(
    name="usage_hourly",
    apply_sql=_SQL["apply"],
    rebuild_sql=_SQL["rebuild"],
    sums=("calls", "units", "cost_nanos", "failures"),
)
