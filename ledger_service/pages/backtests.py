"""A proposed plan tried on what was used: whom it would have stopped, and what that would have saved."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

import orjson

from contracts.problems import QUERY_TOO_LARGE, Problem, ProblemError, broken_rule
from contracts.web.own_api import ApiProblem, Document
from contracts.web.pages import Visit
from ledger_service.domain.buckets import day_of
from ledger_service.pages.denials import name_of_reason
from ledger_service.pages.series import Table

DAYS: Final = (1, 7, 30, 90)
_DAYS_DEFAULT: Final = 7
#: A page waits so long; what takes longer is for the command line.
SECONDS_MAX: Final = 60
_SHOWN: Final = 20
_SERIES: Final = 7


@dataclass(frozen=True)
class Trial:
    """What to try on, and what came of it: ``result`` as the API has it, None before it was tried."""

    account_id: str
    days: str
    include_denied: bool
    result: Document | None = None
    by_day: Table | None = None
    users: Sequence[Document] = ()
    accounts: Sequence[Document] = ()
    #: Limits that no backtest replays.
    left_out: Sequence[str] = ()


def read_trial(visit: Visit) -> Trial:
    """As the form says."""
    days = visit.given("days") or str(_DAYS_DEFAULT)
    return Trial(visit.given("account_id") or visit.asked("account_id"), days, bool(visit.given("include_denied")))


async def try_out(visit: Visit, plan: Document, trial: Trial) -> Trial:
    """Replays the last days against the plan. Raises ApiProblem."""
    if trial.days not in map(str, DAYS):
        raise ApiProblem(broken_rule("days", "enum", f"one of {', '.join(map(str, DAYS))}").problem)
    now = datetime.now(UTC)
    start = day_of(now - timedelta(days=int(trial.days) - 1))
    asked: Document = {"from": start.isoformat(), "to": now.isoformat(), "include_denied": trial.include_denied}
    asked["plan"] = {**plan, "limits": [limit for limit in plan["limits"] if not limit["credit"]]}
    if trial.account_id:
        asked["account_id"] = trial.account_id
    result = await _replayed(visit, asked)
    days = [(start + timedelta(days=number)).date().isoformat() for number in range(int(trial.days))]
    return Trial(
        trial.account_id,
        trial.days,
        trial.include_denied,
        result,
        _by_day(result["by_day"], days),
        [one for one in result["by_user"] if one["would_deny"]][:_SHOWN],
        [one for one in result["by_account"] if one["would_deny"]][:_SHOWN],
        [limit["limit_id"] for limit in plan["limits"] if limit["credit"]],
    )


async def _replayed(visit: Visit, asked: Document) -> Document:
    try:
        answer = await asyncio.wait_for(visit.api.send("POST", "/v1/limits:backtest", asked), SECONDS_MAX)
    except TimeoutError:
        message = (
            f"the replay takes longer than {SECONDS_MAX} seconds: try fewer days, one account, or `ledger backtest`"
        )
        raise ApiProblem(ProblemError(QUERY_TOO_LARGE, message).problem) from None
    last = orjson.loads(answer.content.rstrip(b"\n").rpartition(b"\n")[2])
    if "problem" in last:
        raise ApiProblem(Problem.model_validate(last["problem"]))
    return last["result"]


def _by_day(rows: Sequence[Document], days: Sequence[str]) -> Table:
    """What would have been denied: a row a day, a column a limit."""
    sums: dict[tuple[str, str | None], int] = {}
    for row in rows:
        for one in row["by_limit"]:
            reason = one["code"], one["limit_id"]
            sums[reason] = sums.get(reason, 0) + one["would_deny"]
    shown = sorted(sums, key=lambda reason: (-sums[reason], str(reason)))[:_SERIES]
    others = len(sums) > len(shown)
    cells = {day: [Decimal()] * (len(shown) + others) for day in days}
    for row in rows:
        for one in row["by_limit"]:
            reason = one["code"], one["limit_id"]
            # Days of UTC by admission: one that was admitted the day before may be among them.
            amounts = cells.setdefault(row["day"], [Decimal()] * (len(shown) + others))
            amounts[shown.index(reason) if reason in shown else len(shown)] += one["would_deny"]
    names = [name_of_reason(*reason) for reason in shown] + ["all others"] * others
    ordered = sorted(cells)
    totals = [sum((cells[day][place] for day in ordered), Decimal()) for place in range(len(names))]
    return Table(names, ordered, [cells[day] for day in ordered], totals)
