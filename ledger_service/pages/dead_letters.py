"""Dead letters: what could not be recorded, why, and what somebody does about it."""

import json
from collections.abc import Mapping
from typing import Final

from contracts.dead_letters import LETTERS_PER_REQUEST_MAX, LetterState, RedriveOutcome
from contracts.web.own_api import ApiProblem, Document, path_of
from contracts.web.pages import Action, Page, Redirect, Shown, View, Visit
from ledger_service.pages.groups import ADMINS, RUNNING

_ROWS: Final = 50
_ANY: Final = "any"
_LIST: Final = "/dead-letters"
_ONE: Final = "/dead-letters/{dead_letter_id}"
_SELECTED: Final = "/dead-letters/selected"
#: What narrows a list down, and what is then done to all of it; named as the API names them.
_FILTERS: Final = ("code", "account_id", "origin", "from", "to")
_SAID: Final = {
    RedriveOutcome.RECORDED: "It is recorded now.",
    RedriveOutcome.DUPLICATE: "It was in the log already; the letter is closed.",
    RedriveOutcome.CLOSED: "It had been redriven before.",
}


async def _list(visit: Visit) -> Shown:
    state = visit.asked("state", LetterState.OPEN.value)
    chosen = {name: visit.asked(name) for name in _FILTERS}
    asked: dict[str, str | int | list[str]] = {
        **chosen,
        "state": _states(state),
        "cursor": visit.asked("cursor"),
        "limit": _ROWS,
    }
    told = {"states": [*LetterState, _ANY], "state": state, "chosen": chosen, "problem": None, "page": None}
    try:
        page = (await visit.api.get("/v1/dead-letters", asked)).json
    except ApiProblem as error:
        if error.problem.status != 422:
            raise
        return View("dead_letters.html", {**told, "problem": error.problem}, 422)
    return View("dead_letters.html", {**told, "page": page})


def _states(state: str) -> list[str]:
    return [one.value for one in LetterState] if state == _ANY else [state]


async def _show_one(visit: Visit) -> Shown:
    return await _letter(visit, {})


async def _letter(visit: Visit, told: Mapping[str, object], status: int = 200) -> Shown:
    """A letter with its forms; ``told``: what was typed, and what was wrong with it."""
    letter = (await visit.api.get(_path(visit))).json
    around = {
        "letter": letter,
        "body": readable(letter),
        "author": _author(visit),
        "reason": visit.given("reason"),
        "event": visit.given("event"),
        "problem": None,
        "failed": "",
        "title": f"Dead letter {letter['dead_letter_id']}",
    }
    return View("dead_letter.html", {**around, **told}, status)


def _path(visit: Visit, act: str = "") -> str:
    name = str(visit.request.path_params["dead_letter_id"])
    return path_of("/v1/dead-letters/{dead_letter_id}", dead_letter_id=name) + act


def _author(visit: Visit) -> str:
    return visit.given("author") or visit.principal.subject


def readable(letter: Document) -> str:
    """The bytes for people: JSON with line breaks, else the text, else Base64."""
    text = letter["text"]
    if text is None:
        return str(letter["base64"])
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return str(text)


async def _redrive(visit: Visit) -> Shown:
    act: dict[str, object] = {"author": _author(visit), "reason": visit.given("reason")}
    if visit.given("event"):
        try:
            act["event"] = json.loads(visit.given("event"))
        except (ValueError, RecursionError) as error:
            return await _letter(visit, {"failed": f"The corrected copy is not JSON: {error}"}, 422)
    try:
        done = (await visit.api.send("POST", _path(visit, ":redrive"), act)).json
    except ApiProblem as error:
        return await _letter(visit, {"problem": error.problem}, error.problem.status)
    if done["outcome"] == RedriveOutcome.REFUSED:
        # Its new reason stands on the page.
        return await _letter(visit, {"failed": "It was refused again, for the reason below, and stays open."}, 422)
    return Redirect(f"{_LIST}/{done['dead_letter']['dead_letter_id']}", _SAID[RedriveOutcome(done["outcome"])])


async def _discard(visit: Visit) -> Shown:
    act = {"author": _author(visit), "reason": visit.given("reason")}
    try:
        letter = (await visit.api.send("POST", _path(visit, ":discard"), act)).json
    except ApiProblem as error:
        return await _letter(visit, {"problem": error.problem}, error.problem.status)
    return Redirect(f"{_LIST}/{letter['dead_letter_id']}", "Discarded: it does not count. Its bytes stay.")


async def _ask_for_all(visit: Visit) -> Shown:
    return await _selection(visit, {name: visit.asked(name) for name in _FILTERS}, {})


async def _selection(visit: Visit, chosen: Mapping[str, str], told: Mapping[str, object], status: int = 200) -> Shown:
    """What is selected, and the two forms that do something about all of it: nothing is done before one is sent."""
    page = (await visit.api.get("/v1/dead-letters", {**chosen, "limit": _ROWS})).json
    around = {
        "chosen": chosen,
        "page": page,
        "author": _author(visit),
        "reason": visit.given("reason"),
        "at_once": LETTERS_PER_REQUEST_MAX,
        "problem": None,
    }
    return View("dead_letters_selected.html", {**around, **told}, status)


async def _act_on_all(visit: Visit) -> Shown:
    chosen = {name: visit.given(name) for name in _FILTERS}
    what = "discard" if visit.given("act") == "discard" else "redrive"
    select = {name: value for name, value in chosen.items() if value}
    act = {"author": _author(visit), "reason": visit.given("reason"), "select": select}
    try:
        done = (await visit.api.send("POST", f"/v1/dead-letters:{what}", act)).json
    except ApiProblem as error:
        return await _selection(visit, chosen, {"problem": error.problem}, error.problem.status)
    told = ", ".join(f"{number} {outcome}" for outcome, number in sorted(done["outcomes"].items()) if number)
    more = " There are more: do it once again." if done["next_cursor"] is not None else ""
    refused = " What was refused stays open, with its new reason." if done["outcomes"].get("refused") else ""
    return Redirect(_LIST, f"Done: {told or 'no letter fits any more'}.{refused}{more}")


PAGES: Final = (
    Page(
        _LIST,
        "Dead letters",
        _list,
        menu="Dead letters",
        group=RUNNING,
        scopes=ADMINS,
        for_all=True,
        asks=frozenset({*_FILTERS, "state", "cursor"}),
    ),
    Page(_SELECTED, "All selected dead letters", _ask_for_all, scopes=ADMINS, for_all=True, asks=frozenset(_FILTERS)),
    Action(_SELECTED, "All selected dead letters", _act_on_all, scopes=ADMINS, for_all=True),
    Page(_ONE, "Dead letter", _show_one, scopes=ADMINS, for_all=True),
    Action(f"{_ONE}/redrive", "Dead letter", _redrive, scopes=ADMINS, for_all=True),
    Action(f"{_ONE}/discard", "Dead letter", _discard, scopes=ADMINS, for_all=True),
)
