"""What the log says, as relations that projections are rebuilt from; each may read those before it and ``events``."""

from collections.abc import Mapping
from typing import Final

from contracts.events import COMPLETED_V1, FAILED_V1
from ledger_service.store.queries import load

RELATIONS: Final[Mapping[str, str]] = load(__name__)
#: Those that are read more than once, and too long in the making for that.
KEPT: Final = frozenset({"administration", "facts", "ends", "leased", "closings", "closed_months"})
#: The outcomes that facts.sql reads. A new version of one needs its shape there.
OUTCOME_TYPES: Final = frozenset({COMPLETED_V1, FAILED_V1})
