"""Prepaid amounts, as administration last put them."""

from typing import Final

from ledger_service.projections.projection import Projection
from ledger_service.store.queries import load

_SQL: Final = load(__name__)

PROJECTION: Final = Projection(
    name="credit_grants", rebuild_sql=_SQL["rebuild"], replaced_sql=_SQL["replaced"], json_by_meaning=("body",)
)
