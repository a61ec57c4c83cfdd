"""Operations in doubt: what each kind means, what it costs meanwhile, and what to do about it."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from contracts.in_doubt import Doubt
from contracts.web.own_api import ApiProblem, Document
from contracts.web.pages import Page, Shown, View, Visit
from ledger_service.pages.groups import READERS, RUNNING

_ROWS: Final = 25
_MINUTES: Final = "15"


@dataclass(frozen=True)
class _Kind:
    doubt: Doubt
    title: str
    meaning: str
    #: What ``ended_at`` is.
    ended: str
    none: str


_KINDS: Final = (
    _Kind(
        "outcome_unknown",
        "Outcome unknown",
        "Their provider was called, and nobody could say what it did. They are counted at what was held. Compare them "
        "with the provider's invoice (ledger reconcile, deploy/guides/reconciliation.md): what it billed is a "
        "re-rating, what it did not is a void. Either takes them from this list.",
        "Given up",
        "Every outcome is known, or has been corrected.",
    ),
    _Kind(
        "open",
        "Still open",
        "Admitted, and without an outcome for longer than operations take. Either they run, or their producer is gone: "
        "GET /v1/in-doubt of the image service says which, with the provider's job. What is held comes back by itself.",
        "Hold ends",
        "No hold has been open for so long.",
    ),
    _Kind(
        "expired",
        "Expired without an outcome",
        "Nothing is held for them any more, nor counted. An outcome that still comes counts. Where a producer "
        "died with its journal, the provider's invoice has them: ledger reconcile --missing-to books them.",
        "Hold ended",
        "Every hold ended with an outcome, or was released.",
    ),
)


async def _show(visit: Visit) -> Shown:
    minutes, only = visit.asked("minutes", _MINUTES) or _MINUTES, visit.asked("doubt")
    told: dict[str, object] = {
        "minutes": minutes,
        "only": only,
        "account_id": visit.account_id or "",
        "problem": None,
        "parts": [],
    }
    try:
        parts = [(kind, await _part(visit, kind, minutes)) for kind in _KINDS if only in ("", kind.doubt)]
    except ApiProblem as error:
        if error.problem.status != 422:
            raise
        return View("in_doubt.html", {**told, "problem": error.problem}, 422)
    sums = [sum((Decimal(one["cost"]) for one in page["items"]), Decimal()) for _, page in parts]
    return View("in_doubt.html", {**told, "parts": [(*part, total) for part, total in zip(parts, sums, strict=True)]})


async def _part(visit: Visit, kind: _Kind, minutes: str) -> Document:
    asked: dict[str, str | int | float | None] = {"doubt": kind.doubt, "account_id": visit.account_id, "limit": _ROWS}
    if kind.doubt == "open":
        asked["older_than_seconds"] = float(minutes) * 60 if minutes.isascii() and minutes.isdigit() else minutes
    if visit.asked("doubt") == kind.doubt:
        asked["cursor"] = visit.asked("cursor")
    return (await visit.api.get("/v1/operations:in-doubt", asked)).json


PAGE = Page(
    "/in-doubt",
    "Operations in doubt",
    _show,
    menu="In doubt",
    group=RUNNING,
    scopes=READERS,
    asks=frozenset({"account_id", "minutes", "doubt", "cursor"}),
)
