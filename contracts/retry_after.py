"""The header Retry-After of an answer (RFC 9110, 10.2.3), which anybody may have written."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

#: Whoever asks for more is as good as gone; the caller has a bound of its own.
SECONDS_MAX: Final = 999_999_999.0
#: Providers send decimals, too.
_SECONDS: Final = re.compile(r"[0-9]+(\.[0-9]+)?")


def retry_after_seconds(given: str | None, now: datetime) -> float | None:
    """How long to wait, never less than 0; None where the header is not there, or neither seconds nor a date."""
    text = (given or "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), SECONDS_MAX)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter of numbers that no date has
        return None
    return max(0.0, ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now).total_seconds())
