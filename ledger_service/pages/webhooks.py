"""Webhooks: the endpoints that are told what happened, how each goes, and every attempt of every delivery."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from contracts.notifications import KINDS
from contracts.notifications.kind import Audience
from contracts.problems import NOT_FOUND, broken_rule
from contracts.web.own_api import ApiProblem, Document, path_of, query_of
from contracts.web.pages import Action, Page, Redirect, Shown, View, Visit
from contracts.webhooks import DeliveryState, DisabledReason
from ledger_service.pages.account_forms import moment_of
from ledger_service.pages.groups import ADMINS, RUNNING

_LIST: Final = "/webhooks"
_ONE: Final = "/webhooks/{webhook_id}"
_DELIVERY: Final = _ONE + "/deliveries/{message_id}"
_ROWS: Final = 50
#: Requests that one form makes, of 10,000 facts each.
_REDELIVERIES_MAX: Final = 10
_FORM: Final = ("webhook_id", "url", "description", "secret")
_FILTERS: Final = ("state", "type", "about")
WORDS: Final[Mapping[str, str]] = {
    "limit.threshold_reached": "so many percent of a limit are used",
    "limit_check.denied": "an operation was not admitted",
    "period.closed": "a month was closed",
    "dead_letter.opened": "something could not enter the log",
    "source.hole_found": "events of a producer are missing",
}


async def _list(visit: Visit) -> Shown:
    return await _endpoints(visit, {})


async def _endpoints(visit: Visit, told: Mapping[str, object], status: int = 200) -> Shown:
    """All for one owner, and the form for another one; ``told``: what was typed, and what was wrong with it."""
    items = (await visit.api.get(_api(visit))).json["items"]
    around = {
        **_around(visit),
        "items": [{**one, "goes": state_of(one)} for one in items],
        "typed": _typed(visit),
        "chosen": visit.form.get("types", []),
        "problem": None,
    }
    return View("webhooks.html", {**around, **told}, status)


def state_of(webhook: Document) -> tuple[str, str]:
    """How an endpoint goes: the class of its tag, and in words."""
    state = webhook["state"]
    if webhook["disabled_reason"] == DisabledReason.PAUSED:
        return "warn", "paused"
    if webhook["disabled_at"]:
        return "bad", "disabled"
    if state["failing_since"]:
        return "warn", "failing"
    if state["last_delivered_at"]:
        return "good", "works"
    return "", "nothing delivered yet"


def _api(visit: Visit, act: str = "", **names: str) -> str:
    """The route of the API: of the account that the address names, else of those for all."""
    whose = path_of("/v1/accounts/{account_id}", account_id=visit.account_id) if visit.account_id else "/v1"
    if not names:
        return f"{whose}/webhooks"
    one = "/webhooks/{webhook_id}" + ("/deliveries/{message_id}" if "message_id" in names else "")
    return whose + path_of(one, **names) + act


def _named(visit: Visit) -> dict[str, str]:
    return {name: str(value) for name, value in visit.request.path_params.items()}


def _around(visit: Visit) -> dict[str, object]:
    """What every page here has: whose endpoints they are, and what those may be told."""
    own = query_of({"account_id": visit.asked("account_id")})
    return {
        "account_id": visit.account_id,
        "is_one_of_many": visit.principal.account_id is None,
        "own": f"?{own}" if own else "",
        "kinds": [
            (kind.name, WORDS[kind.name])
            for kind in KINDS
            if visit.account_id is None or kind.audience is not Audience.OPERATORS
        ],
    }


def _at(visit: Visit, template: str, **names: str) -> str:
    own = query_of({"account_id": visit.asked("account_id")})
    return path_of(template, **names) + (f"?{own}" if own else "")


def _typed(visit: Visit) -> dict[str, str]:
    return {name: visit.given(name) for name in _FORM}


def _wanted(visit: Visit) -> Document:
    typed = _typed(visit)
    body: Document = {
        "url": typed["url"],
        "types": list(visit.form.get("types", [])),
        "description": typed["description"],
    }
    return {**body, "secret": typed["secret"]} if typed["secret"] else body


async def _add(visit: Visit) -> Shown:
    name = visit.given("webhook_id")
    try:
        if not name:
            raise ApiProblem(broken_rule("webhook_id", "missing", "it needs a name").problem)
        if await _is_there(visit, name):
            taken = broken_rule("webhook_id", "taken", f"there is an endpoint {name} already: change that one")
            raise ApiProblem(taken.problem)
        made = (await visit.api.send("PUT", _api(visit, webhook_id=name), _wanted(visit))).json
    except ApiProblem as error:
        return await _endpoints(visit, {"problem": error.problem}, error.problem.status)
    # No redirect: it is said in this answer alone.
    return await _endpoint(visit, name, {"secret": made["secret"], "is_new": True})


async def _is_there(visit: Visit, name: str) -> bool:
    try:
        await visit.api.get(_api(visit, webhook_id=name))
    except ApiProblem as error:
        if error.problem.code == NOT_FOUND.code:
            return False
        raise
    return True


async def _show_one(visit: Visit) -> Shown:
    return await _endpoint(visit, _named(visit)["webhook_id"], {})


async def _endpoint(visit: Visit, name: str, told: Mapping[str, object], status: int = 200) -> Shown:
    """One endpoint: how it goes, what was sent there, and what can be done about it."""
    webhook = (await visit.api.get(_api(visit, webhook_id=name))).json
    filters = {one: visit.asked(one) for one in _FILTERS}
    around: dict[str, object] = {
        **_around(visit),
        "webhook": webhook,
        "goes": state_of(webhook),
        "title": f"Webhook {name}",
        "states": list(DeliveryState),
        "filters": filters,
        "typed": {**_typed(visit), **({} if visit.form else _stored(webhook))},
        "chosen": visit.form.get("types", webhook["types"]),
        "from": visit.given("from"),
        "secret": None,
        "is_new": False,
        "problem": None,
        "deliveries": None,
    }
    try:
        asked: dict[str, str | int] = {**filters, "cursor": visit.asked("cursor"), "limit": _ROWS}
        around["deliveries"] = (await visit.api.get(_api(visit, "/deliveries", webhook_id=name), asked)).json
    except ApiProblem as error:
        if error.problem.status != 422:
            raise
        around["problem"], status = error.problem, 422
    if told.get("secret") or told.get("is_new"):
        around["typed"], around["chosen"] = _stored(webhook), webhook["types"]
    return View("webhook.html", {**around, **told}, status)


def _stored(webhook: Document) -> dict[str, str]:
    return {"webhook_id": webhook["webhook_id"], "url": webhook["url"], "description": webhook["description"]}


def _of_endpoint(act: Callable[[Visit, str], Awaitable[Shown]]) -> Callable[[Visit], Awaitable[Shown]]:
    """What is done about the endpoint that the address names; where the API refuses it, its page says why."""

    async def acted(visit: Visit) -> Shown:
        name = _named(visit)["webhook_id"]
        try:
            return await act(visit, name)
        except ApiProblem as error:
            return await _endpoint(visit, name, {"problem": error.problem}, error.problem.status)

    return acted


@_of_endpoint
async def _save(visit: Visit, name: str) -> Shown:
    """Changes it; to save one that is disabled enables it, but for one that is paused."""
    await visit.api.get(_api(visit, webhook_id=name))  # one that was removed meanwhile is not made again
    saved = (await visit.api.send("PUT", _api(visit, webhook_id=name), _wanted(visit))).json
    follows = "it is still paused" if saved["disabled_at"] else "what happens from now on goes there"
    return Redirect(_at(visit, _ONE, webhook_id=name), f"Saved: {follows}.")


@_of_endpoint
async def _pause(visit: Visit, name: str) -> Shown:
    await visit.api.send("POST", _api(visit, ":pause", webhook_id=name))
    said = "Paused: what happens is queued until it is resumed."
    return Redirect(_at(visit, _ONE, webhook_id=name), said)


@_of_endpoint
async def _resume(visit: Visit, name: str) -> Shown:
    seen = (await visit.api.send("POST", _api(visit, ":resume", webhook_id=name))).json
    said = f"It goes on: {seen['state']['pending']:,} are to be sent now, in order."
    return Redirect(_at(visit, _ONE, webhook_id=name), said)


@_of_endpoint
async def _try(visit: Visit, name: str) -> Shown:
    sent = (await visit.api.send("POST", _api(visit, ":test", webhook_id=name))).json
    return Redirect(_at(visit, _DELIVERY, webhook_id=name, message_id=sent["message_id"]), "A test is on its way.")


@_of_endpoint
async def _rotate(visit: Visit, name: str) -> Shown:
    made = (await visit.api.send("POST", _api(visit, ":rotate-secret", webhook_id=name), {})).json
    return await _endpoint(visit, name, {"secret": made["secret"], "previous_until": made["previous_until"]})


@_of_endpoint
async def _redeliver(visit: Visit, name: str) -> Shown:
    queued, cursor = 0, None
    body: Document = {"from": moment_of(visit.given("from")), "delivered": bool(visit.given("delivered"))}
    for _ in range(_REDELIVERIES_MAX):
        again = {**body, "cursor": cursor} if cursor else body
        done = (await visit.api.send("POST", _api(visit, ":redeliver", webhook_id=name), again)).json
        queued, cursor = queued + done["queued"], done["next_cursor"]
        if cursor is None:
            break
    more = " There is more than one form looks at: `ledger webhooks redeliver` does it all." if cursor else ""
    return Redirect(_at(visit, _ONE, webhook_id=name), f"Sent again: {queued:,}.{more}")


async def _remove(visit: Visit) -> Shown:
    name = _named(visit)["webhook_id"]
    await visit.api.send("DELETE", _api(visit, webhook_id=name))
    return Redirect(_at(visit, _LIST), f"{name} is removed: nothing more is sent there.")


async def _show_delivery(visit: Visit) -> Shown:
    names = _named(visit)
    found = (await visit.api.get(_api(visit, **names))).json
    title = f"Delivery {names['message_id']}"
    goes = state_of((await visit.api.get(_api(visit, webhook_id=names["webhook_id"]))).json)
    told = {"delivery": found, "goes": goes, "payload": json.loads(found["payload"]), "title": title}
    return View("webhook_delivery.html", {**_around(visit), **names, **told})


async def _redeliver_one(visit: Visit) -> Shown:
    names = _named(visit)
    await visit.api.send("POST", _api(visit, ":redeliver", **names))
    return Redirect(_at(visit, _DELIVERY, **names), "It is sent once more.")


PAGES: Final = (
    Page(_LIST, "Webhooks", _list, menu="Webhooks", group=RUNNING, scopes=ADMINS, asks=frozenset({"account_id"})),
    Action(_LIST, "Webhooks", _add, scopes=ADMINS),
    Page(_ONE, "Webhook", _show_one, scopes=ADMINS, asks=frozenset({"account_id", *_FILTERS, "cursor"})),
    Action(f"{_ONE}/save", "Webhook", _save, scopes=ADMINS),
    Action(f"{_ONE}/pause", "Webhook", _pause, scopes=ADMINS),
    Action(f"{_ONE}/resume", "Webhook", _resume, scopes=ADMINS),
    Action(f"{_ONE}/test", "Webhook", _try, scopes=ADMINS),
    Action(f"{_ONE}/rotate-secret", "Webhook", _rotate, scopes=ADMINS),
    Action(f"{_ONE}/redeliver", "Webhook", _redeliver, scopes=ADMINS),
    Action(f"{_ONE}/remove", "Webhook", _remove, scopes=ADMINS),
    Page(_DELIVERY, "Delivery", _show_delivery, scopes=ADMINS, asks=frozenset({"account_id"})),
    Action(f"{_DELIVERY}/redeliver", "Delivery", _redeliver_one, scopes=ADMINS),
)
