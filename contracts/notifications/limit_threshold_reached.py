"""A threshold of a limit was reached: once for each window."""

from datetime import datetime
from typing import Final

from contracts.notifications.kind import Audience, Data, Feed, Kind


class LimitThresholdReached(Data):
    """So many percent of a limit are used, settled and held. ``maximum`` and ``used`` are decimal strings where the
    meter is ``cost``. ``scope_key``: of whom, where the limit is not the account's."""

    account_id: str
    limit_id: str
    scope_key: str
    meter: str
    period_start: datetime
    period_end: datetime
    threshold_percent: int
    maximum: int | str
    used: int | str


KIND: Final = Kind(
    "limit.threshold_reached", Feed.LOG, "ledger.limit.threshold_reached.v1", Audience.ACCOUNT, LimitThresholdReached
)
