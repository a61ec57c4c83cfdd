"""An account's usage log, row by row, and the same as a file of any size."""

from collections.abc import Mapping, Sequence
from typing import Final

from contracts.operations import OPERATION_TYPES
from contracts.problem_advice import ADVICE
from contracts.web.own_api import ApiProblem, path_of, query_of
from contracts.web.pages import Page, Shown, View, Visit
from ledger_service.pages.accounts_found import find_accounts
from ledger_service.pages.days import DAY, day_begun_at, day_of
from ledger_service.pages.groups import READERS, SPEND
from ledger_service.pages.problems import fields_of

#: Of the API's own parameters, those that this page takes as they are.
_SEVERAL: Final = ("operation", "provider", "model")
_ONE: Final = ("user_id", "project_id", "api_key_id", "outcome", "endpoint")
_MOMENTS: Final = ("counted_from", "counted_to", "recorded_from", "recorded_to")
#: Of them, those that are folded away until somebody wants them.
_SPECIAL: Final = ("project_id", "api_key_id", "endpoint", *_MOMENTS)
_ROWS: Final = 100
PARAMETERS: Final = frozenset(
    {"account_id", "from", "to", "until", *_SEVERAL, *_ONE, *_MOMENTS, "cursor", "limit", "prefix"}
)
#: What is offered as a file: label, data set, format.
_FILES: Final = (
    ("CSV", "usage-log", "csv"),
    ("JSON Lines", "usage-log", "jsonl"),
    ("Parquet", "usage-log", "parquet"),
    ("FOCUS as CSV", "focus", "csv"),
    ("FOCUS as Parquet", "focus", "parquet"),
)

Asked = Mapping[str, str | Sequence[str] | None]


async def _show(visit: Visit) -> Shown:
    asked = read_asked(visit)
    account_id = visit.account_id
    files = query_of({**asked, "account_id": account_id})
    told = {
        "asked": asked,
        "account_id": account_id,
        "days": _days(asked),
        "operations": OPERATION_TYPES,
        "is_special": any(asked.get(name) for name in _SPECIAL),
        "files": [(label, f"/v1/exports/{name}?format={form}&{files}".rstrip("&")) for label, name, form in _FILES],
        "others": query_of(asked),
        "first": f"/usage-log?{files}" if visit.asked("cursor") else None,
        "rows": [],
        "more": None,
        "archived_before": None,
        "searched_until": None,
        "invalid": frozenset[str](),
    }
    if account_id is None:
        return View("usage_log.html", {**told, **await find_accounts(visit)})
    paging = {"cursor": visit.asked("cursor"), "limit": visit.asked("limit") or _ROWS}
    try:
        path = path_of("/v1/accounts/{account_id}/usage-log", account_id=account_id)
        page = (await visit.api.get(path, {**asked, **paging})).json
    except ApiProblem as error:
        found = error.problem
        if found.status in (401, 403, 503):
            raise
        wrong = {"problem": found, "advice": ADVICE.get(found.code, ""), "invalid": fields_of(found, {"to": "until"})}
        return View("usage_log.html", {**told, **wrong}, found.status)
    told |= {name: page.get(name) for name in ("archived_before", "searched_until")} | {"rows": page["items"]}
    if page["next_cursor"]:
        told["more"] = query_of({**asked, "account_id": account_id, "cursor": page["next_cursor"]})
    return View("usage_log.html", told)


def read_asked(visit: Visit) -> Asked:
    """What the address asks for, in the API's own parameters. ``from``, ``to`` and ``until`` (a day that is included)
    may be dates, of UTC."""
    until = visit.asked("until")
    last = day_of(until)
    end = visit.asked("to") or (f"{last + DAY}" if last else until)
    return {
        "from": _moment(visit.asked("from")),
        "to": _moment(end),
        **{name: _split(visit.asked_all(name)) for name in _SEVERAL},
        **{name: visit.asked(name) for name in _ONE},
        **{name: _moment(visit.asked(name)) for name in _MOMENTS},
    }


def _days(asked: Asked) -> dict[str, tuple[str, str, str]]:
    """For the form: field → name, kind of input, value: days, where a range is of whole ones (UTC), else moments."""
    start, end = str(asked["from"] or ""), str(asked["to"] or "")
    first, after = day_begun_at(start), day_begun_at(end)
    last = after - DAY if after else None
    return {
        "from": ("from", "date", f"{first or ''}") if first or not start else ("from", "text", start),
        "until": ("until", "date", f"{last or ''}") if last or not end else ("to", "text", end),
    }


def _moment(written: str) -> str:
    """A date is the beginning of that day in UTC; what is neither is for the API to refuse."""
    return f"{written}T00:00:00Z" if day_of(written) else written


def _split(listed: Sequence[str]) -> list[str]:
    return [name for text in listed for one in text.split(",") if (name := one.strip())]


PAGE = Page("/usage-log", "Usage log", _show, menu="Usage log", group=SPEND, scopes=READERS, asks=PARAMETERS)
