"""The forms of an account's page: from what was typed to the call of the API that does it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from contracts.limits import Meter
from contracts.problems import broken_rule
from contracts.web.own_api import ApiProblem, Document, path_of
from contracts.web.pages import Visit
from ledger_service.pages.limit_forms import amount_of, amount_text, listed

_OF: Final = "/v1/accounts/{account_id}"
#: Fields of the form of an override, and of that of a grant, as they are called in the page: ``override-maximum``.
OVERRIDE: Final = (
    "limit_id", "maximum", "meter", "scope", "scope_id", "window", "mode", "operation", "provider", "model",
    "valid_from", "valid_until", "reason",
)  # fmt: skip
CREDIT: Final = (
    "grant_id", "limit_id", "amount", "meter", "priority", "valid_from", "expires_at", "renews", "rollover_maximum",
    "reason",
)  # fmt: skip
ACCOUNT: Final = ("plan_id", "time_zone", "billing_anchor")
CLOSING: Final = ("period", "reason")
#: What each form is called in the page, and its fields.
FORMS: Final[Mapping[str, tuple[str, ...]]] = {
    "account": ACCOUNT,
    "override": OVERRIDE,
    "credit": CREDIT,
    "closing": CLOSING,
}


def typed(visit: Visit, form: str) -> dict[str, str]:
    """The form's fields as they were sent."""
    return {name: visit.given(f"{form}-{name}") for name in FORMS[form]}


async def save_account(visit: Visit, account_id: str) -> str:
    """Each of these does it, answers what to say, and raises ApiProblem."""
    fields = {name: value for name, value in typed(visit, "account").items() if value}
    await visit.api.send("PUT", path_of(_OF, account_id=account_id), fields)
    return "Saved: it holds from the next limit check on."


async def save_override(visit: Visit, account_id: str) -> str:
    fields = typed(visit, "override")
    limit_id = _needed(fields, "limit_id")
    meter = fields["meter"] or await _meter_of(visit, account_id, limit_id)
    selector = {name: listed(fields[name]) for name in ("operation", "provider", "model") if fields[name]}
    body: Document = {name: fields[name] for name in ("scope", "scope_id", "meter", "window", "mode") if fields[name]}
    body |= {"maximum": amount_of(meter, fields["maximum"]), "reason": fields["reason"]}
    body |= {"selector": selector} if selector else {}
    body |= {name: moment_of(fields[name]) for name in ("valid_from", "valid_until") if fields[name]}
    await visit.api.send("PUT", path_of(f"{_OF}/limits/{{limit_id}}", account_id=account_id, limit_id=limit_id), body)
    return f"The override of {limit_id} is saved: it holds from the next limit check on, while it is valid."


async def remove_override(visit: Visit, account_id: str) -> str:
    limit_id, scope_id = visit.given("limit_id"), visit.given("scope_id")
    path = path_of(f"{_OF}/limits/{{limit_id}}", account_id=account_id, limit_id=limit_id)
    removed = (await visit.api.send("DELETE", path, None, {"scope_id": scope_id})).json["overrides"]
    return f"Taken back: {len(removed)} of {limit_id}. The plan's own limit holds again, if it has one."


async def save_grant(visit: Visit, account_id: str) -> str:
    fields = typed(visit, "credit")
    grant_id = _needed(fields, "grant_id")
    body: Document = {name: fields[name] for name in ("limit_id", "renews") if fields[name]}
    body |= {name: moment_of(fields[name]) for name in ("valid_from", "expires_at") if fields[name]}
    body |= {"amount": amount_of(fields["meter"], fields["amount"]), "reason": fields["reason"]}
    if fields["rollover_maximum"]:
        body["rollover_maximum"] = amount_of(fields["meter"], fields["rollover_maximum"])
    if fields["priority"]:
        body["priority"] = amount_of(Meter.CALLS, fields["priority"])
    path = path_of(f"{_OF}/credit-grants/{{grant_id}}", account_id=account_id, grant_id=grant_id)
    await visit.api.send("PUT", path, body)
    return f"Credit {grant_id} is given: it counts from the next limit check on."


async def end_grant(visit: Visit, account_id: str) -> str:
    grant_id = visit.given("grant_id")
    path = path_of(f"{_OF}/credit-grants/{{grant_id}}", account_id=account_id, grant_id=grant_id)
    await visit.api.send("DELETE", path)
    return f"Credit {grant_id} is ended: what was used stays used, what was left is lost."


async def close_period(visit: Visit, account_id: str) -> str:
    fields = typed(visit, "closing")
    period = _needed(fields, "period")
    path = path_of(f"{_OF}/periods/{{period}}:close", account_id=account_id, period=period)
    closing = (await visit.api.send("PUT", path, {"reason": fields["reason"]})).json
    return f"{closing['period']} and all months before it are closed: what comes later is booked in the next."


#: What the button says → the form that shows the problem, and what does it.
ACTIONS: Final[Mapping[str, tuple[str, Callable[[Visit, str], Awaitable[str]]]]] = {
    "account": ("account", save_account),
    "override": ("override", save_override),
    "remove-override": ("override", remove_override),
    "credit": ("credit", save_grant),
    "end-credit": ("credit", end_grant),
    "closing": ("closing", close_period),
}


def override_fields(stored: Document) -> dict[str, str]:
    """An override as it stands in its form."""
    limit = stored["limit"]
    return {
        **{name: limit[name] for name in ("limit_id", "meter", "scope", "window", "mode")},
        **{name: ", ".join(limit["selector"][name]) for name in ("operation", "provider", "model")},
        "maximum": amount_text(limit["maximum"]),
        "scope_id": stored["scope_id"] or "",
        "valid_from": _local(stored["valid_from"]),
        "valid_until": _local(stored["valid_until"]),
        "reason": stored["reason"],
    }


def moment_of(text: str) -> str:
    """``2026-11-27T14:00``, as browsers send it, is of UTC here."""
    has_seconds, minutes = "T" in text and len(text) == 19, "T" in text and len(text) == 16
    return f"{text}:00Z" if minutes else f"{text}Z" if has_seconds else text


def _local(moment: str | None) -> str:
    return "" if moment is None else moment[:19]


def _needed(fields: Mapping[str, str], name: str) -> str:
    """A part of the address, without which there is none."""
    if not fields[name]:
        raise ApiProblem(broken_rule(name, "missing", "fill it in").problem)
    return fields[name]


async def _meter_of(visit: Visit, account_id: str, limit_id: str) -> str:
    """What the limit counts already, by an override or by the plan: money is written otherwise than numbers."""
    overrides = (await visit.api.get(path_of(f"{_OF}/limits", account_id=account_id))).json["overrides"]
    known = [one["limit"] for one in overrides]
    try:
        account = (await visit.api.get(path_of(_OF, account_id=account_id))).json
        known += (await visit.api.get(path_of("/v1/plans/{plan_id}", plan_id=account["plan_id"]))).json["limits"]
    except ApiProblem as error:
        if error.problem.status not in (403, 404):
            raise
    return next((limit["meter"] for limit in known if limit["limit_id"] == limit_id), Meter.CALLS.value)
