"""A decision explained: what was asked, what came of it, which limit decided, and what had used it up."""

from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qs, urlsplit

from contracts.web.own_api import Document, path_of, query_of
from contracts.web.pages import Page, Shown, View, Visit
from ledger_service.pages.denials import name_of_reason
from ledger_service.pages.groups import READERS
from ledger_service.pages.words import selected_words

#: What became of an admitted check's hold: what kind of tag, and in words.
STATES = {
    "denied": ("bad", "denied"),
    "held": ("warn", "allowed, and held"),
    "settled": ("good", "allowed, and settled"),
    "released": ("", "allowed, and released: nothing was owed"),
    "expired": ("warn", "allowed, and expired without an outcome"),
}


#: Of a check, what it need not say.
_LEFT_OUT: Final = dict.fromkeys(("project_id", "api_key_id", "calls", "estimated_cost"))


async def _show(visit: Visit) -> Shown:
    operation_id = visit.request.path_params["operation_id"]
    decision = (
        await visit.api.get(
            path_of("/v1/decisions/{operation_id}", operation_id=operation_id), {"account_id": visit.account_id}
        )
    ).json
    binding, denial = decision["binding_limit"], decision["denial"]
    told = {
        "title": "Decision: allowed" if decision["allowed"] else "Decision: denied",
        "decision": decision,
        "check": {**_LEFT_OUT, **decision["check"]},
        "attributes": decision["check"].get("attributes") or {},
        "price": decision.get("price"),
        "plan_version": decision.get("plan_version"),
        "plan_id": decision.get("plan_id"),
        "estimated_cost": decision.get("estimated_cost"),
        "state": STATES[decision["state"]],
        "why": None if denial is None else name_of_reason(denial["code"], denial["limit_id"]),
        "binding": binding,
        "limits": [{"override": None, **one} for one in decision["limits"]],
        "binding_state": None if binding is None else _state_of(decision, binding),
        "selected": selected_words(binding["limit"]["selector"]) if binding and binding["limit"] else None,
        "usage_log": _usage_log_page(decision["account_id"], binding["usage_log"]) if binding else None,
        "is_open": decision["state"] == "held",
        "expires_in": _seconds_until(decision["expires_at"]),
        "may_see_plans": visit.principal.account_id is None,
    }
    return View("decisions.html", told)


def _state_of(decision: Document, binding: Document) -> Document:
    """The limit as the decision shows it."""
    named = [one for one in decision["limits"] if one["limit_id"] == binding["limit_id"]]
    return next((one for one in named if all(one[name] == value for name, value in binding["then"].items())), named[0])


def _usage_log_page(account_id: str, path: str | None) -> str | None:
    """The page with the rows that the API names as those that make up what is settled."""
    if path is None:
        return None
    filters = parse_qs(urlsplit(path).query)
    filters.pop("limit", None)
    return f"/usage-log?{query_of({'account_id': account_id, **filters})}"


def _seconds_until(moment: str | None) -> float | None:
    return None if moment is None else (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()


PAGE = Page("/decisions/{operation_id}", "Decision", _show, scopes=READERS, asks=frozenset({"account_id"}))
