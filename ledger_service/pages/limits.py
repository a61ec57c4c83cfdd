"""An account's limits: what is used and held of each, when it is reached, what credit is left, and what holds it."""

from collections.abc import Mapping
from datetime import UTC, datetime

from contracts.web.own_api import ApiProblem, Document, path_of
from contracts.web.pages import Page, Shown, View, Visit
from ledger_service.pages.accounts_found import find_accounts
from ledger_service.pages.groups import LIMITS, READERS
from ledger_service.pages.words import (
    WINDOW_NAMES,
    forecast_words,
    moment_in,
    selected_words,
    short_moment,
    usage_log_of,
)

_HOLDS = 25
_ALERTS = 25


async def _show(visit: Visit) -> Shown:
    account_id = visit.account_id
    if account_id is None:
        return View("limits_choose.html", {"problem": None, **await find_accounts(visit)})
    now = datetime.now(UTC)
    of = {"account_id": account_id}
    try:
        standings = (await visit.api.get(path_of("/v1/accounts/{account_id}/limits:standing", **of))).json
    except ApiProblem as error:
        if error.problem.status not in (404, 422) or visit.principal.account_id is not None:
            raise
        found = await find_accounts(visit, account_id if error.problem.status == 404 else "")
        return View("limits_choose.html", {"problem": error.problem, **found}, error.problem.status)
    grants = (await visit.api.get(path_of("/v1/accounts/{account_id}/credit-grants", **of))).json["grants"]
    holds = (await visit.api.get(path_of("/v1/accounts/{account_id}/holds", **of), {"limit": _HOLDS})).json
    alerts = (await visit.api.get(path_of("/v1/accounts/{account_id}/alerts", **of), {"limit": _ALERTS})).json
    told = {
        "title": f"Limits of {account_id}" if visit.principal.account_id is None else "Limits",
        "account_id": account_id,
        "is_one_of_many": visit.principal.account_id is None,
        "standings": standings,
        "limits": [_row(account_id, one, now) for one in standings["limits"]],
        "callers": [_row(account_id, one, now) for one in standings["callers"]],
        "grants": sorted(grants, key=lambda one: (_is_over(one, now), one["expires_at"] or "9999", one["grant_id"])),
        "now_text": now.isoformat(),
        "holds": holds["items"],
        "more_holds": holds["next_cursor"] is not None,
        "alerts": alerts["alerts"],
    }
    return View("limits.html", told)


def _row(account_id: str, limit: Document, now: datetime) -> Mapping[str, object]:
    """A limit, and what is said of it."""
    end = limit["period_end"]
    ends = moment_in(end) if end else None
    return {
        "limit": limit,
        "selected": selected_words(limit["selector"]),
        "words": _outlooks(limit, now),
        "window": WINDOW_NAMES[limit["window"]],
        "state": _state(limit),
        "ends": "never" if ends is None else short_moment(ends, now),
        "left_seconds": None if ends is None else (ends - now).total_seconds(),
        "usage_log": usage_log_of(account_id, limit),
    }


def _outlooks(limit: Document, now: datetime) -> list[str]:
    """When it is reached, by the pace of the period and by that of the last day, where they differ."""
    by_period, recent = (forecast_words(limit[name], now) for name in ("forecast", "recent"))
    if "reached" in (by_period, recent):
        return []
    if not by_period:
        return [f"by the last 24 h {'not in sight' if recent == 'not in this period' else recent}"]
    return [by_period] if recent in ("", by_period) else [by_period, f"by the last 24 h {recent}"]


def _state(limit: Document) -> tuple[str, str]:
    """What kind of tag, and its word."""
    outlooks = {one["outlook"] for one in (limit["forecast"], limit["recent"]) if one}
    if "reached" in outlooks:
        return ("warn", "over, only warns") if limit["mode"] == "soft" else ("bad", "reached")
    if "in_period" in outlooks:
        return "warn", "will be reached"
    return "good", "room"


def _is_over(grant: Document, now: datetime) -> bool:
    ended = grant["ended_at"] or grant["expires_at"]
    return ended is not None and moment_in(ended) <= now


PAGE = Page(
    "/limits",
    "Limits",
    _show,
    menu="Limits",
    group=LIMITS,
    scopes=READERS,
    asks=frozenset({"account_id", "prefix", "cursor"}),
)
