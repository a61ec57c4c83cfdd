"""The first page: what this month costs, beside the same days of the last one, and where it goes."""

import asyncio
from datetime import UTC, datetime, timedelta

from contracts.web.own_api import Document, query_of
from contracts.web.pages import Page, Shown, View, Visit
from ledger_service.domain.buckets import add_months
from ledger_service.pages import denials, near_limits
from ledger_service.pages.groups import READERS, SPEND
from ledger_service.pages.series import change, days, name_of, pivot

_TOP = 7
_NEAREST = 5
_DENIED = 5


async def _show(visit: Visit) -> Shown:
    start, end, before, before_end = to_date(datetime.now(UTC))
    # Nothing is there of the hours to come, and whole days are quicker to read.
    midnight = end if end.hour == 0 else end.replace(hour=0) + timedelta(days=1)
    by_day, now, earlier, denied = await asyncio.gather(
        _ask(visit, start, midnight, group_by="provider", interval="day"),
        _ask(visit, start, midnight, group_by="operation"),
        _ask(visit, before, before_end, group_by="operation"),
        denials.recent(visit, _DENIED),
    )
    amounts_before = {name_of(row): row for row in earlier["rows"]}
    # Who may look at all accounts, and looks at them.
    may_see_all = visit.account_id is None and near_limits.PAGE.opens_to(visit.principal)
    told = {
        "nearest": await near_limits.nearest(visit, _NEAREST) if may_see_all else None,
        "denied": denied,
        "start": start,
        "end": end,
        "before": before,
        "before_end": before_end,
        "totals": now["totals"],
        "totals_before": earlier["totals"],
        "by_provider": pivot(by_day["rows"], "cost", days(start, end)),
        "operations": [_operation(row, amounts_before, visit.account_id) for row in now["rows"]],
        "account_id": visit.account_id,
        "own": query_of({"account_id": visit.account_id}),
        "change": change(now["totals"]["cost"], earlier["totals"]["cost"]),
    }
    return View("overview.html", told)


async def _ask(visit: Visit, start: datetime, end: datetime, **asked: str) -> Document:
    times = {"from": start.isoformat(), "to": end.isoformat(), "account_id": visit.account_id, "top": _TOP}
    return (await visit.api.get("/v1/usage", {**times, **asked})).json


def _operation(
    row: Document, before: dict[str, Document], account_id: str | None
) -> tuple[str, Document, Document | None, str]:
    """Its name, its row, that of before, and where it is shown in full."""
    name = name_of(row)
    chosen = [f"operation:{name}"] if row["kind"] == "group" else []
    asked = {"filter": chosen, "group_by": "model", "account_id": account_id}
    return name, row, before.get(name), f"/usage?{query_of(asked)}"


def to_date(now: datetime) -> tuple[datetime, datetime, datetime, datetime]:
    """From the beginning of the month (UTC) to the end of the hour that it is, and the same of the month before: as far
    as that goes, where it is shorter. Rollups are of whole hours."""
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    earlier = add_months(start.date(), -1)
    before = start.replace(year=earlier.year, month=earlier.month)
    return start, end, before, min(before + (end - start), start)


PAGE = Page("/", "Overview", _show, menu="Overview", group=SPEND, scopes=READERS, asks=frozenset({"account_id"}))
