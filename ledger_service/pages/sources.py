"""Producers with journals and their holes."""

from datetime import UTC, datetime

from contracts.web.own_api import Document
from contracts.web.pages import Page, Shown, View, Visit
from ledger_service.pages.groups import RUNNING
from ledger_service.pages.status import OVERSEERS, Tag

_ROWS = 100
#: Numbers overtake each other on their way: what came out of order is there within seconds. As the alert EventsMissing.
_PATIENCE_SECONDS = 15 * 60


async def _show(visit: Visit) -> Shown:
    only_holes = visit.asked("holes") == "true"
    asked: dict[str, str | int | bool] = {"holes": only_holes, "cursor": visit.asked("cursor"), "limit": _ROWS}
    page = (await visit.api.get("/v1/sources", asked)).json
    now = datetime.now(UTC)
    rows = [(source, *judged(source, now), _ago(source["last_seen_at"], now)) for source in page["items"]]
    return View("sources.html", {"rows": rows, "only_holes": only_holes, "next_cursor": page["next_cursor"]})


def judged(source: Document, now: datetime) -> tuple[Tag, str]:
    """How it stands."""
    if not source["missing"]:
        return "good", "complete"
    since = datetime.fromisoformat(source["holes_since"]) if source["holes_since"] else now
    if (now - since).total_seconds() < _PATIENCE_SECONDS:
        return "warn", "on their way"
    return "bad", "missing"


def _ago(time: str, now: datetime) -> float:
    return max(0.0, (now - datetime.fromisoformat(time)).total_seconds())


PAGE = Page(
    "/sources",
    "Sources and their holes",
    _show,
    menu="Sources",
    group=RUNNING,
    scopes=OVERSEERS,
    for_all=True,
    asks=frozenset({"holes", "cursor"}),
)
