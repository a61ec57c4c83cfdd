"""A month was closed."""

from datetime import date
from typing import Final

from contracts.notifications.kind import Audience, Data, Feed, Kind


class PeriodClosed(Data):
    """The month (UTC, its first day) and all before it are closed. ``account_id`` null: for all accounts."""

    account_id: str | None
    period: date
    author: str
    reason: str


KIND: Final = Kind("period.closed", Feed.LOG, "ledger.period.closed.v1", Audience.ACCOUNTS, PeriodClosed)
