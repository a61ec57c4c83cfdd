"""Producers with journals and their holes."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from contracts.problems import Problem
from contracts.web.own_api import ApiProblem, Document
from contracts.web.pages import Action, Page, Redirect, Shown, View, Visit
from ledger_service.pages.groups import ADMINS, RUNNING
from ledger_service.pages.limit_forms import whole
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
    told = {"rows": rows, "only_holes": only_holes, "next_cursor": page["next_cursor"]}
    return View("sources.html", {**told, "may_give_up": _GIVE_UP.opens_to(visit.principal)})


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


async def _ask(visit: Visit) -> Shown:
    return _form({"reason": "", **{name: visit.asked(name) for name in _ABOUT}})


def _form(asked: Mapping[str, str], problem: Problem | None = None) -> Shown:
    return View("give_up.html", {"asked": asked, "problem": problem}, problem.status if problem else 200)


async def _give_up(visit: Visit) -> Shown:
    asked = {name: visit.given(name).strip() for name in (*_ABOUT, "reason")}
    numbers = {name: whole(asked[name]) for name in _NUMBERS}
    try:
        done = (await visit.api.send("POST", "/v1/sources:give-up", {**asked, **numbers})).json
    except ApiProblem as error:
        return _form(asked, error.problem)
    count = sum(last - first + 1 for first, last in done["numbers"])
    said = f"Given up: {count:,} {'number' if count == 1 else 'numbers'} of {done['source']}." if count else _NONE
    return Redirect("/sources", said)


_NUMBERS: Final = ("first_sequence", "last_sequence")
_ABOUT: Final = ("source", *_NUMBERS)
_NONE: Final = "None of these is missing: nothing was changed."
_TITLE: Final = "Give missing numbers up"
_GIVE_UP: Final = Page("/sources/give-up", _TITLE, _ask, scopes=ADMINS, for_all=True, asks=frozenset(_ABOUT))

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

PAGES: Final = (PAGE, _GIVE_UP, Action("/sources/give-up", _TITLE, _give_up, scopes=ADMINS, for_all=True))
