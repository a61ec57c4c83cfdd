"""Events of a source are missing."""

from datetime import datetime
from typing import Final

from contracts.notifications.kind import Audience, Data, Feed, Kind


class SourceHoleFound(Data):
    """Later numbers of the source came, and these (inclusive) did not, for as long as LEDGER_HOLE_SECONDS says."""

    source: str
    first_sequence: int
    last_sequence: int
    missing_since: datetime


KIND: Final = Kind("source.hole_found", Feed.HOLES, "source_hole", Audience.OPERATORS, SourceHoleFound)
