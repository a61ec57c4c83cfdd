"""Accounts near a limit: the fullest limits of all accounts."""

from datetime import UTC, datetime

from contracts.web.own_api import Document
from contracts.web.pages import Page, Shown, View, Visit
from ledger_service.pages.groups import ALL_READERS, LIMITS
from ledger_service.pages.words import WINDOW_NAMES, moment_in

_SHOWN = 100
#: From this share on it is a matter for somebody.
NEAR = 0.8


async def nearest(visit: Visit, limit: int) -> Document:
    """Their list, with what is said of each."""
    found = (await visit.api.get("/v1/limits:nearest", {"limit": limit})).json
    rows = [
        {"limit": one, "percent": one["share"] * 100, "window": WINDOW_NAMES[one["window"]], "state": _state(one)}
        for one in found["items"]
    ]
    age = (datetime.now(UTC) - moment_in(found["read_at"])).total_seconds()
    return {"rows": rows, "read_at": found["read_at"], "age_seconds": max(age, 0)}


async def _show(visit: Visit) -> Shown:
    found = await nearest(visit, _SHOWN)
    shares = [row["limit"]["share"] for row in found["rows"]]
    told = {
        **found,
        "reached": sum(share >= 1 for share in shares),
        "near": sum(NEAR <= share < 1 for share in shares),
        "is_cut": len(shares) == _SHOWN,
    }
    return View("near_limits.html", told)


def _state(limit: Document) -> tuple[str, str]:
    if limit["share"] >= 1:
        return ("warn", "over, only warns") if limit["mode"] == "soft" else ("bad", "reached")
    return ("warn", "near") if limit["share"] >= NEAR else ("good", "room")


PAGE = Page(
    "/near-limits", "Accounts near a limit", _show, menu="Near a limit", group=LIMITS, scopes=ALL_READERS, for_all=True
)
