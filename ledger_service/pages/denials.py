"""Denials: how many, of whom and why, and each with the way to its explained decision."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from contracts.problems import broken_rule
from contracts.web.own_api import ApiProblem, Document, query_of
from contracts.web.pages import Page, Shown, View, Visit
from ledger_service.pages.groups import LIMITS, READERS
from ledger_service.pages.series import NONE, Table
from ledger_service.pages.words import moment_in

#: What can be chosen: hours back, what it is called, and the interval of the chart.
_RANGES: Final = {
    "24h": (24, "the last 24 hours", "hour"),
    "7d": (24 * 7, "the last 7 days", "hour"),
    "31d": (24 * 31, "the last 31 days", "day"),
    "90d": (24 * 90, "the last 90 days", "day"),
}
_DEFAULT: Final = "24h"
_LISTED: Final = 50
_FILTERS: Final = ("code", "limit_id", "user_id", "operation")
#: Reasons with a colour of their own.
_SERIES: Final = 7
#: What codes mean, for who does not know them.
REASONS: Final = {
    "limit_exceeded": "no room in a limit",
    "unknown_account": "account not registered",
    "unknown_plan": "plan does not exist",
    "unknown_operation": "no such operation",
    "lease_not_allowed": "no lease for this caller",
    "unpriced_model": "no price for the model",
}


async def _show(visit: Visit) -> Shown:
    now = datetime.now(UTC)
    chosen = visit.asked("range") or _DEFAULT
    filters = {name: visit.asked(name) for name in _FILTERS}
    told: dict[str, Document] = {
        "account_id": visit.account_id,
        "is_one_of_many": visit.principal.account_id is None,
        "ranges": [(name, label) for name, (_, label, _) in _RANGES.items()],
        "range": chosen,
        "filters": filters,
        "reasons": REASONS,
        "problem": None,
    }
    try:
        hours, label, interval = _range(chosen)
        asked = {"from": (now - timedelta(hours=hours)).isoformat(), "account_id": visit.account_id}
        counts = (await visit.api.get("/v1/denials:counts", {**asked, "interval": interval})).json
        asked |= {"from": counts["start"], "to": counts["end"]}
        page = (
            await visit.api.get("/v1/denials", {**asked, **filters, "cursor": visit.asked("cursor"), "limit": _LISTED})
        ).json
    except ApiProblem as error:
        if error.problem.status != 422:
            raise
        return View("denials.html", {**told, "problem": error.problem}, 422)
    return View("denials.html", {**told, "label": label, "interval": interval, **_counted(counts), **_listed(page)})


async def recent(visit: Visit, count: int) -> Sequence[Document]:
    """The newest few of the last 24 hours, of the account that the visit is about, else of all, for other pages."""
    page = (await visit.api.get("/v1/denials", {"account_id": visit.account_id, "limit": count})).json
    return [{**one, "reason": name_of_reason(one["code"], one["limit_id"])} for one in _listed(page)["items"]]


def _range(chosen: str) -> tuple[int, str, str]:
    if chosen not in _RANGES:
        raise ApiProblem(broken_rule("query.range", "enum", f"one of {', '.join(_RANGES)}").problem)
    return _RANGES[chosen]


def _counted(counts: Document) -> dict[str, Document]:
    rows = counts["rows"]
    by_reason: dict[tuple[str | None, str | None], int] = {}
    for row in rows:
        reason = row["code"], row["limit_id"]
        by_reason[reason] = by_reason.get(reason, 0) + row["denials"]
    ranked = sorted(by_reason, key=lambda reason: (-by_reason[reason], str(reason)))
    return {
        "table": _pivot(rows, ranked[:_SERIES], _periods(counts)),
        "by_reason": [(code, limit_id, by_reason[code, limit_id]) for code, limit_id in ranked],
        "by_account": counts["accounts"],
        "total": sum(by_reason.values()),
    }


def _pivot(rows: Sequence[Document], shown: Sequence[tuple[str | None, str | None]], periods: Sequence[str]) -> Table:
    """A row a period, a column a reason; those with fewest together."""
    columns = {reason: place for place, reason in enumerate(shown)}
    others = any((row["code"], row["limit_id"]) not in columns for row in rows)
    width = len(shown) + others
    cells = {period: [Decimal()] * width for period in periods}
    for row in rows:
        place = columns.get((row["code"], row["limit_id"]), len(shown))
        cells[_name(moment_in(row["period"]))][place] += row["denials"]
    names = [name_of_reason(code, limit_id) for code, limit_id in shown] + ["all others"] * others
    totals = [sum((amounts[place] for amounts in cells.values()), Decimal()) for place in range(width)]
    return Table(names, periods, list(cells.values()), totals)


def name_of_reason(code: str | None, limit_id: str | None) -> str:
    """``images`` for a limit without room, else what the code means."""
    if code == "limit_exceeded" and limit_id:
        return f"limit {limit_id}"
    named = REASONS.get(code or "", code or NONE)
    return f"{named} ({limit_id})" if limit_id else named


def _periods(counts: Document) -> list[str]:
    """All that there are, also those without a denial."""
    step = timedelta(hours=1) if counts["interval"] == "hour" else timedelta(days=1)
    moment, end, names = moment_in(counts["start"]), moment_in(counts["end"]), []
    while moment < end:
        names.append(_name(moment))
        moment += step
    return names


def _name(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def _listed(page: Document) -> dict[str, Document]:
    items = [
        {**one, "decision": f"/decisions/{one['operation_id']}?{query_of({'account_id': one['account_id']})}"}
        for one in page["items"]
    ]
    return {"items": items, "next_cursor": page["next_cursor"]}


PAGE = Page(
    "/denials",
    "Denials",
    _show,
    menu="Denials",
    group=LIMITS,
    scopes=READERS,
    asks=frozenset({"range", "account_id", *_FILTERS, "cursor"}),
)
