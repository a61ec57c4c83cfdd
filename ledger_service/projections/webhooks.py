"""Endpoints of webhooks, as administration last put them, or the ledger disabled them."""

from typing import Final

from ledger_service.projections.projection import Projection
from ledger_service.store.queries import load

PROJECTION: Final = Projection(name="webhooks", rebuild_sql=load(__name__)["rebuild"])
