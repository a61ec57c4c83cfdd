"""The first page: what this month costs, beside the last one, and where it goes."""

from datetime import UTC, datetime

from contracts.web.pages import Page, Shown, View, Visit
from ledger_service.pages.groups import READERS, SPEND
from ledger_service.pages.series import days, name_of, pivot

_TOP = 7


async def _show(visit: Visit) -> Shown:
    now = datetime.now(UTC)
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    asked = {"from": start.date().isoformat(), "account_id": visit.account_id}
    by_day = (await visit.api.get("/v1/usage", {**asked, "interval": "day", "group_by": "provider", "top": _TOP})).json
    month = (
        await visit.api.get("/v1/usage", {**asked, "group_by": "operation", "top": _TOP, "compare": "previous"})
    ).json
    told = {
        "month": start.strftime("%B %Y"),
        "now_totals": month["totals"],
        "before": month["previous"],
        "by_provider": pivot(by_day["rows"], "cost", days(start, datetime.fromisoformat(by_day["to"]))),
        "operations": [(name_of(row), row) for row in month["rows"]],
        "account_id": visit.account_id,
    }
    return View("overview.html", told)


PAGE = Page("/", "Overview", _show, menu="Overview", group=SPEND, scopes=READERS)
