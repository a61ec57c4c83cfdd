"""Days and times as people write them into addresses and forms."""

from datetime import UTC, date, datetime, timedelta
from typing import Final

DAY: Final = timedelta(days=1)
#: Years that the API knows; what is further away is for it to refuse, and nothing to reckon with.
_YEARS: Final = range(2000, 2200)


def day_of(written: str) -> date | None:
    """None where it is no date, or none that the API takes."""
    try:
        day = date.fromisoformat(written)
    except ValueError:
        return None
    return day if day.year in _YEARS else None


def day_begun_at(moment: str) -> date | None:
    """The day (UTC) that begins at a moment; None where that is another time of day, no moment, or too far away."""
    try:
        read = datetime.fromisoformat(moment).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    is_midnight = read == datetime(read.year, read.month, read.day, tzinfo=UTC)
    return read.date() if is_midnight and read.year in _YEARS else None
