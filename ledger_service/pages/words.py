"""What pages say of limits, in words."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from contracts.web.own_api import Document, query_of
from contracts.web.rendering import duration

#: What a limit counts by, as a parameter of the usage log.
_CALLERS: Final = {"user": "user_id", "project": "project_id", "api_key": "api_key_id"}
WINDOW_NAMES: Final = {
    "minute": "this minute",
    "hour": "this hour",
    "day": "today",
    "month": "this month",
    "billing_period": "this billing period",
    "lifetime": "for ever",
}


def moment_in(text: str) -> datetime:
    """A time of the API's, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def short_moment(moment: datetime, now: datetime) -> str:
    """``27 Nov 14:00``, with the year where that is another one."""
    return f"{moment.day} {moment:%b}{'' if moment.year == now.year else f' {moment.year}'} {moment:%H:%M}"


def forecast_words(forecast: Document | None, now: datetime) -> str:
    """``in 3 d 4 h, on 27 Nov 14:00``; "" where nothing was foretold."""
    if forecast is None:
        return ""
    match forecast["outlook"]:
        case "reached":
            return "reached"
        case "in_period":
            at = moment_in(forecast["at"])
            return f"in {duration((at - now).total_seconds())}, on {short_moment(at, now)}"
        case "not_in_period":
            return "not in this period"
        case _:
            return "not used"


def selected_words(selector: Mapping[str, list[str]]) -> str:
    """``generate or edit · stability``; what selects nothing is about everything."""
    chosen = [" or ".join(selector[name]) for name in ("operation", "provider", "model") if selector.get(name)]
    return " · ".join(chosen) or "everything"


def usage_log_of(account_id: str, limit: Document) -> str:
    """The page with the rows of the usage log that a limit counts in its present period."""
    selector = limit["selector"]
    filters = {
        "account_id": account_id,
        "counted_from": limit["period_start"],
        "counted_to": limit["period_end"],
        **{name: selector[name] for name in ("operation", "provider", "model") if selector[name]},
        "outcome": None if limit["meter"] == "cost" else "counted",
    }
    if limit["scope_id"]:
        filters[_CALLERS[limit["scope"]]] = limit["scope_id"]
    return f"/usage-log?{query_of(filters)}"


def account_path(account_id: str) -> str:
    return f"/accounts/{quote(account_id, safe='')}"
