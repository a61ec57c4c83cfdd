"""A bar for work that goes on account by account, and its result."""

from collections.abc import AsyncIterator
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from contracts.backtests import BacktestProgress
from contracts.repricings import RepricingProgress
from ledger_service.commands.database import messages

Result = TypeVar("Result")


async def watched(steps: AsyncIterator[BacktestProgress | RepricingProgress | Result]) -> Result:
    """Shows the steps, on a terminal only, and gives back the result that they end with."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    screen = messages()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bar = progress.add_task("counting", total=None)
        async for step in steps:
            if not isinstance(step, BacktestProgress | RepricingProgress):
                return step
            progress.update(bar, description=step.account_id or "counting", completed=step.done, total=step.of)
    raise AssertionError("unreachable: the steps end with the result")
