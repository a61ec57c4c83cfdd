"""Accounts: finding one, and its settings: plan, calendar, overrides, credit, closed months, and who changed what."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from contracts.access.principal import Scope
from contracts.limits import Account
from contracts.problems import Problem, broken_rule
from contracts.web.own_api import ApiProblem, Document, Parameters, path_of
from contracts.web.pages import Action, Page, Redirect, Shown, View, Visit
from ledger_service.pages.account_forms import ACTIONS, FORMS, override_fields, typed
from ledger_service.pages.accounts_found import find_accounts
from ledger_service.pages.groups import ADMINS, ALL_READERS, LIMITS, READERS
from ledger_service.pages.limit_forms import CHOICES
from ledger_service.pages.words import account_path, moment_in, selected_words

_CHANGES: Final = 25
_PLANS: Final = 1000
_OF: Final = "/v1/accounts/{account_id}"
_AT: Final = "/accounts/{account_id}"
#: Types of changes, in words.
_KINDS: Final = {
    "ledger.account.changed.v1": "settings",
    "ledger.limit_override.changed.v1": "override",
    "ledger.limit_override.removed.v1": "override taken back",
    "ledger.credit_grant.changed.v1": "credit",
    "ledger.period.closed.v1": "month closed",
    "ledger.resale_price.changed.v1": "resale price",
}
#: What of a change's data says most, where it is there.
_TOLD: Final = (
    "plan_id", "time_zone", "billing_anchor", "limit_id", "grant_id", "scope_id", "maximum", "amount", "period",
    "valid_from", "valid_until", "expires_at", "ended_at", "reason",
)  # fmt: skip


async def _list(visit: Visit) -> Shown:
    return View("accounts.html", await _listed(visit))


async def _listed(visit: Visit) -> dict[str, Document]:
    may_change = Scope.ADMIN in visit.principal.scopes
    return {**await find_accounts(visit), "may_change": may_change, "problem": None}


async def _open(visit: Visit) -> Shown:
    account_id = visit.given("account_id")
    if not account_id:
        problem = broken_rule("account_id", "missing", "name an account").problem
        return View("accounts.html", {**await _listed(visit), "problem": problem}, 422)
    return Redirect(account_path(account_id))


async def _show(visit: Visit) -> Shown:
    return await _settings(visit)


async def _change(visit: Visit) -> Shown:
    account_id = _id_of(visit)
    if visit.given("do") not in ACTIONS:
        raise ApiProblem(broken_rule("do", "enum", f"one of {', '.join(ACTIONS)}").problem)
    form, act = ACTIONS[visit.given("do")]
    try:
        said = await act(visit, account_id)
    except ApiProblem as error:
        return await _settings(visit, form, error.problem)
    return Redirect(account_path(account_id), said)


async def _settings(visit: Visit, failed: str = "", problem: Problem | None = None) -> Shown:
    """The page; ``failed``: the form that the problem is about, which keeps what was typed."""
    account_id, of = _id_of(visit), {"account_id": _id_of(visit)}
    account = await _account(visit)
    overrides = (await visit.api.get(path_of(f"{_OF}/limits", **of))).json["overrides"]
    grants = (await visit.api.get(path_of(f"{_OF}/credit-grants", **of))).json["grants"]
    closings = (await visit.api.get(path_of(f"{_OF}/periods", **of))).json["closings"]
    may_change = Scope.ADMIN in visit.principal.scopes
    forms = _forms(visit, account, overrides)
    if failed:
        forms[failed] = typed(visit, failed)
    told = {
        "title": f"Account {account_id}",
        "account_id": account_id,
        "account": account,
        "overrides": [_override(one) for one in overrides],
        "grants": grants,
        "closings": closings,
        "may_change": may_change,
        "may_see_plans": visit.principal.account_id is None,
        "plans": await _plans(visit) if may_change and visit.principal.account_id is None else [],
        "changes": await _changes(visit) if may_change else [],
        "forms": forms,
        "choices": CHOICES,
        "failed": failed,
        "problem": problem,
        "wrong": {f"{failed}-{(error.field or '').rpartition('.')[2].partition('[')[0]}" for error in problem.errors}
        if problem
        else set(),
    }
    return View("account.html", told, problem.status if problem else 200)


def _forms(visit: Visit, account: Document | None, overrides: list[Document]) -> dict[str, dict[str, str]]:
    """Every form before anything is typed; that of overrides has the one that is to be edited."""
    empty = {form: dict.fromkeys(fields, "") for form, fields in FORMS.items()}
    default = account or Account(plan_id="none").model_dump(mode="json") | {"plan_id": ""}
    empty["account"] = {name: str(default[name]) for name in FORMS["account"]}
    empty["credit"] |= {"meter": "cost", "valid_from": f"{datetime.now(UTC):%Y-%m-%dT%H:%M}"}
    wanted = visit.asked("edit"), visit.asked("scope_id") or None, visit.asked("valid_from") or None
    for one in overrides:
        if (one["limit"]["limit_id"], one["scope_id"], one["valid_from"]) == wanted:
            empty["override"] = override_fields(one)
    return empty


def _override(one: Document) -> Mapping[str, Document]:
    limit, state = one["limit"], ("good", "holds")
    now = datetime.now(UTC)
    if one["valid_until"] and moment_in(one["valid_until"]) <= now:
        state = ("", "over")
    elif one["valid_from"] and moment_in(one["valid_from"]) > now:
        state = ("warn", "not yet")
    return {"override": one, "limit": limit, "selected": selected_words(limit["selector"]), "state": state}


async def _account(visit: Visit) -> Document | None:
    """None where it is not registered."""
    try:
        return (await visit.api.get(path_of(_OF, account_id=_id_of(visit)))).json
    except ApiProblem as error:
        if error.problem.code != "not_found":
            raise
        return None


async def _plans(visit: Visit) -> list[str]:
    return [plan["plan_id"] for plan in (await visit.api.get("/v1/plans", {"limit": _PLANS})).json["items"]]


async def _changes(visit: Visit) -> list[Document]:
    asked: Parameters = {"account_id": _id_of(visit), "limit": _CHANGES}
    changes = (await visit.api.get("/v1/changes", asked)).json["items"]
    return [{**one, "kind": _KINDS.get(one["type"], one["type"]), "told": _told(one["data"])} for one in changes]


def _told(data: Document) -> list[tuple[str, str]]:
    flat = {**data.get("limit", {}), **data}
    return [(name.replace("_", " "), str(flat[name])) for name in _TOLD if flat.get(name) not in (None, "")]


def _id_of(visit: Visit) -> str:
    account_id: str = visit.request.path_params["account_id"]
    return account_id


PAGES: Final = (
    Page(
        "/accounts",
        "Accounts",
        _list,
        menu="Accounts",
        group=LIMITS,
        scopes=ALL_READERS,
        for_all=True,
        asks=frozenset({"prefix", "cursor"}),
    ),
    Action("/accounts", "Accounts", _open, scopes=ADMINS, for_all=True),
    Page(_AT, "Account", _show, scopes=READERS | ADMINS, asks=frozenset({"edit", "scope_id", "valid_from"})),
    Action(_AT, "Account", _change, scopes=ADMINS),
)
