"""Corrections, of all accounts or one: those that there are, and a form that shows what one changes before it is
recorded."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from contracts.adjustments import AdjustmentKind
from contracts.identifiers import uuid7
from contracts.limits import Meter
from contracts.problem_advice import ADVICE
from contracts.problems import NOT_FOUND
from contracts.web.own_api import ApiProblem, Document, path_of, query_of
from contracts.web.pages import Action, Page, Redirect, Shown, View, Visit
from ledger_service.pages.days import DAY, day_of
from ledger_service.pages.groups import ADMINS, READERS, SPEND
from ledger_service.pages.problems import fields_of

_LIST: Final = "/corrections"
_NEW: Final = "/corrections/new"
_ROWS: Final = 100
_FILTERS: Final = ("from", "until", "kind", "author")
#: What an address of the form may name.
_NAMED: Final = ("account_id", "operation_id", "corrects_id")
_WHOLE: Final = ("calls", "units", "failures")
_MEASURES: Final = (*_WHOLE, Meter.COST.value)
_ABOUT: Final = ("user_id", "project_id", "api_key_id", "operation", "provider", "model")
_FIELDS: Final = (
    "adjustment_id", "account_id", "operation_id", "corrects_id", "kind", "reason", *_MEASURES, "cost_after", *_ABOUT,
    "occurred_at",
)  # fmt: skip
#: What each kind does, for people.
KINDS: Final[Mapping[str, str]] = {
    AdjustmentKind.RERATE: "another cost: what the operation shall cost",
    AdjustmentKind.VOID: "take back: bring it to nothing",
    AdjustmentKind.ADJUSTMENT: "free amounts: add or take away",
}


async def _list(visit: Visit) -> Shown:
    account_id = visit.account_id
    typed = {name: visit.asked(name) for name in _FILTERS}
    asked: dict[str, str | int | None] = {
        "from": _midnight(typed["from"]),
        "to": _midnight(typed["until"], DAY),
        "account_id": account_id,
        "kind": typed["kind"],
        "author": typed["author"],
    }
    this_month = datetime.now(UTC).date().replace(day=1)
    last_day = this_month - DAY
    told: dict[str, object] = {
        "account_id": account_id,
        "own": query_of({"account_id": account_id}),
        "typed": typed,
        "kinds": KINDS,
        "months": [
            ("this month", query_of({"from": f"{this_month}", "account_id": account_id})),
            (
                f"{last_day:%Y-%m}",
                query_of({"from": f"{last_day:%Y-%m}-01", "until": f"{last_day}", "account_id": account_id}),
            ),
        ],
        "file": _file_of(asked),
        "rows": [],
        "next_cursor": None,
        "archived_before": None,
        "problem": None,
        "wrong": frozenset[str](),
    }
    try:
        page = (await visit.api.get("/v1/adjustments", {**asked, "cursor": visit.asked("cursor"), "limit": _ROWS})).json
    except ApiProblem as error:
        found = error.problem
        if found.status not in (409, 422):
            raise
        wrong = {"problem": found, "wrong": fields_of(found, {"to": "until"})}
        return View("corrections.html", {**told, **wrong}, found.status)
    told |= {"rows": page["items"], "next_cursor": page["next_cursor"]}
    return View("corrections.html", {**told, "archived_before": page.get("archived_before")})


def _midnight(written: str, later: timedelta = timedelta()) -> str:
    """The beginning of a day (UTC), or of one later; what is no day is for the API to refuse."""
    day = day_of(written)
    return f"{day + later}T00:00:00Z" if day else written


def _file_of(asked: Mapping[str, str | int | None]) -> str:
    """The same as a file, which knows neither who nor which kind; "" where those are asked for."""
    if asked["kind"] or asked["author"]:
        return ""
    chosen = {"recorded_from": asked["from"], "recorded_to": asked["to"], "account_id": asked["account_id"]}
    return "/v1/exports/usage-log?" + query_of({"format": "csv", "outcome": "adjustment", **chosen})


async def _ask(visit: Visit) -> Shown:
    """The form: of an operation or of a free adjustment that the address names, else of free amounts."""
    typed = dict.fromkeys(_FIELDS, "")
    typed |= {name: visit.asked(name) for name in _NAMED}
    typed |= {"account_id": visit.account_id or "", "adjustment_id": str(uuid7())}
    is_about_some = bool(typed["operation_id"] or typed["corrects_id"])
    typed["kind"] = AdjustmentKind.VOID if is_about_some else AdjustmentKind.ADJUSTMENT
    return await _form(visit, typed, {})


async def _form(visit: Visit, typed: Mapping[str, str], told: Mapping[str, object], status: int = 200) -> Shown:
    around: dict[str, object] = {
        "typed": typed,
        "kinds": _kinds(typed),
        "about": await _about(visit, typed),
        "own": query_of({"account_id": typed["account_id"]}),
        "preview": None,
        "problem": None,
        "wrong": frozenset[str](),
    }
    return View("correction.html", {**around, **told}, status)


def _kinds(typed: Mapping[str, str]) -> dict[str, str]:
    """Which there are: only operations are rated again, and nothing is taken back where nothing is named."""
    if typed["operation_id"]:
        return dict(KINDS)
    left = {AdjustmentKind.RERATE} if typed["corrects_id"] else {AdjustmentKind.RERATE, AdjustmentKind.VOID}
    return {kind: words for kind, words in KINDS.items() if kind not in left}


async def _about(visit: Visit, typed: Mapping[str, str]) -> Document:
    """What is to be corrected, as it stands now; None: nothing is named, or it is not there."""
    named = typed["operation_id"] or typed["corrects_id"]
    if not named:
        return None
    try:
        path = path_of("/v1/usage-log/{operation_id}", operation_id=named)
        return (await visit.api.get(path, {"account_id": typed["account_id"] or None})).json
    except ApiProblem as error:
        if error.problem.code != NOT_FOUND.code and error.problem.status != 422:
            raise
        return None


async def _act(visit: Visit) -> Shown:
    """Shows what a correction changes, or records what was shown."""
    typed = {name: visit.given(name) for name in _FIELDS}
    typed["account_id"] = visit.principal.account_id or typed["account_id"]
    is_recorded = visit.given("act") == "record"
    try:
        asked = None if is_recorded else {"dry_run": True}
        stored = (await visit.api.send("POST", "/v1/adjustments", body_of(typed), asked)).json
    except ApiProblem as error:
        found = error.problem
        if found.status in (401, 403, 503):
            raise
        told = {"problem": found, "advice": ADVICE.get(found.code, ""), "wrong": _wrong(typed, error)}
        return await _form(visit, typed, told, found.status)
    if is_recorded:
        leads_to = path_of("/operations/{id}", id=stored["corrects"] or stored["adjustment_id"])
        own = query_of({"account_id": stored["account_id"]})
        return Redirect(f"{leads_to}?{own}", "The correction is recorded: totals and limits count it now.")
    about = await _about(visit, typed)
    return await _form(visit, typed, {"about": about, "preview": preview_of(stored, about)})


def body_of(typed: Mapping[str, str]) -> Document:
    """What is sent to the API: of the fields, those that the kind takes."""
    body: Document = {name: typed[name] for name in ("adjustment_id", "account_id", "kind", "reason")}
    if typed["operation_id"]:
        body["reference"] = {"operation_id": typed["operation_id"]}
    elif typed["corrects_id"]:
        body["reference"] = {"adjustment_id": typed["corrects_id"]}
    match typed["kind"]:
        case AdjustmentKind.VOID:
            return body
        case AdjustmentKind.RERATE:
            return {**body, "cost": _money(typed["cost_after"])}
        case _:
            body |= {name: _whole(typed[name]) for name in _WHOLE if typed[name]}
            body |= {"cost": _money(typed["cost"])} if typed["cost"] else {}
            if "reference" not in body:
                body |= {name: typed[name] for name in _ABOUT if typed[name]}
                body |= {"occurred_at": f"{typed['occurred_at']}:00Z"} if typed["occurred_at"] else {}
            return body


def _money(text: str) -> str:
    return text.replace(",", "").replace("$", "").replace("\N{MINUS SIGN}", "-").strip()


def _whole(text: str) -> int | str:
    """What is no number is for the API to refuse."""
    plain = _money(text)
    return (
        int(plain)
        if plain.removeprefix("-").isascii() and plain.removeprefix("-").isdigit() and len(plain) < 20
        else text
    )


def _wrong(typed: Mapping[str, str], error: ApiProblem) -> frozenset[str]:
    """Which fields of the form the problem is about."""
    names = {one.field.partition(".")[0] for one in error.problem.errors}
    if "cost" in names and typed["kind"] == AdjustmentKind.RERATE:
        names = names - {"cost"} | {"cost_after"}
    return frozenset(names)


def preview_of(stored: Document, about: Document) -> Document:
    """Each measure and each limit: how it is, what is added, how it is then. Of free amounts only what is added."""
    now = about["comes_to"] if about else None
    # What corrects a correction is counted where that was; its own entry says nothing of the limits' amounts.
    limits = about["limits"] if about else ()
    return {
        "stored": stored,
        "measures": [
            (name, _amount(now[name]) if now else None, _amount(stored[name]), _then(now, name, stored))
            for name in _MEASURES
        ],
        "limits": [
            (limit, _amount(limit["settled"]), _amount(limit["settled"]) + _amount(stored[limit["meter"]]))
            for limit in limits
            if _amount(stored[limit["meter"]])
        ],
    }


def _then(now: Document, name: str, stored: Document) -> Decimal | None:
    return _amount(now[name]) + _amount(stored[name]) if now else None


def _amount(value: str | int) -> Decimal:
    return Decimal(value)


PAGES: Final = (
    Page(
        _LIST,
        "Corrections",
        _list,
        menu="Corrections",
        group=SPEND,
        scopes=READERS,
        asks=frozenset({*_FILTERS, "account_id", "cursor"}),
    ),
    Page(_NEW, "Correct", _ask, scopes=ADMINS, asks=frozenset(_NAMED)),
    Action(_NEW, "Correct", _act, scopes=ADMINS),
)
