"""Months that are closed, each written with its event."""

from typing import Final

from ledger_service.projections.projection import Projection
from ledger_service.store.queries import load

PROJECTION: Final = Projection(name="period_closings", rebuild_sql=load(__name__)["rebuild"])
