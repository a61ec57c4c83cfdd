"""Accounts: their plan and calendar, as administration last put them, or that they were ever seen."""

from typing import Final

from ledger_service.projections.projection import Projection
from ledger_service.store.queries import load

PROJECTION: Final = Projection(
    name="accounts",
    rebuild_sql=load(__name__)["rebuild"],
    trusted={
        "rows of version 0": "an account that only dry runs have named is in no event",
        "limits_version": "it may be higher than the number of changes, as a rebuild raises it",
    },
)
