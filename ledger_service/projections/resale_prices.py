"""What customers are charged, as administration last put it."""

from typing import Final

from ledger_service.projections.projection import Projection
from ledger_service.store.queries import load

PROJECTION: Final = Projection(name="resale_prices", rebuild_sql=load(__name__)["rebuild"])
