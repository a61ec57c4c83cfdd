"""Something could not enter the log."""

from datetime import datetime
from typing import Final

from contracts.notifications.kind import Audience, Data, Feed, Kind


class DeadLetterOpened(Data):
    """A letter that nobody has dealt with: a new one, or one that was closed and came again. ``account_id`` is what its
    bytes claim; they themselves are at ``GET /v1/dead-letters/{dead_letter_id}``."""

    dead_letter_id: int
    code: str
    detail: str
    origin: str
    subject: str | None
    account_id: str | None
    received_count: int
    first_received_at: datetime


KIND: Final = Kind("dead_letter.opened", Feed.LETTERS, "dead_letter", Audience.OPERATORS, DeadLetterOpened)
