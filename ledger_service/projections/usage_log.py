"""One row per finished operation."""

from typing import Final

from ledger_service.projections.projection import Projection
from ledger_service.store.queries import load

_SQL: Final = load(__name__)

_IN: Final = "coalesce(t.booked_period, own_period(t.occurred_at)) in (select month from usage_archives where {0})"

PROJECTION: Final = Projection(
    name="usage_log",
    apply_sql=_SQL["apply"],
    rebuild_sql=_SQL["rebuild"],
    archived_sql=_IN.format("state = 'archived'"),
    moving_sql=_IN.format("state in ('removing', 'restoring')"),
    trusted={"months in archives": "their totals are compared; `ledger archives --check` reads their files"},
)
