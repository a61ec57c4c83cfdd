"""`ledger backtest`: what proposed limits would have denied, on the command line."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import ValidationError
from rich.table import Table

from contracts.backtests import Backtest, BacktestDay, BacktestResult, BacktestTotals, BacktestUser
from contracts.limits import Plan
from contracts.money import format_nanos
from contracts.problems import FieldError, ProblemError, field_errors
from ledger_service.backtesting import run_backtest
from ledger_service.commands.database import messages, moment, output, own_settings, shown, stop, stop_at, with_database
from ledger_service.commands.json_output import AsJson, write_json
from ledger_service.commands.progress import watched

BAR_WIDTH: Final = 24
USERS_SHOWN: Final = 20
_TITLES: Final = ("operations", "cost $", "would deny", "units saved", "cost saved $")


def backtest(
    start: Annotated[str, typer.Option("--from", help="2026-11-01, or RFC 3339; inclusive.")],
    end: Annotated[str, typer.Option("--to", help="The same, exclusive.")],
    plan: Annotated[Path | None, typer.Option("--plan", help="A JSON file with the proposed plan.")] = None,
    plan_id: Annotated[str | None, typer.Option("--plan-id", help="Or a plan that the ledger has.")] = None,
    account_id: Annotated[
        str | None, typer.Option("--account", "--account-id", help="Of one account; default: all.")
    ] = None,
    include_denied: Annotated[
        bool, typer.Option("--include-denied", help="Also replay what was denied at that time.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What would a plan have denied? Replays the usage log against it, and changes nothing.

    Exit 0 with the answer; 1 where the database, the plan or the account cannot be had; 2 for wrong options.
    """
    if (plan is None) == (plan_id is None):
        raise typer.BadParameter("give either --plan or --plan-id")
    wanted = _request(
        {
            "from": moment(start),
            "to": moment(end),
            "plan": None if plan is None else _read(plan),
            "plan_id": plan_id,
            "account_id": account_id,
            "include_denied": include_denied,
        }
    )
    try:
        result = with_database(lambda _: watched(run_backtest(own_settings().database_url, wanted)))
    except ProblemError as error:
        raise stop(error.problem.detail) from None
    if as_json:
        write_json({"result": result})
        return
    _show(result)


def _read(file: Path) -> Plan:
    try:
        return Plan.model_validate_json(file.read_bytes())
    except OSError as error:
        raise stop(f"cannot read {file}: {error.strerror or error}") from None
    except ValidationError as error:
        raise stop_at(field_errors(error), f"{file} is no plan") from None


def _request(fields: dict[str, datetime | Plan | str | bool | None]) -> Backtest:
    try:
        return Backtest.model_validate(fields)
    except ValidationError as error:
        errors = field_errors(error)
        if any(one.field.startswith("plan") and one.field != "plan_id" for one in errors):
            raise stop_at(errors, "the plan cannot be replayed") from None
        raise typer.BadParameter("; ".join(_told(one) for one in errors)) from None


def _told(error: FieldError) -> str:
    return f"{error.field}: {error.message}" if error.field else error.message


def _show(result: BacktestResult) -> None:
    screen, total = output(), result.total
    tried = "the plan" if result.plan_id is None else f"{result.plan_id} (version {result.plan_version})"
    screen.print(
        f"{tried}, from {shown(result.start)} until before {shown(result.end)}, UTC: of {total.operations} operations "
        f"it denies {total.would_deny} and saves ${format_nanos(total.cost_saved)} of ${format_nanos(total.cost)}",
        highlight=False,
    )
    if total.denied_then is not None:
        then = total.denied_then
        screen.print(
            f"of {then.operations} that were denied then it allows {then.would_allow}, "
            f"which asked for ${format_nanos(then.cost_added)}",
            highlight=False,
        )
    if total.by_limit:
        screen.print(_by_limit(total))
    if result.by_day:
        screen.print(_by_day(result.by_day))
        screen.print(_by_user(result.by_user[:USERS_SHOWN]))
    if result.users > USERS_SHOWN:
        more = result.users - USERS_SHOWN
        messages().print(f"and {more} more users; of all {result.users}, {result.users_denied} are denied something")


def _by_limit(total: BacktestTotals) -> Table:
    table = _table("limit", numbers=_TITLES[2:])
    for one in total.by_limit:
        name = one.limit_id or one.code
        table.add_row(name, str(one.would_deny), str(one.units_saved), format_nanos(one.cost_saved))
    return table


def _by_day(days: list[BacktestDay]) -> Table:
    table = _table("day", numbers=_TITLES)
    table.add_column("denied")
    most = max(day.would_deny for day in days)
    for day in days:
        table.add_row(day.day.isoformat(), *_numbers(day), _bar(day.would_deny, most))
    return table


def _by_user(users: list[BacktestUser]) -> Table:
    table = _table("account", "user", numbers=_TITLES)
    for user in users:
        table.add_row(user.account_id, user.user_id, *_numbers(user))
    return table


def _table(*names: str, numbers: tuple[str, ...]) -> Table:
    table = Table(*names)
    for title in numbers:
        table.add_column(title, justify="right")
    return table


def _numbers(totals: BacktestTotals) -> tuple[str, ...]:
    saved = str(totals.units_saved), format_nanos(totals.cost_saved)
    return (str(totals.operations), format_nanos(totals.cost), str(totals.would_deny), *saved)


def _bar(denied: int, most: int) -> str:
    """At least one block for any that were denied, so that no day looks free of them."""
    return "█" * -(-denied * BAR_WIDTH // most) if most else ""
