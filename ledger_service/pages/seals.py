"""Seals: signed checkpoints over the log, how far behind they are, and how to check them without the ledger."""

from typing import Final

from contracts.web.own_api import ApiProblem
from contracts.web.pages import Page, Shown, View, Visit
from ledger_service.pages.groups import ADMINS, READERS, RUNNING
from ledger_service.pages.status import OVERSEERS, figures_of

_ROWS: Final = 25


async def _show(visit: Visit) -> Shown:
    before = visit.asked("before")
    try:
        page = (await visit.api.get("/v1/seals", {"before": before, "limit": _ROWS})).json
        keys = (await visit.api.get("/v1/seals/key")).json
    except ApiProblem as error:
        if error.problem.status != 404:
            raise
        return View("seals.html", {"page": None, "keys": None, "state": None, "why": error.problem.detail})
    told = {"page": page, "keys": keys, "state": None, "why": "", "before": before}
    if visit.principal.scopes & OVERSEERS and visit.principal.account_id is None:
        figures = figures_of((await visit.api.get("/v1/status")).json)
        told["state"] = figures[-1]
    return View("seals.html", told)


PAGE = Page("/seals", "Seals", _show, menu="Seals", group=RUNNING, scopes=READERS | ADMINS, asks=frozenset({"before"}))
