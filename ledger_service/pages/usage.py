"""Spend and usage over time, by whatever an operation has, beside the period before."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

from contracts.limits import is_time_zone
from contracts.problem_advice import ADVICE
from contracts.web.own_api import ApiProblem, Document
from contracts.web.pages import Page, Shown, View, Visit
from ledger_service.domain.buckets import Interval, cut
from ledger_service.pages.groups import READERS, SPEND
from ledger_service.pages.problems import fields_of
from ledger_service.pages.series import NONE, OTHERS, change, name_of, pivot
from ledger_service.pages.usage_asked import (
    INTERVALS,
    MEASURES,
    PARAMETERS,
    TOPS,
    UsageAsked,
    ranges,
    read_asked,
    today_in,
    unescaped,
)

#: Names of the API's parameters → those of this page's fields.
_FIELDS: Final = {"to": "until"}
_ZERO: Final = Decimal()
#: Where nothing ended, nothing took any time.
_UNKNOWN: Final = Decimal("NaN")
#: What people call the tables that answers come from.
_SOURCES: Final = {
    "usage_daily_all": "the sums by day of all accounts",
    "usage_hourly_all": "the sums by hour of all accounts",
    "usage_hourly": "the sums by hour of each account",
    "usage_summary": "the sums of each account, by month to find the first ones, and by hour",
    "usage_log": "the usage log, row by row",
}


@dataclass(frozen=True)
class Group:
    """A row of the table of groups. ``change``: in percent, None where there was nothing before."""

    name: str
    row: Document
    before: Document | None
    share: Decimal | None
    change: Decimal | None
    within: str | None
    log: str | None


async def _show(visit: Visit) -> Shown:
    now = datetime.now(UTC)
    asked = read_asked(visit, now)
    dimensions = (await visit.api.get("/v1/usage/dimensions")).json["dimensions"]
    told = {
        "asked": asked,
        "measures": MEASURES,
        "intervals": INTERVALS,
        "tops": TOPS,
        "dimensions": [name for name in dimensions if not (name == "account" and asked.account_id)],
        "ranges": [
            (name, asked.link(start=first.isoformat(), until=last.isoformat()),
             (first.isoformat(), last.isoformat()) == (asked.start, asked.until))
            for name, (first, last) in ranges(today_in(asked.time_zone, now)).items()
        ],
        "chips": [_chip(asked, text) for text in asked.filters],
    }  # fmt: skip
    try:
        report = (await visit.api.get("/v1/usage", asked.report())).json
    except ApiProblem as error:
        if error.problem.status in (401, 403, 503):
            raise
        found = error.problem
        wrong = {"problem": found, "advice": ADVICE.get(found.code, ""), "invalid": fields_of(found, _FIELDS)}
        return View("usage.html", {**told, **wrong}, found.status)
    return View("usage.html", {**told, "invalid": frozenset[str](), **_answered(asked, report)})


def _answered(asked: UsageAsked, report: Document) -> dict[str, object]:
    start, end = (datetime.fromisoformat(report[name]) for name in ("from", "to"))
    zone = ZoneInfo(report["time_zone"]) if is_time_zone(report["time_zone"]) else ZoneInfo("UTC")
    periods = [bucket.name for bucket in cut(start, end, Interval(report["interval"]), zone)]
    return {
        "report": report,
        "table": pivot(report["rows"], asked.measure, periods, _ZERO if asked.adds_up else _UNKNOWN),
        "groups": [_group(asked, report, row) for row in report["groups"]],
        "change": _change(report["totals"], (report.get("previous") or {}).get("totals"), asked.measure),
        "before": _days_before(report, zone),
        "source": _SOURCES[report["served_from"]],
    }


def _days_before(report: Document, zone: ZoneInfo) -> tuple[date, date] | None:
    """The first and the last day of the period before."""
    if report.get("previous") is None:
        return None
    first, end = (datetime.fromisoformat(report["previous"][name]) for name in ("from", "to"))
    return first.astimezone(zone).date(), (end - timedelta(microseconds=1)).astimezone(zone).date()


def _group(asked: UsageAsked, report: Document, row: Document) -> Group:
    total = Decimal(report["totals"][asked.measure] or 0)
    amount = Decimal(row[asked.measure] or 0)
    named = {"others": None, "group": next(iter(row["group"].values()), None)}[row["kind"]]
    leads = row["kind"] == "group"
    return Group(
        name=OTHERS if not leads else NONE if named is None else name_of(row),
        row=row,
        before=row.get("previous"),
        share=100 * amount / total if asked.adds_up and total > 0 else None,
        change=_change(row, row.get("previous"), asked.measure),
        within=asked.within(named) if leads else None,
        log=asked.log_link(named, report["from"], report["to"]) if leads and named is not None else None,
    )


def _change(now: Document, before: Document | None, measure: str) -> Decimal | None:
    return None if before is None else change(now[measure] or 0, before[measure] or 0)


def _chip(asked: UsageAsked, text: str) -> tuple[str, str, str]:
    """A filter: dimension, value, and the address without it."""
    name, _, listed = text.partition(":")
    return name, unescaped(listed), asked.link(filters=tuple(one for one in asked.filters if one != text))


PAGE = Page("/usage", "Usage", _show, menu="Usage", group=SPEND, scopes=READERS, asks=PARAMETERS)
