"""When a limit is reached if use goes on as it did. Pure."""

from datetime import datetime, timedelta

from contracts.standings import Forecast, Outlook


def forecast(available: int, used: int, since: datetime, now: datetime, end: datetime) -> Forecast:
    """``used`` since ``since`` is the pace; ``available`` is left, and ``end`` is when the period ends.

    Amounts are calls, units or nano-dollars. Use is taken to go on evenly, so it says little of a period that has just
    begun.
    """
    if available <= 0:
        return Forecast(outlook=Outlook.REACHED, at=None, since=since)
    elapsed = (now - since).total_seconds()
    if used <= 0 or elapsed <= 0:
        return Forecast(outlook=Outlook.UNUSED, at=None, since=since)
    seconds = available * elapsed / used
    # Compared as seconds first: a moment that far away may be none that there is.
    if seconds >= (end - now).total_seconds():
        return Forecast(outlook=Outlook.NOT_IN_PERIOD, at=None, since=since)
    return Forecast(outlook=Outlook.IN_PERIOD, at=now + timedelta(seconds=seconds), since=since)
