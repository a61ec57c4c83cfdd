"""What the address of the page of usage asks for, in dates and words, and the questions to the API that it becomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from contracts.limits import is_time_zone
from contracts.web.own_api import Parameters, query_of
from contracts.web.pages import Visit
from ledger_service.domain.buckets import add_months
from ledger_service.pages.days import DAY, day_of

#: Measures in the order in which they are offered: name, what people call it, unit, whether groups add up.
MEASURES: Final[Mapping[str, tuple[str, str, bool]]] = {
    "cost": ("Cost", "$", True),
    "calls": ("Operations completed", "operations", True),
    "units": ("Units", "units", True),
    "failures": ("Operations failed", "operations", True),
    "duration_p50": ("Duration, half took no longer", "ms", False),
    "duration_p95": ("Duration, 95 % took no longer", "ms", False),
}
INTERVALS: Final = ("auto", "hour", "day", "week", "month")
TOPS: Final = (5, 7, 10, 20, 50)
TOP: Final = 7
#: What the address may have.
PARAMETERS: Final = frozenset(
    {
        "from", "until", "interval", "group_by", "measure", "compare", "top", "time_zone", "account_id", "filter",
        "filter_by", "filter_value",
    }
)  # fmt: skip
#: A chart of more points is a blur: the next longer interval is shown, and said.
POINTS_MAX: Final = 400
_HOURS: Final = {"hour": 1, "day": 24, "week": 24 * 7, "month": 24 * 28}
#: Where a group leads: to the first of these that it is not confined to yet.
_DEEPER: Final = ("account", "operation", "provider", "model", "user")
#: Dimension → the parameter of the usage log.
LOG_FILTERS: Final = {
    "operation": "operation", "provider": "provider", "model": "model", "user": "user_id", "project": "project_id",
    "api_key": "api_key_id", "outcome": "outcome", "endpoint": "endpoint",
}  # fmt: skip


@dataclass(frozen=True)
class UsageAsked:
    """``start`` and ``until``: the first and the last day, both included, as they were written. ``filters``: each as
    DIMENSION:VALUE, a comma in a value with a backslash before it."""

    start: str
    until: str
    interval: str = "auto"
    group_by: str = "operation"
    measure: str = "cost"
    filters: tuple[str, ...] = ()
    account_id: str | None = None
    time_zone: str = "UTC"
    compares: bool = True
    top: int = TOP

    @property
    def unit(self) -> str:
        return MEASURES[self.measure][1]

    @property
    def adds_up(self) -> bool:
        return MEASURES[self.measure][2]

    @property
    def is_special(self) -> bool:
        """Whether anything is chosen of what is folded away until somebody wants it."""
        return bool(self.filters) or (self.top, self.time_zone, self.compares) != (TOP, "UTC", True)

    @property
    def shown_interval(self) -> str:
        """The one that was asked for, or a longer one where that has too many points."""
        days = self._days()
        wanted = self.interval
        if wanted == "auto":
            wanted = "hour" if days <= 2 else "day" if days <= 92 else "week" if days <= 400 else "month"
        for name in INTERVALS[INTERVALS.index(wanted) :]:
            if days * 24 / _HOURS[name] <= POINTS_MAX:
                return name
        return "month"

    def report(self) -> Parameters:
        """The question of the chart and of the table of groups, in one."""
        return {**self._series(), "groups": "true", "compare": "previous" if self.compares else None}

    def download(self, form: str) -> str:
        """The query of the same as a file, by interval."""
        return query_of({**self._series(), "format": form})

    def link(self, **changes: object) -> str:
        """The address of this page with something else asked."""
        other = replace(self, **changes)  # type: ignore[arg-type]  # its own fields, by name
        return "/usage?" + query_of(
            {
                "from": other.start,
                "until": other.until,
                "interval": other.interval if other.interval != "auto" else None,
                "group_by": other.group_by,
                "measure": other.measure,
                "filter": list(other.filters),
                "account_id": other.account_id,
                "time_zone": other.time_zone if other.time_zone != "UTC" else None,
                "compare": None if other.compares else "none",
                "top": other.top if other.top != TOP else None,
            }
        )

    def within(self, value: str | None) -> str:
        """The address of this page confined to one group, by something else."""
        chosen = tuple(dict.fromkeys((*self.filters, f"{self.group_by}:{escaped(value or '')}")))
        taken = {one.partition(":")[0] for one in chosen} | ({"account"} if self.account_id else set())
        return self.link(filters=chosen, group_by=next((name for name in _DEEPER if name not in taken), "user"))

    def log_link(self, value: str | None, start: str, end: str) -> str | None:
        """The address of the usage log with the rows of one group from one moment to another; None where the log cannot
        be confined to that."""
        chosen = [*self.filters, f"{self.group_by}:{escaped(value or '')}"]
        account_id, asked = self.account_id, dict[str, list[str]]()
        for one in chosen:
            name, _, listed = one.partition(":")
            if name == "account" and "," not in listed:
                account_id = listed
            elif name in LOG_FILTERS and listed and "," not in listed and "\\" not in listed:
                asked[LOG_FILTERS[name]] = [listed]
            else:
                return None
        if account_id is None:
            return None
        return "/usage-log?" + query_of({"account_id": account_id, "from": start, "to": end, **asked})

    def _series(self) -> Parameters:
        return {**self._asked(), "interval": self.shown_interval}

    def _asked(self) -> dict[str, str | int | Sequence[str] | None]:
        sums = "calls,units,cost,failures"
        return {
            "from": self.start,
            "to": day_after(self.until),
            "group_by": self.group_by,
            "measures": sums if self.adds_up else f"{sums},{self.measure}",
            "order_by": self.measure,
            "filter": list(self.filters),
            "account_id": self.account_id,
            "time_zone": self.time_zone,
            "top": self.top,
        }

    def _days(self) -> int:
        first, last = day_of(self.start), day_of(self.until)
        return (last - first).days + 1 if first and last else 1


def read_asked(visit: Visit, now: datetime) -> UsageAsked:
    """What the address says, with what it leaves out filled in; dates that are none are for the API to refuse."""
    zone = visit.asked("time_zone") or "UTC"
    today = now.astimezone(_zone(zone)).date()
    filters = [text for one in visit.asked_all("filter") if (text := one.strip())]
    if visit.asked("filter_by") and visit.asked("filter_value"):
        filters.append(f"{visit.asked('filter_by')}:{escaped(visit.asked('filter_value'))}")
    top = visit.asked("top")
    return UsageAsked(
        start=visit.asked("from") or today.replace(day=1).isoformat(),
        until=visit.asked("until") or today.isoformat(),
        interval=_one_of(visit.asked("interval"), INTERVALS),
        group_by=visit.asked("group_by") or "operation",
        measure=_one_of(visit.asked("measure"), tuple(MEASURES)),
        filters=tuple(dict.fromkeys(filters)),
        account_id=visit.account_id,
        time_zone=zone,
        compares=visit.asked("compare") != "none",
        top=int(top) if top in map(str, TOPS) else TOP,
    )


def ranges(today: date) -> dict[str, tuple[date, date]]:
    """Handy ones: name → first and last day."""
    month = today.replace(day=1)
    return {
        "Today": (today, today),
        "Last 7 days": (today - timedelta(days=6), today),
        "Last 30 days": (today - timedelta(days=29), today),
        "This month": (month, today),
        "Last month": (add_months(month, -1), month - timedelta(days=1)),
        "Last 3 months": (add_months(month, -2), today),
        "Last 12 months": (add_months(month, -11), today),
    }


def today_in(zone: str, now: datetime) -> date:
    """The date that it is in a time zone; in UTC where there is no such zone."""
    return now.astimezone(_zone(zone)).date()


def day_after(written: str) -> str:
    """The day after a date, at which a range that includes it ends; what is no date stays as it is."""
    day = day_of(written)
    return written if day is None else (day + DAY).isoformat()


def escaped(value: str) -> str:
    """A value as filters of the API take it: its commas are no separators."""
    return value.replace("\\", "\\\\").replace(",", "\\,")


def unescaped(listed: str) -> str:
    """For people to read."""
    return listed.replace("\\,", ",").replace("\\\\", "\\") or "none"


def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name) if is_time_zone(name) else ZoneInfo("UTC")


def _one_of(wanted: str, known: Sequence[str]) -> str:
    """The wanted one, or the first."""
    return wanted if wanted in known else known[0]
