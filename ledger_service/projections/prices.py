"""The price catalogue, as administration or the shipped file last put it."""

from typing import Final

from ledger_service.projections.projection import Projection
from ledger_service.store.queries import load

_SQL: Final = load(__name__)

PROJECTION: Final = Projection(
    name="prices",
    rebuild_sql=_SQL["rebuild"],
    replaced_sql=_SQL["replaced"],
    by_account=False,
    json_by_meaning=("body",),
    untold=("changed_in",),
    trusted={"changed_in": "the catalogue's version, which only tells ledger processes what to read again"},
)
