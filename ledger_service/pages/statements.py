"""A statement: what an account used in a month, and what came late or was corrected. To look at, and to print."""

from datetime import UTC, date, datetime
from typing import Final

from contracts.problem_advice import ADVICE
from contracts.web.own_api import ApiProblem, path_of, query_of
from contracts.web.pages import Page, Shown, View, Visit
from ledger_service.domain.buckets import add_months
from ledger_service.pages.accounts_found import find_accounts
from ledger_service.pages.groups import READERS, SPEND
from ledger_service.pages.problems import fields_of

#: Months before this one that are a click away.
_MONTHS: Final = 12
#: Rows of the statement's summary: its figures, and what they are.
_SUMMARY: Final = (
    ("opening", "Booked before this month"),
    ("usage", "Usage of this month"),
    ("late", "Late: of months that were closed when it came"),
    ("corrections", "Corrections"),
    ("total", "Total of this month"),
    ("closing", "Booked up to its end"),
)
_FORMATS: Final = ("pdf", "csv", "html", "json")
_FIELDS: Final = {"path.period": "period", "path.account_id": "account_id"}


async def _show(visit: Visit) -> Shown:
    today = datetime.now(UTC).date()
    account_id, period = visit.account_id, visit.asked("period") or f"{add_months(today.replace(day=1), -1):%Y-%m}"
    told = {
        "account_id": account_id,
        "period": period,
        "months": [
            (f"{month:%B %Y}", f"{month:%Y-%m}", f"/statements?{query_of(_address(visit, f'{month:%Y-%m}'))}")
            for month in (add_months(today.replace(day=1), -back) for back in range(_MONTHS))
        ],
        "invalid": frozenset[str](),
        "statement": None,
    }
    if account_id is None:
        return View("statements.html", {**told, **await find_accounts(visit)})
    try:
        path = path_of("/v1/accounts/{account_id}/statements/{period}", account_id=account_id, period=period)
        statement = (await visit.api.get(path, {"cursor": visit.asked("cursor")})).json
    except ApiProblem as error:
        found = error.problem
        if found.status in (401, 403, 503):
            raise
        wrong = {"problem": found, "advice": ADVICE.get(found.code, ""), "invalid": fields_of(found, _FIELDS)}
        return View("statements.html", {**told, **wrong}, found.status)
    more = {**_address(visit, period), "cursor": statement["next_cursor"]} if statement["next_cursor"] else None
    return View(
        "statements.html",
        {
            **told,
            "title": f"Statement of {account_id} for {period}",
            "statement": statement,
            "summary": _SUMMARY,
            "files": [(form.upper(), f"{path}?format={form}") for form in _FORMATS],
            "more": f"/statements?{query_of(more)}" if more else None,
            "is_over": period < f"{today:%Y-%m}",
            "usage": _usage_of(visit, period),
        },
    )


def _address(visit: Visit, period: str) -> dict[str, str | None]:
    return {"account_id": visit.account_id, "period": period}


def _usage_of(visit: Visit, period: str) -> str:
    """The page of usage with the same month."""
    first = date.fromisoformat(f"{period}-01")
    last = date.fromordinal(add_months(first, 1).toordinal() - 1)
    return "/usage?" + query_of({"account_id": visit.account_id, "from": f"{first}", "until": f"{last}"})


PAGE = Page(
    "/statements",
    "Statements",
    _show,
    menu="Statements",
    group=SPEND,
    scopes=READERS,
    asks=frozenset({"account_id", "period", "prefix", "cursor"}),
)
