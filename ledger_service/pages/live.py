"""Operations as they happen. The list is made here; a script lets what comes appear on top of it."""

from typing import Final

from contracts.web.own_api import ApiProblem, query_of
from contracts.web.pages import Page, Shown, View, Visit
from ledger_service.pages.groups import READERS, RUNNING

_ROWS: Final = 50
_WHAT: Final = ("requested", "completed", "failed", "denied")
TAGS: Final = {"completed": "good", "failed": "bad", "denied": "warn", "requested": ""}
_FILTERS: Final = ("operation", "provider", "what")


async def _show(visit: Visit) -> Shown:
    chosen = {name: visit.asked(name) for name in _FILTERS}
    asked = {**chosen, "account_id": visit.account_id}
    told = {
        "reload": query_of(asked),
        "chosen": chosen,
        "account_id": visit.account_id or "",
        "all_what": _WHAT,
        "tags": TAGS,
    }
    try:
        recent = (await visit.api.get("/v1/operations:recent", {**asked, "limit": _ROWS})).json
    except ApiProblem as error:
        if error.problem.status != 422:
            raise
        return View("live.html", {**told, "problem": error.problem, "rows": [], "stream": ""}, 422)
    stream = f"/v1/operations:stream?{query_of({**asked, 'after': recent['last_id'] or '0-0'})}"
    return View("live.html", {**told, "problem": None, "rows": recent["items"], "stream": stream})


PAGE = Page(
    "/live",
    "Operations live",
    _show,
    menu="Live",
    group=RUNNING,
    scopes=READERS,
    asks=frozenset({*_FILTERS, "account_id"}),
)
