"""Plans: what there is, and a plan's limits to change, tried on what was used before they are saved."""

from typing import Final

import orjson

from contracts.access.principal import Scope
from contracts.problems import NOT_FOUND, Problem, ProblemError, broken_rule
from contracts.web.own_api import ApiProblem, Document, Parameters, path_of
from contracts.web.pages import Action, Page, Redirect, Shown, View, Visit
from ledger_service.pages.backtests import DAYS, Trial, read_trial, try_out
from ledger_service.pages.groups import ADMINS, ALL_READERS, LIMITS
from ledger_service.pages.limit_forms import CHOICES, EMPTY, Fields, fields_of, limit_of, read_rows, wrong_fields
from ledger_service.pages.words import WINDOW_NAMES, selected_words

_LISTED: Final = 100
_CHANGES: Final = 500
_SHOWN_CHANGES: Final = 10
_PLAN: Final = "/v1/plans/{plan_id}"


async def _list(visit: Visit) -> Shown:
    return View("plans.html", await _plans(visit))


async def _plans(visit: Visit) -> dict[str, object]:
    page = (await visit.api.get("/v1/plans", {"cursor": visit.asked("cursor"), "limit": _LISTED})).json
    return {
        "plans": page["items"],
        "next_cursor": page["next_cursor"],
        "may_change": Scope.ADMIN in visit.principal.scopes,
        "problem": None,
        "plan_id": "",
    }


async def _open(visit: Visit) -> Shown:
    """On to a plan by its id, which may be a new one."""
    plan_id = visit.given("plan_id")
    if not plan_id:
        told = await _plans(visit)
        return View("plans.html", {**told, "problem": broken_rule("plan_id", "missing", "name a plan").problem}, 422)
    return Redirect(path_of("/plans/{plan_id}", plan_id=plan_id))


async def _show(visit: Visit) -> Shown:
    stored = await _stored(visit)
    if stored is None and Scope.ADMIN not in visit.principal.scopes:
        raise ProblemError(NOT_FOUND, f"there is no plan {_id_of(visit)}")
    return await _form(visit, _Form.of(stored), stored)


class _Form:
    """A plan as it is being edited: what was typed."""

    def __init__(self, name: str, ceiling: str, fail_modes: str, rows: list[Fields], version: int) -> None:
        self.name, self.ceiling, self.fail_modes, self.rows, self.version = name, ceiling, fail_modes, rows, version

    @classmethod
    def of(cls, stored: Document | None) -> "_Form":
        if stored is None:
            return cls("", "", "[]", [dict(EMPTY)], 0)
        modes = orjson.dumps(stored["fail_modes"], option=orjson.OPT_INDENT_2).decode()
        rows = [fields_of(limit) for limit in stored["limits"]]
        return cls(stored["name"], stored["unpriced_unit_ceiling"] or "", modes, rows, stored["version"])

    @classmethod
    def sent(cls, visit: Visit) -> "_Form":
        version = visit.given("version")
        return cls(
            visit.given("name"),
            visit.given("unpriced_unit_ceiling"),
            visit.given("fail_modes") or "[]",
            read_rows(visit.form),
            int(version) if version.isascii() and version.isdigit() and len(version) < 10 else 0,
        )

    @property
    def plan(self) -> Document:
        """As the API takes it. Raises ApiProblem where the fail modes are no JSON."""
        try:
            modes = orjson.loads(self.fail_modes)
        except orjson.JSONDecodeError as error:
            raise ApiProblem(broken_rule("fail_modes", "json", f"no JSON: {error}").problem) from None
        plan: Document = {"name": self.name, "limits": [limit_of(row) for row in self.rows], "fail_modes": modes}
        return plan | ({"unpriced_unit_ceiling": self.ceiling.removeprefix("$")} if self.ceiling else {})


async def _change(visit: Visit) -> Shown:
    """What the button says: add or remove a row, try the limits, or save them."""
    form, do = _Form.sent(visit), visit.given("do")
    trial = read_trial(visit)
    if do == "add":
        form.rows.append(dict(EMPTY))
    elif do.startswith("remove-"):
        form.rows = [row for number, row in enumerate(form.rows) if str(number) != do.removeprefix("remove-")]
    try:
        if do == "try":
            return await _form(visit, form, await _stored(visit), await try_out(visit, form.plan, trial))
        if do == "save":
            saved = await visit.api.send("PUT", _path(visit), form.plan, {"if_version": form.version})
            version = saved.json["version"]
            return Redirect(
                path_of("/plans/{plan_id}", plan_id=_id_of(visit)),
                f"Saved as version {version}: it holds from the next limit check on.",
            )
    except ApiProblem as error:
        stored = await _stored(visit)
        if error.problem.code == "version_changed":
            form.version = stored["version"] if stored else 0
        return await _form(visit, form, stored, trial, error.problem)
    return await _form(visit, form, await _stored(visit), trial)


async def _form(
    visit: Visit, form: _Form, stored: Document | None, trial: Trial | None = None, problem: Problem | None = None
) -> Shown:
    may_change = Scope.ADMIN in visit.principal.scopes
    told = {
        "title": f"Plan {_id_of(visit)}",
        "plan_id": _id_of(visit),
        "form": form,
        "stored": stored,
        "stored_limits": [_row(limit) for limit in stored["limits"]] if stored else [],
        "choices": CHOICES,
        "may_change": may_change,
        "trial": trial or read_trial(visit),
        "days": DAYS,
        "problem": problem,
        "wrong": wrong_fields(problem),
        "is_changed": problem is not None and problem.code == "version_changed",
        "changes": await _changes(visit) if may_change else [],
    }
    return View("plan.html", told, problem.status if problem else 200)


def _row(limit: Document) -> Document:
    return {"limit": limit, "selected": selected_words(limit["selector"]), "window": WINDOW_NAMES[limit["window"]]}


async def _stored(visit: Visit) -> Document | None:
    try:
        return (await visit.api.get(_path(visit))).json
    except ApiProblem as error:
        if error.problem.code != NOT_FOUND.code:
            raise
        return None


async def _changes(visit: Visit) -> list[Document]:
    """Who saved it, the newest first: among the latest changes of all plans."""
    asked: Parameters = {"type": "ledger.plan.changed.v1", "limit": _CHANGES}
    changes = (await visit.api.get("/v1/changes", asked)).json["items"]
    return [one for one in changes if one["data"]["plan_id"] == _id_of(visit)][:_SHOWN_CHANGES]


def _id_of(visit: Visit) -> str:
    plan_id: str = visit.request.path_params["plan_id"]
    return plan_id


def _path(visit: Visit) -> str:
    return path_of(_PLAN, plan_id=_id_of(visit))


_AT: Final = "/plans/{plan_id}"
PAGES: Final = (
    Page(
        "/plans",
        "Plans",
        _list,
        menu="Plans",
        group=LIMITS,
        scopes=ALL_READERS,
        for_all=True,
        asks=frozenset({"cursor"}),
    ),
    Action("/plans", "Plans", _open, scopes=ADMINS, for_all=True),
    Page(_AT, "Plan", _show, scopes=ALL_READERS, for_all=True, asks=frozenset({"account_id"})),
    Action(_AT, "Plan", _change, scopes=ADMINS, for_all=True),
)
