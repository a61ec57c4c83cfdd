"""One row per finished operation."""

from typing import Final

from ledger_service.projections.projection import Projection
from ledger_service.store.queries import load

_SQL: Final = load(__name__)

PROJECTION: Final = Projection(name="usage_log", apply_sql=_SQL["apply"], rebuild_sql=_SQL["rebuild"])
